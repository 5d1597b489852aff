"""Make a data set with files beside its clips, all drawn: for docs/own-modalities.md and the tests.

    python -m recipes.own FOLDER [--clips 40] [--seconds 2]
    python -m recipes.own 004_reconstruction.motion.csv      # how far that is from the truth

A camera looks at a coloured square, and swings. Beside each clip `NAME.mp4` are

    NAME.depth.mp4   grey: how near everything is; the square is nearer, the larger it looks
    NAME.mic2.wav    what a second microphone hears: the same tone, an octave lower
    NAME.motion.csv  how far the camera has turned: seconds, and degrees of pan and tilt
    NAME.place.txt   "indoors" before a dark wall, "outdoors" before a bright sky

Classes are the square's colours. Every fifth clip has no motion.csv.
"""

from __future__ import annotations

import argparse
import csv
import math
from pathlib import Path

import numpy as np

from perceivio.writer import MediaWriter

HEIGHT, WIDTH, RATE, SAMPLE_RATE = 64, 96, 25, 16_000
COLOURS = {"red": (220, 40, 40), "blue": (40, 60, 230)}
TABLE_RATE = 40  # rows a second, about
SWING = 20.0  # degrees at most


class Scene:
    """What there is at any time, drawn from a seed."""

    def __init__(self, seed: int) -> None:
        random = np.random.default_rng(seed)
        self.speeds = random.uniform(1.0, 3.0, 2)
        self.phases = random.uniform(0, 2 * math.pi, 3)
        self.place = ("indoors", "outdoors")[seed % 2]
        self.label = tuple(COLOURS)[seed // 2 % 2]

    def motion(self, t: np.ndarray) -> np.ndarray:
        """Pan and tilt in degrees, (n, 2)"""
        return SWING * np.sin(np.outer(t, self.speeds) + self.phases[:2])

    def nearness(self, t: float) -> float:
        return 0.6 + 0.2 * math.sin(2 * t + self.phases[2])

    def frames(self, t: float) -> tuple[np.ndarray, np.ndarray]:
        """The picture and how near everything is: uint8 (H, W, 3) both."""
        pan, tilt = self.motion(np.array([t]))[0] / SWING
        near = self.nearness(t)
        side = round(30 * near)
        left = round((0.5 - 0.3 * pan) * WIDTH - side / 2)  # the camera goes right, the square left
        top = round((0.5 + 0.2 * tilt) * HEIGHT - side / 2)
        picture = np.full((HEIGHT, WIDTH, 3), 40 if self.place == "indoors" else 190, np.uint8)
        depth = np.full((HEIGHT, WIDTH, 3), 50, np.uint8)
        picture[top : top + side, left : left + side] = COLOURS[self.label]
        depth[top : top + side, left : left + side] = round(255 * near)
        return picture, depth

    def sound(self, t: np.ndarray, hertz: float) -> np.ndarray:
        """A tone that is louder, the nearer the square is."""
        loud = 0.3 * (0.6 + 0.2 * np.sin(2 * t + self.phases[2]))
        return (loud * np.sin(2 * math.pi * hertz * t)).astype(np.float32)


def make_clip(path: Path, seed: int, seconds: float, motion: bool = True) -> Scene:
    """One clip with everything beside it."""
    scene, times = Scene(seed), np.arange(round(seconds * RATE)) / RATE
    pictures, depths = zip(*(scene.frames(t) for t in times), strict=True)
    t = np.arange(round(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    with MediaWriter(path, RATE, (HEIGHT, WIDTH), SAMPLE_RATE) as writer:
        writer.write(np.stack(pictures), scene.sound(t, 440))
    with MediaWriter(path.with_suffix(".depth.mp4"), RATE, (HEIGHT, WIDTH)) as writer:
        writer.write(np.stack(depths))
    with MediaWriter(path.with_suffix(".mic2.wav"), None, sample_rate=SAMPLE_RATE) as writer:
        writer.write(samples=scene.sound(t, 220))
    path.with_suffix(".place.txt").write_text(scene.place + "\n")
    if motion:
        rows = table(scene, seconds, seed)
        with path.with_suffix(".motion.csv").open("w", newline="") as file:
            csv.writer(file).writerows([["time", "pan", "tilt"], *rows.round(6).tolist()])
    return scene


def table(scene: Scene, seconds: float, seed: int) -> np.ndarray:
    """Rows at uneven times, as sensors have them: (n, 3), seconds, pan, tilt."""
    gaps = np.random.default_rng((seed, 1)).uniform(0.5, 1.5, math.ceil(seconds * TABLE_RATE) + 1)
    times = np.concatenate([[0], np.cumsum(gaps) * seconds / gaps.sum()])
    return np.column_stack([times, scene.motion(times)])


def make(folder: Path, clips: int, seconds: float) -> None:
    for seed in range(clips):
        home = folder / Scene(seed).label
        home.mkdir(parents=True, exist_ok=True)
        make_clip(home / f"{seed:03d}.mp4", seed, seconds, motion=seed % 5 != 4)


def score(path: Path) -> str:
    """How well a table made of clip NNN tells its motion."""
    times, *columns = np.loadtxt(path, delimiter=",", skiprows=1, unpack=True)
    truth = Scene(int(path.name[:3])).motion(times)
    square = np.mean((np.column_stack(columns) - truth) ** 2)
    r2 = 1 - square / np.mean(truth**2)
    return f"{path.name}: wrong by {square**0.5:.1f} degrees (root mean square), R2 {r2:.2f}"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="where clips go, or a table to score")
    parser.add_argument("--clips", type=int, default=40)
    parser.add_argument("--seconds", type=float, default=2.0)
    chosen = parser.parse_args()
    if chosen.folder.suffix == ".csv":
        print(score(chosen.folder))
        return
    make(chosen.folder, chosen.clips, chosen.seconds)
    print(f"wrote {chosen.clips} clips to {chosen.folder}")


if __name__ == "__main__":
    main()
