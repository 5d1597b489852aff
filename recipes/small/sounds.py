"""The pool of sounds: music, drums, nature and speech; and the sound of a clip drawn from it."""

from multiprocessing import Pool
from pathlib import Path

import numpy as np
from av.error import FFmpegError

from .common import SAMPLE_RATE, SAMPLES, chance, held_out, log_uniform
from .films import FILMS, decode_sound
from .pack import Pack, has_pack, save_pack
from .photos import carve
from .speech import TEST_RECORDED

LONGEST = 12.0  # seconds kept of one file
QUIETEST, LOUDEST = 0.01, 0.3  # range of a clip's level (rms, of full scale)
SILENT = 0.05  # share of clips without sound
MIXED = 0.2  # share of clips with two sounds
SPEECH_FILES = 700  # of each collection of recorded speech, not to drown the rest
# How often each sort is drawn.
SORTS = {
    "film": 0.2,
    "music": 0.25,
    "nature": 0.2,
    "letters": 0.1,
    "names": 0.08,
    "sentences": 0.17,
}
# Languages of recorded names; none whose spoken digits are held out.
NAMES = ["_desc.ogg", "_desc_de.ogg", "_desc_fr.ogg", "_desc_es.ogg", "_desc_ru.ogg"]
assert not any(language in name for language in TEST_RECORDED for name in NAMES)
GCOMPRIS_SOUNDS = ["memory-sound", "instruments", "explore_farm_animals", "explore_world_music"]


def gather_sounds(unpacked: Path, films: Path, path: Path) -> None:
    """Decode all sounds into one pack."""
    if has_pack(path):
        return
    jobs = []  # name, sort, file

    def add(package: str, sort: str, pattern: str, limit: int | None = None) -> None:
        files = sorted(
            file
            for file in (unpacked / package).rglob(pattern)
            if file.suffix in (".ogg", ".wav", ".flac", ".aiff")
        )
        if limit and len(files) > limit:
            files = files[:: len(files) // limit + 1]
        jobs.extend((file.relative_to(unpacked).as_posix(), sort, file) for file in files)

    add("sonic-pi-samples", "music", "*")
    add("hydrogen-drumkits", "music", "*")
    add("klettres-data", "letters", "*.ogg", SPEECH_FILES)
    add("tuxpaint-stamps-default", "nature", "*[!_]*.ogg")
    # Names of things come below; spoken digits are for `speech.py`, which keeps voices apart.
    jobs = [job for job in jobs if "_desc" not in job[0] and "/symbols/math/" not in job[0]]
    for pattern in NAMES:
        add("tuxpaint-stamps-default", "names", f"*{pattern}", SPEECH_FILES // len(NAMES))
    carved = unpacked.parent / "carved"
    carved.mkdir(exist_ok=True)
    for activity in GCOMPRIS_SOUNDS:
        resource = unpacked / f"gcompris-qt-data/usr/share/gcompris-qt/rcc/{activity}.rcc"
        for number, data in enumerate(carve(resource, rb"OggS") if resource.exists() else []):
            file = carved / f"{activity}_{number}.ogg"
            file.write_bytes(data)
            jobs.append((f"{activity}/{number}", "nature", file))
    with Pool(2) as pool:
        decoded = pool.map(_decode, [file for *_, file in jobs], chunksize=20)
    arrays, notes = [], []
    for (name, sort, _), sound in zip(jobs, decoded, strict=True):
        if sound is not None:
            arrays.append(sound)
            notes.append(
                {"name": name, "sort": sort, "split": "test" if held_out(name) else "train"}
            )
    # The sound tracks keep the side of their films.
    for name, _, split, *_ in FILMS:
        track = films / f"{name}.sound.npy"
        if track.exists() and len(sound := np.load(track)) > SAMPLES:
            arrays.append(sound)
            notes.append({"name": name, "sort": "film", "split": split})
    save_pack(path, arrays, notes)


def _decode(file: Path) -> np.ndarray | None:
    try:
        sound = decode_sound(file, LONGEST)[: int(LONGEST * SAMPLE_RATE)]
    except (FFmpegError, ValueError, IndexError):
        return None
    return sound if len(sound) > 400 and np.abs(sound).max() > 100 else None


def at_level(sound: np.ndarray, level: float) -> np.ndarray:
    """Scale to a level (rms), but never into clipping."""
    rms, peak = np.sqrt((sound**2).mean()), np.abs(sound).max()
    return sound * min(level / (rms + 1e-9), 0.98 / (peak + 1e-9))


class Sounds:
    """The sounds of one side of the split."""

    def __init__(self, path: Path, sentences: Path, split: str):
        self.packs = {"sentences": Pack(sentences)}
        self.choices = {"sentences": self.packs["sentences"].where(split=split)}
        pool = Pack(path)
        for sort in SORTS:
            if sort != "sentences":
                self.packs[sort], self.choices[sort] = pool, pool.where(split=split, sort=sort)
        self.sorts = [sort for sort in SORTS if self.choices[sort]]
        share = np.array([SORTS[sort] for sort in self.sorts])
        self.share = share / share.sum()

    def _draw(self, rng: np.random.Generator) -> np.ndarray:
        """0.64 s of one sound: a window of a long one, a short one at a random place."""
        out = np.zeros(SAMPLES, np.float32)
        for _ in range(10 if self.sorts else 0):
            sort = self.sorts[rng.choice(len(self.sorts), p=self.share)]
            indices, pack = self.choices[sort], self.packs[sort]
            # A bar of music: several hits of drums, else one sound.
            for _ in range(rng.integers(1, 4) if sort == "music" else 1):
                sound = pack[indices[rng.integers(len(indices))]]
                if len(sound) > SAMPLES:
                    start = rng.integers(0, len(sound) - SAMPLES)
                    out += sound[start : start + SAMPLES].astype(np.float32) / 32768
                else:
                    start = rng.integers(0, SAMPLES - len(sound) + 1)
                    out[start : start + len(sound)] += sound.astype(np.float32) / 32768
            if np.sqrt((out**2).mean()) > 2e-3:  # else a pause: draw again
                break
        return out

    def background(self, rng: np.random.Generator) -> np.ndarray:
        """A sound of level 1 (rms), to be put under another."""
        sound = self._draw(rng)
        return sound / (np.sqrt((sound**2).mean()) + 1e-6)

    def clip(self, rng: np.random.Generator) -> np.ndarray:
        """The whole sound of a clip that brings none of its own."""
        if chance(rng, SILENT):
            return np.zeros(SAMPLES, np.float32)
        sound = self._draw(rng)
        if chance(rng, MIXED):
            sound = at_level(sound, 0.1) + at_level(self._draw(rng), log_uniform(rng, 0.02, 0.1))
        return at_level(sound, log_uniform(rng, QUIETEST, LOUDEST))
