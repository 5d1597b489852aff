"""What the server takes of a visitor, and the clear words for what it does not."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import PerceivioError
from ..latents import LatentsFile
from ..media import MediaInfo, probe
from ..pipeline import Progress

TALLEST, SHORTEST = 1080, 16  # pixels: heights of a frame that is asked for


class RefusalError(PerceivioError):
    """What is not done, and why, in words for a visitor."""


@dataclass(frozen=True)
class Limits:
    """
    megabytes   of an upload (10^6 bytes)
    megapixels  of its picture (10^6 pixels): 9 holds 4096 x 2160
    seconds     that it may last
    work        seconds that one job may take, whatever it is
    waiting     visitors that may wait in the queue, and uploads that may lie and wait
    keep        seconds for which results are kept, and uploads that nobody uses
    """

    megabytes: float = 200
    megapixels: float = 9
    seconds: float = 60
    work: float = 600
    waiting: int = 100
    keep: float = 1800

    @property
    def bytes(self) -> int:
        return round(self.megabytes * 1e6)

    def check_media(self, path: Path) -> MediaInfo:
        """What a media file holds, if it is within the limits.

        Raises RefusalError where it is not, and MediaError where it is no readable media file.
        """
        info = probe(path)
        if info.video is not None:
            pixels = info.video.width * info.video.height / 1e6
            if pixels > self.megapixels:
                raise RefusalError(
                    f"{path}: its picture of {info.video.width} x {info.video.height} has more than"
                    f" the {self.megapixels:g} million pixels that are taken here; make it smaller"
                )
        self._check_seconds(path, info.duration)
        return info

    def check_latents(self, file: LatentsFile) -> None:
        """Raises RefusalError where a file of latents covers more than the limits let it."""
        self._check_seconds(file.path, file.stop - file.start)

    def check_frame(self, at: float, height: int) -> None:
        """Raises RefusalError for what is no time, and for a height out of bounds."""
        check_number("at", at)
        check_number("height", height)
        if not SHORTEST <= height <= TALLEST:
            raise RefusalError(f"a height of {height} pixels: choose {SHORTEST} to {TALLEST}")

    def watch(self, progress: Progress | None, ended: Callable[[], bool]) -> Progress:
        """The same progress, which raises RefusalError where a job takes too long."""
        began = time.monotonic()

        def told(done: float, total: float) -> None:
            if ended():
                raise RefusalError("the server is being stopped; try again later")
            if time.monotonic() - began > self.work:
                raise RefusalError(
                    f"this takes longer than the {self.work:g} seconds that a job may take here;"
                    " cut the file shorter"
                )
            if progress:
                progress(done, total)

        return told

    def _check_seconds(self, path: Path, seconds: float) -> None:
        # A file may last a frame longer than what it says.
        if seconds > self.seconds + 0.1:
            raise RefusalError(
                f"{path}: lasts {seconds:.1f} s, and {self.seconds:g} s are taken here; cut it"
                " shorter"
            )


def check_number(name: str, value: Any) -> None:
    """Raises RefusalError for what is no finite number: JSON may hold anything."""
    real = isinstance(value, int | float) and not isinstance(value, bool)
    if not real or not math.isfinite(value):
        raise RefusalError(f"{name} must be a number, not {str(value)[:40]!r}")


def check_count(name: str, value: Any, most: int) -> None:
    """Raises RefusalError for what is no whole number from 1 to `most`."""
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= most:
        raise RefusalError(f"{name}: choose 1 to {most}, not {str(value)[:40]!r}")
