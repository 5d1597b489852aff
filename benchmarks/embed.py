"""Peak memory of `perceivio embed` against the length of a file: `python -m benchmarks.embed`.

Each film is embedded by `small` in a process of its own; memory is that at its peak.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from perceivio.writer import MediaWriter

from .measure import line, peak_memory

RATE, HERTZ, SIZE = 25, 16_000, (240, 320)


def film(path: Path, seconds: int) -> Path:
    """A pattern that moves, and noise for sound."""
    generator = np.random.default_rng(0)
    pattern = generator.integers(0, 256, (SIZE[0] // 16, SIZE[1] // 16, 3), np.uint8)
    pattern = pattern.repeat(16, 0).repeat(16, 1)
    with MediaWriter(path, RATE, SIZE, HERTZ) as writer:
        for second in range(seconds):
            frames = [np.roll(pattern, second * RATE + i, 1) for i in range(RATE)]
            writer.write(np.stack(frames), generator.normal(0, 0.1, HERTZ).astype(np.float32))
    return path


def peaks(lengths: list[int]) -> Iterator[tuple[int, float]]:
    """Seconds of a film, and MB at the peak."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for seconds in lengths:
            path = film(folder / f"{seconds}.mp4", seconds)
            yield seconds, peak_memory("embed", str(path), folder)["peak"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("seconds", nargs="*", type=int, default=[10, 60, 600, 1800])
    for seconds, peak in peaks(parser.parse_args().seconds):
        line(f"a film of {seconds} s", f"{peak:.0f} MB")


if __name__ == "__main__":
    main()
