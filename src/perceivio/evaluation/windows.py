"""Which windows of a file are evaluated, and which of them go through the model together."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from ..clip_format import ClipFormat
from ..clips import Window, Windows, read_windows
from ..errors import MediaError
from ..media import probe

VALUES = 2**21  # of clips that go through a model together: more is no faster on a processor
TOGETHER = 16  # windows, at most


class Reading:
    """The windows of a file, in their order, streamed. Iterate over it once.

    most      windows at most, spread evenly over the file; None: all, in one pass
    has_audio whether the file has sound; a silent window stands for none
    notes     what was missing and replaced, in words    (complete behind the last window)
    lost      packets that could not be decoded          (complete behind the last window)

    Windows do not overlap. Raises MediaError for what cannot be read.
    """

    def __init__(self, path: Path, format: ClipFormat, most: int | None) -> None:
        self._path, self._format, self._most = path, format, most
        info = probe(path)
        self.duration, self.has_audio = info.duration, info.audio is not None
        self.notes: list[str] = []
        self.lost = 0

    def __iter__(self) -> Iterator[Window]:
        whole = int(self.duration / self._format.seconds)
        if self._most is None or whole <= self._most:
            yield from self._stretch(0.0, None)
            return
        seconds, failed, read = self._format.seconds, None, 0
        for n in range(self._most):
            start = (2 * n + 1) * whole // (2 * self._most) * seconds
            try:
                for window in self._stretch(float(start), float(seconds)):
                    yield window
                    read += 1
            except MediaError as error:  # a header may promise more than there is
                failed = error
        if failed and not read:
            raise failed

    def _stretch(self, start: float, duration: float | None) -> Iterator[Window]:
        windows = read_windows(self._path, self._format, start, duration)
        yield from windows
        self._told(windows)

    def _told(self, windows: Windows) -> None:
        self.notes += [note for note in windows.notes if note not in self.notes]
        self.lost += windows.losses.packets


def together(format: ClipFormat) -> int:
    """Windows of this format that go through a model together."""
    values = 3 * format.frames * format.height * format.width + format.samples
    return min(TOGETHER, max(1, VALUES // max(1, values)))


def grouped(windows: Iterable[Window], most: int) -> Iterator[list[Window]]:
    """The same windows in their order, in lists of up to `most` that hold the same modalities."""
    group: list[Window] = []
    for window in windows:
        if group and (len(group) == most or group[0].inputs.keys() != window.inputs.keys()):
            yield group
            group = []
        group.append(window)
    if group:
        yield group
