"""Gather the bank of clips that the `small` weights are trained and tested on.

    python -m recipes.small.gather [--work .data/small] [--media FOLDER]

Fetches the outside material, decodes it once, and writes `train` and `test` folders of
memory-mappable arrays: video.npy (n, 16, 64, 64, 3) uint8, audio.npy (n, 10240) int16,
label.npy (n,) int8 (the digit, or -1), source.npy (n,) int16 with sources.json. Rows are
in random order. Every clip has a random generator of its own, keyed by (seed, side, row),
so a second run makes the same bank. SOURCES.md tells where everything is from.
Needs the network once, and Debian or a relative of it (apt-get and dpkg, no administrator's
rights), pip and npm; what cannot be had is left out.
"""

import argparse
import json
import time
from multiprocessing import Pool
from pathlib import Path

import numpy as np

from .common import FRAMES, SAMPLES, SIDE, chance
from .digits import GROUPS, Digits
from .fetch import fetch_all
from .films import FILMS, Films, decode_films
from .media import build_media
from .photos import GCOMPRIS, MATE, TUXPAINT, Photos, gather_photos
from .sounds import Sounds, at_level, gather_sounds
from .speech import gather_speech

SEED = 2021
PROCESSES = 2
BLOCK = 200  # rows a task
KINDS = ["film", "photo", "digit"]
COUNTS = {"train": [12_000, 9_000, 9_000], "test": [350, 350, 500]}
OWN_SOUND = 0.75  # share of film clips that keep their own sound
VOICE = "MNIST digit, voice: "
PACKAGES = {
    TUXPAINT: "GPL-2",
    GCOMPRIS: "CC0, CC-BY, CC-BY-SA, public domain (see the package)",
    MATE: "GPL-2+, CC-BY-SA 4.0 (see the package)",
}
VOICES = {VOICE + group: "images MIT; voices see SOURCES.md" for group in (*GROUPS, "no voice")}
SOURCES = [
    {"name": name, "kind": kind, "licence": licence}
    for kind, about in zip(
        KINDS, ({film[1]: film[4] for film in FILMS}, PACKAGES, VOICES), strict=True
    )
    for name, licence in about.items()
]
SOURCE_INDEX = {source["name"].removeprefix(VOICE): i for i, source in enumerate(SOURCES)}


class Studio:
    """Everything that clips of one side are made from."""

    def __init__(self, media: Path, work: Path, split: str):
        self.films = Films(work / "films", split)
        self.photos = Photos(work / "photos", split)
        self.sounds = Sounds(work / "sounds", work / "sentences", split)
        images = media / "digits/mnist_images.npz"
        others = self.films, self.photos, self.sounds
        self.digits = Digits(images, work / "spoken", *others, split)

    def lacks(self, kind: str) -> bool:
        """Whether there is nothing at hand to make such clips from."""
        if kind == "film":
            return not self.films.frames
        if kind == "photo":
            return not (self.photos.photos and self.photos.stamps)
        return not len(self.digits.images)

    def clip(self, kind: str, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, int, int]:
        """Video, sound (int16), label and source of one clip."""
        label = -1
        if kind == "digit":
            video, sound, label, source = self.digits.clip(rng)
        elif kind == "photo":
            video, source = self.photos.clip(rng)
            sound = self.sounds.clip(rng)
        else:
            video, sound, source = self.films.clip(rng)
            if sound is None or not chance(rng, OWN_SOUND):
                sound = self.sounds.clip(rng)
            else:  # its own level, up to 6 dB changed
                level = np.sqrt((sound**2).mean())
                sound = at_level(sound, level * 10 ** (rng.uniform(-6, 6) / 20))
        sound = np.clip(np.round(sound * 32767), -32768, 32767).astype(np.int16)
        return video, sound, label, SOURCE_INDEX[source]


def make_block(task: tuple) -> int:
    """Make rows [first, last) of a side and write them to their places."""
    media, work, out, split, kinds, first, last = task
    studio = Studio(media, work, split)
    arrays = {
        name: np.load(out / f"{name}.npy", mmap_mode="r+")
        for name in ("video", "audio", "label", "source")
    }
    for row in range(first, last):
        rng = np.random.default_rng((SEED, split == "test", row))
        clip = studio.clip(KINDS[kinds[row]], rng)
        for array, value in zip(arrays.values(), clip, strict=True):
            array[row] = value
    return last - first


def make_side(media: Path, work: Path, split: str, counts: list[int]) -> None:
    """Write one side of the bank, if it is not there yet."""
    out, whole = work / split, work / split / "sources.json"  # written last
    if whole.exists() and len(np.load(out / "label.npy", mmap_mode="r")) == sum(counts):
        print(f"  {split}: is there; to make it again, delete {out}", flush=True)
        return
    whole.unlink(missing_ok=True)
    studio = Studio(media, work, split)
    for i, kind in enumerate(KINDS):
        if studio.lacks(kind):
            print(f"  {split}: nothing to make a {kind} clip from, none are made", flush=True)
            counts[i] = 0
    total = sum(counts)
    if not total:
        raise SystemExit("no material could be had: see the notes above")
    out.mkdir(parents=True, exist_ok=True)
    for name, shape, kind in (
        ("video", (FRAMES, SIDE, SIDE, 3), np.uint8),
        ("audio", (SAMPLES,), np.int16),
        ("label", (), np.int8),
        ("source", (), np.int16),
    ):
        shape = (total, *shape)
        np.lib.format.open_memmap(out / f"{name}.npy", "w+", dtype=kind, shape=shape).flush()
    # Kinds in random order: any contiguous slice of the bank is a fair sample.
    rng = np.random.default_rng((SEED, split == "test"))
    kinds = rng.permutation(np.repeat(np.arange(3), counts))
    tasks = [
        (media, work, out, split, kinds, first, min(first + BLOCK, total))
        for first in range(0, total, BLOCK)
    ]
    start, done = time.time(), 0
    with Pool(PROCESSES) as pool:
        for made in pool.imap_unordered(make_block, tasks):
            done += made
            if done % 2000 < BLOCK or done == total:
                spent = f"{time.time() - start:.0f} s"
                print(f"  {split}: {done} of {total} clips, {spent}", flush=True)
    whole.write_text(json.dumps(dict(enumerate(SOURCES)), indent=1))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--media", type=Path, help="folder with clips and digits; else fetched")
    parser.add_argument("--work", type=Path, default=Path(".data/small"), help="folder for all")
    parser.add_argument("--scale", type=float, default=1.0, help="size; for a short trial: 0.02")
    arguments = parser.parse_args()
    media, work = arguments.media, arguments.work
    if media and not media.is_dir():
        parser.error(f"{media}: no such folder")
    start = time.time()

    def step(name: str, action, *parameters):
        print(f"{time.time() - start:6.0f} s  {name}", flush=True)
        return action(*parameters)

    unpacked = step("fetch packages", fetch_all, work)
    media = media or step("fetch clips and digits", build_media, work)
    step("decode films", decode_films, media, unpacked, work / "films")
    step("gather photographs", gather_photos, unpacked, work / "photos")
    step("make speech", gather_speech, media, unpacked, work / "spoken", work / "sentences")
    step("gather sounds", gather_sounds, unpacked, work / "films", work / "sounds")
    for split in ("test", "train"):
        counts = [max(1, round(count * arguments.scale)) for count in COUNTS[split]]
        step(f"make the {split} clips", make_side, media, work, split, counts)
    print(f"{time.time() - start:6.0f} s  done: {work}")


if __name__ == "__main__":
    main()
