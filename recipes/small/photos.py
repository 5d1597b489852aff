"""Photographs: gather them from the packages, then move a camera over them.

Two sorts: `photo` (a full picture) and `stamp` (an object cut out, with transparency).
"""

import io
import re
import struct
from pathlib import Path

import numpy as np
from PIL import Image

from .common import FRAMES, SIDE, chance, held_out, jitter_colours, log_uniform
from .pack import Pack, has_pack, save_pack

PHOTO_SIDE = 320  # short side kept of a photograph
STAMP_SIDE = 200
FLAT = 10.0  # a clip that differs less from its mean colour (plain ground only) is drawn again
SMALLEST = 120  # pictures with a shorter side than this are left out
TUXPAINT, GCOMPRIS, MATE = "tuxpaint-stamps-default", "gcompris-qt-data", "mate-backgrounds"
# Activities of gcompris whose pictures are photographs (the others are drawings).
GCOMPRIS_PHOTOS = [
    "categorization",
    "clickgame",
    "details",
    "erase",
    "explore_farm_animals",
    "explore_monuments",
    "explore_world_animals",
    "explore_world_music",
    "leftright",
    "louis-braille",
    "solar_system",
]
AFFINE, BICUBIC = Image.Transform.AFFINE, Image.Resampling.BICUBIC


def carve(resource: Path, magic: bytes) -> list[bytes]:
    """Files that start with `magic` inside a Qt resource file.

    Such a file stores each entry as its length (4 bytes, big-endian) and its bytes.
    """
    data, found, end = resource.read_bytes(), [], 0
    for match in re.finditer(magic, data, re.DOTALL):
        start = match.start()
        length = struct.unpack(">I", data[start - 4 : start])[0]
        if start >= end and 2000 < length <= len(data) - start:
            found.append(data[start : start + length])
            end = start + length
    return found


def gather_photos(unpacked: Path, path: Path) -> None:
    """Decode all photographs and stamps into one pack."""
    if has_pack(path):
        return
    arrays, notes = [], []

    def keep(name: str, package: str, file) -> None:
        try:
            picture = Image.open(file).convert("RGBA")
        except (OSError, ValueError):
            return
        if min(picture.size) < SMALLEST:
            return
        transparent = np.asarray(picture)[..., 3].min() < 128
        scale = (STAMP_SIDE if transparent else PHOTO_SIDE) / min(picture.size)
        if scale < 1:
            size = (round(picture.width * scale), round(picture.height * scale))
            picture = picture.resize(size, Image.Resampling.LANCZOS)
        arrays.append(np.asarray(picture if transparent else picture.convert("RGB")))
        notes.append(
            {
                "name": name,
                "package": package,
                "sort": "stamp" if transparent else "photo",
                "split": "test" if held_out(name) else "train",
            }
        )

    stamps = unpacked / TUXPAINT / "usr/share/tuxpaint/stamps"
    for file in sorted(stamps.rglob("*.png")):
        name = file.relative_to(stamps).as_posix()
        if "cartoon" not in name and not name.startswith("symbols"):
            keep(name, TUXPAINT, file)
    for activity in GCOMPRIS_PHOTOS:
        resource = unpacked / GCOMPRIS / f"usr/share/gcompris-qt/rcc/{activity}.rcc"
        if resource.exists():
            for number, data in enumerate(carve(resource, rb"RIFF....WEBP")):
                keep(f"{activity}/{number}", GCOMPRIS, io.BytesIO(data))
    for file in sorted((unpacked / MATE / "usr/share/backgrounds/mate/nature").glob("*.jpg")):
        keep(file.name, MATE, file)
    save_pack(path, arrays, notes)


def gradient(rng: np.random.Generator, width: int, height: int) -> Image.Image:
    """A plain colour (half of the time) or a slanting gradient between two."""
    first, second = rng.integers(0, 256, 3), rng.integers(0, 256, 3)
    if chance(rng, 0.5):
        second = first
    angle = rng.uniform(0, 2 * np.pi)
    x, y = np.linspace(-0.5, 0.5, width), np.linspace(-0.5, 0.5, height)[:, None]
    share = np.clip(0.5 + x * np.cos(angle) + y * np.sin(angle), 0, 1)[..., None]
    return Image.fromarray((first * (1 - share) + second * share).astype(np.uint8))


def pan(picture: Image.Image, rng: np.random.Generator) -> np.ndarray:
    """A smooth camera path (shift, zoom, rotation) over a picture; sub-pixel accurate."""
    still = chance(rng, 0.12)
    time = np.linspace(0, 1, FRAMES)
    if chance(rng, 0.4):
        time = time * time * (3 - 2 * time)  # starts and ends gently
    angle = rng.normal(0, 4) + (0 if still else rng.normal(0, 5)) * (time - 0.5)
    angle = np.deg2rad(angle) if chance(rng, 0.7) else np.zeros(FRAMES)
    # The view's side in picture pixels. It must fit into the picture even when rotated.
    short = min(picture.size)
    view = (
        log_uniform(rng, 0.3, 0.95)
        * short
        * (1.0 if still else log_uniform(rng, 0.75, 1.33)) ** time
    )
    spread = np.abs(np.cos(angle)) + np.abs(np.sin(angle))
    view = view * min(1.0, (0.98 * short / (view * spread)).min())
    half = view * spread / 2
    # The path of the centre; where the view would leave the picture it slides along the edge.
    direction = rng.uniform(0, 2 * np.pi)
    travel = 0 if still else abs(rng.normal(0, 0.35)) * view.mean()
    x = rng.uniform(0, picture.width) + travel * np.cos(direction) * (time - 0.5)
    y = rng.uniform(0, picture.height) + travel * np.sin(direction) * (time - 0.5)
    x, y = np.clip(x, half, picture.width - half), np.clip(y, half, picture.height - half)
    # First shrink the picture (antialiased) so that the moves happen at about one to one.
    shrink = min(1.0, SIDE / view.min() * 1.1)
    if shrink < 1:
        size = (max(1, round(picture.width * shrink)), max(1, round(picture.height * shrink)))
        x, y, view = x * size[0] / picture.width, y * size[1] / picture.height, view * shrink
        picture = picture.resize(size, BICUBIC)
    out = np.empty((FRAMES, SIDE, SIDE, 3), np.uint8)
    for i in range(FRAMES):
        seen = _affine(x[i], y[i], view[i] / SIDE, angle[i], SIDE / 2, SIDE / 2)
        out[i] = np.asarray(picture.transform((SIDE, SIDE), AFFINE, seen, BICUBIC))
    return out


def _affine(x, y, scale, angle, at_x, at_y) -> tuple:
    """Pillow's output-to-input map that shows the input's point (x, y) at (at_x, at_y)."""
    cosine, sine = scale * np.cos(angle), scale * np.sin(angle)
    return (
        cosine,
        -sine,
        x - cosine * at_x + sine * at_y,
        sine,
        cosine,
        y - sine * at_x - cosine * at_y,
    )


def moving_layer(picture: Image.Image, size: float, rng: np.random.Generator) -> list[Image.Image]:
    """The picture, `size` pixels long, moving over a transparent clip."""
    scale = size / max(picture.size)
    picture = picture.resize(
        (max(4, round(picture.width * scale)), max(4, round(picture.height * scale))), BICUBIC
    )
    # A transparent rim keeps the edges soft when the picture lies between pixels.
    framed = Image.new(picture.mode, (picture.width + 4, picture.height + 4))
    framed.paste(picture, (2, 2))
    time = np.linspace(-0.5, 0.5, FRAMES)
    x = rng.uniform(16, 48) + rng.normal(0, 18) * time
    y = rng.uniform(16, 48) + rng.normal(0, 18) * time
    grow = log_uniform(rng, 0.8, 1.25) ** time
    angle = np.deg2rad(rng.normal(0, 8) + rng.normal(0, 10) * time)
    return [
        framed.transform(
            (SIDE, SIDE),
            Image.Transform.AFFINE,
            _affine(framed.width / 2, framed.height / 2, 1 / grow[i], angle[i], x[i], y[i]),
            BICUBIC,
        )
        for i in range(FRAMES)
    ]


class Photos:
    """The photographs and stamps of one side of the split."""

    def __init__(self, path: Path, split: str):
        self.pack = Pack(path)
        self.photos = self.pack.where(split=split, sort="photo")
        self.stamps = self.pack.where(split=split, sort="stamp")

    def _open(self, indices: list[int], rng: np.random.Generator) -> tuple[Image.Image, str]:
        index = indices[rng.integers(len(indices))]
        picture = Image.fromarray(np.ascontiguousarray(self.pack[index]))
        if chance(rng, 0.5):
            picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        return picture, self.pack.notes[index]["package"]

    def background(self, rng: np.random.Generator) -> np.ndarray:
        """A moving picture to put something before."""
        picture = self._open(self.photos, rng)[0] if self.photos else gradient(rng, SIDE, SIDE)
        return pan(picture, rng)

    def clip(self, rng: np.random.Generator) -> tuple[np.ndarray, str]:
        """A random clip and the package its picture is from."""
        video, package = self._clip(rng)
        for _ in range(4):
            if (video - video.mean((0, 1, 2))).std() > FLAT:
                break
            video, package = self._clip(rng)
        return video, package

    def _clip(self, rng: np.random.Generator) -> tuple[np.ndarray, str]:
        style = rng.random()
        if style < 0.6:  # one photograph
            picture, package = self._open(self.photos, rng)
            video = pan(picture, rng)
        elif style < 0.75:  # one stamp on a plain ground
            stamp, package = self._open(self.stamps, rng)
            picture = gradient(rng, round(stamp.width * 1.15), round(stamp.height * 1.15))
            picture.paste(stamp, (round(stamp.width * 0.07), round(stamp.height * 0.07)), stamp)
            video = pan(picture, rng)
        else:  # a stamp that moves over a photograph or a plain ground
            if chance(rng, 0.75):
                picture, package = self._open(self.photos, rng)
                video = pan(picture, rng)
            else:
                ground = np.asarray(gradient(rng, SIDE, SIDE))
                video, package = np.stack([ground] * FRAMES), TUXPAINT
            stamp, _ = self._open(self.stamps, rng)
            for i, layer in enumerate(moving_layer(stamp, rng.uniform(20, 60), rng)):
                frame = Image.fromarray(video[i])
                frame.paste(layer, (0, 0), layer)
                video[i] = np.asarray(frame)
        if chance(rng, 0.3):
            video = jitter_colours(video, rng)
        return video, package
