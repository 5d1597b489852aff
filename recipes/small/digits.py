"""Digit clips: a handwritten digit that moves, while a voice says it."""

import io
from pathlib import Path

import numpy as np
import soxr
from PIL import Image

from .common import FRAMES, SAMPLE_RATE, SAMPLES, SIDE, chance, log_uniform
from .films import Films
from .pack import Pack
from .photos import Photos, gradient
from .sounds import Sounds, at_level

AFFINE, BICUBIC = Image.Transform.AFFINE, Image.Resampling.BICUBIC
TEST_IMAGES = 100  # of each digit, the last ones (the file is sorted by digit)
SMALLEST, LARGEST = 16, 56  # side of the drawn digit, pixels
# White on black, coloured on plain, over pictures, over noise or gradient.
STYLES_TRAIN = [0.50, 0.15, 0.20, 0.15]
STYLES_TEST = [0.60, 0.15, 0.15, 0.10]
COMPRESSED = 0.2  # share of clips that went through JPEG
WITH_BACKGROUND = 0.3  # share of clips with a sound under the voice
GROUPS = {"espeak English": 0.45, "flite": 0.2, "espeak other languages": 0.2, "recorded": 0.15}


def load_images(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Handwritten digits (n, 28, 28) and their labels; none where there is no such file."""
    if not path.exists():
        return np.zeros((0, 28, 28), np.uint8), np.zeros(0, np.uint8)
    with np.load(path) as data:
        images, labels = sorted((data[key] for key in data.files), key=lambda array: -array.ndim)
    return images.reshape(-1, 28, 28), labels


class Digits:
    """Images and voices of one side of the split, with pictures and sounds to put under them."""

    def __init__(
        self, images: Path, spoken: Path, films: Films, photos: Photos, sounds: Sounds, split: str
    ):
        all_images, labels = load_images(images)
        part = slice(-TEST_IMAGES, None) if split == "test" else slice(None, -TEST_IMAGES)
        chosen = np.concatenate([np.flatnonzero(labels == digit)[part] for digit in range(10)])
        self.images, self.labels = all_images[chosen], labels[chosen]
        self.films, self.photos, self.sounds = films, photos, sounds
        self.spoken = Pack(spoken)
        self.voices = {
            (group, digit): self.spoken.where(split=split, group=group, digit=digit)
            for group in GROUPS
            for digit in range(10)
        }
        self.test = split == "test"

    def clip(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, int, str]:
        """A random clip: frames, sound, digit, and the group of voices heard."""
        index = rng.integers(len(self.images))
        label = int(self.labels[index])
        mask = self._moving(self.images[index], rng)
        style = rng.choice(4, p=STYLES_TEST if self.test else STYLES_TRAIN)
        video = self._paint(mask, style, rng)
        if chance(rng, COMPRESSED):
            video = _compress(video, int(rng.integers(30, 91)))
        sound, group = self._say(label, rng)
        return video, sound, label, group

    def _moving(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """The digit's coverage (0 to 1) in each frame."""
        time = np.linspace(0, 1, FRAMES)
        motion = rng.choice(["bounce", "still", "zoom"], p=[0.6, 0.2, 0.2])
        size = np.full(FRAMES, rng.uniform(SMALLEST, LARGEST))
        if motion == "zoom":
            size = np.clip(size * log_uniform(rng, 0.6, 1.6) ** time, SMALLEST, LARGEST)
        # The centre runs straight and is mirrored at the borders that keep the digit inside.
        low, high = size.max() * 0.45, SIDE - size.max() * 0.45
        speed = rng.normal(0, 1.3, 2) if motion == "bounce" else np.zeros(2)
        span = high - low
        path = rng.uniform(0, span, 2) + speed * np.arange(FRAMES)[:, None]
        centre = low + span - np.abs(np.mod(path, 2 * span) - span)
        angle, shear = np.deg2rad(rng.uniform(-15, 15)), rng.uniform(-0.2, 0.2)
        turn = np.deg2rad(rng.normal(0, 5)) * (time - 0.5) if chance(rng, 0.3) else np.zeros(FRAMES)
        # Bring the digit (with an empty rim) to its largest size once, antialiased; then move it.
        side = round(size.max() * 32 / 28)
        drawn = Image.fromarray(np.pad(image, 2)).resize((side, side), BICUBIC)
        out = np.empty((FRAMES, SIDE, SIDE), np.float32)
        for i in range(FRAMES):
            scale = size.max() / size[i]
            cosine, sine = np.cos(angle + turn[i]) * scale, np.sin(angle + turn[i]) * scale
            a, b, c, d = cosine + shear * sine, -sine + shear * cosine, sine, cosine
            x, y = centre[i]
            matrix = (a, b, side / 2 - a * x - b * y, c, d, side / 2 - c * x - d * y)
            moved = drawn.transform((SIDE, SIDE), AFFINE, matrix, BICUBIC)
            out[i] = np.asarray(moved)
        return out / 255

    def _paint(self, mask: np.ndarray, style: int, rng: np.random.Generator) -> np.ndarray:
        mask = mask[..., None]
        if style == 0:
            ground, colour = np.zeros(3), np.full(3, 255.0)
        elif style == 1:
            ground, colour = _contrasting(rng)
        elif style == 2:
            # Films of the test side are few: they are kept for their own clips.
            film = not self.test and chance(rng, 0.5)
            ground = (
                self.films.clip(rng)[0]
                if film and self.films.frames
                else self.photos.background(rng)
            )
            ground, colour = ground * rng.uniform(0.2, 0.6), rng.uniform(190, 255, 3)
        else:
            if chance(rng, 0.5):
                ground = np.asarray(gradient(rng, SIDE, SIDE), np.float32)
            else:
                cells = int(rng.integers(3, 17))
                coarse = rng.integers(0, 256, (cells, cells, 3), dtype=np.uint8)
                smooth = Image.fromarray(coarse).resize((SIDE, SIDE), BICUBIC)
                ground = np.asarray(smooth, np.float32)
            dark = chance(rng, 0.5)
            ground = ground * 0.45 if dark else 140 + ground * 0.45
            ground = ground + rng.normal(0, rng.uniform(0, 12), (FRAMES, SIDE, SIDE, 1))
            colour = rng.uniform(190, 255, 3) if dark else rng.uniform(0, 70, 3)
        pixels = ground * (1 - mask) + colour * mask
        return np.clip(pixels + 0.5, 0, 255).astype(np.uint8)

    def _say(self, label: int, rng: np.random.Generator) -> tuple[np.ndarray, str]:
        names = [name for name in GROUPS if self.voices[name, label]]
        if not names:
            return self.sounds.clip(rng), "no voice"
        share = np.array([GROUPS[name] for name in names])
        group = names[rng.choice(len(names), p=share / share.sum())]
        indices = self.voices[group, label]
        word = self.spoken[indices[rng.integers(len(indices))]].astype(np.float32) / 32768
        if not self.test:  # further voices: faster and higher, or slower and lower
            word = soxr.resample(word, SAMPLE_RATE * rng.uniform(0.92, 1.12), SAMPLE_RATE)
        word = at_level(word, log_uniform(rng, 0.03, 0.3))
        # Anywhere; at most a tenth of the word may be cut off at the end.
        start = rng.integers(0, max(1, SAMPLES - int(0.9 * len(word))))
        sound = np.zeros(SAMPLES, np.float32)
        heard = word[: SAMPLES - start]
        sound[start : start + len(heard)] = heard
        if chance(rng, WITH_BACKGROUND):
            below = 10 ** (-rng.uniform(10, 25) / 20)
            sound += self.sounds.background(rng) * np.sqrt((word**2).mean()) * below
        return sound, group


def _contrasting(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Two colours, far apart in brightness."""
    while True:
        first, second = rng.uniform(0, 255, 3), rng.uniform(0, 255, 3)
        if abs(first.mean() - second.mean()) > 80:
            return first, second


def _compress(video: np.ndarray, quality: int) -> np.ndarray:
    out = np.empty_like(video)
    for i, frame in enumerate(video):
        buffer = io.BytesIO()
        Image.fromarray(frame).save(buffer, "JPEG", quality=quality)
        out[i] = np.asarray(Image.open(buffer))
    return out
