"""Files beside a clip: a depth video, a second microphone, a sensor's table, a text with a class.

Each is read as its modality is declared (`config.Modality`), for the same span of time as the
clip; their clock begins with the clip's. What a file does not cover is not made up: for such a span
the modality is not there, and a model is given its mask token.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from av.error import FFmpegError
from torch import Tensor

from . import ffmpeg
from .config import Modality
from .errors import MediaError, PerceivioError
from .excerpt import read_frames, read_samples
from .pictures import centre_crop, scaled

# Seconds that may be missing at either end of a span: recorders do not stop at the same moment.
# The last frame is held there, and sound is silent.
SLACK = Fraction(1, 10)
TOLD = 5  # class names that a message names

Crop = Callable[[np.ndarray], np.ndarray]  # of a frame (H, W, 3)


@dataclass(frozen=True)
class File:
    """A file, wherever it is.

    name     for messages
    media    opens it as a PyAV container
    content  its bytes
    """

    name: str
    media: Callable[[], Any]
    content: Callable[[], bytes]

    @classmethod
    def local(cls, path: Path) -> File:
        return cls(str(path), lambda: ffmpeg.open_media(path), path.read_bytes)


class Companion(Protocol):
    """A file beside a clip, ready to be read."""

    def read(
        self, start: Fraction, stop: Fraction, crop: Crop | None = None, flip: bool = False
    ) -> Tensor | None:
        """The modality's values from `start` seconds on, as many as it has; None where the file
        does not cover the span from `start` to `stop`, behind which it need not go.

        Pictures are uint8 of the modality's shape, see `as_values`, cropped by `crop` (None: in
        the middle) and perhaps mirrored; other grids float32; classes an index. Raises MediaError
        for damage.
        """
        ...


def open_beside(modality: Modality, file: File) -> Companion:
    """A file ready to be read. Raises MediaError, in one line, for a table or a text that is not
    what the modality asks for; pictures and sound show that when they are read."""
    kinds = {"video": _Video, "audio": _Sound, "table": _Table, None: _Class}
    with _told(file):
        return kinds[modality.media](modality, file)


def as_values(values: Tensor, modality: Modality) -> Tensor:
    """What `Companion.read` gives, of any number of clips, as a model takes it: float32."""
    return values.float() / 255 if modality.media == "video" else values


@dataclass
class Companions:
    """The files beside one local clip, of all grids that are declared; missing ones are noted.

    path      of the clip
    declared  names and declarations
    """

    path: Path
    declared: tuple[tuple[str, Modality], ...]
    _open: dict[str, Companion] = field(default_factory=dict)
    _trouble: list[str] = field(default_factory=list)
    _absent: dict[str, list[str]] = field(default_factory=dict)
    _spans: int = 0

    def __post_init__(self) -> None:
        self.declared = tuple((name, m) for name, m in self.declared if not m.is_classes)
        for name, modality in self.declared:
            path = self.path.with_name(modality.file_beside(self.path.stem))
            if not path.exists():
                self._trouble.append(f"no {path.name} beside it: {name} is masked")
                continue
            try:
                self._open[name] = open_beside(modality, File.local(path))
            except PerceivioError as error:
                self._trouble.append(f"{error}: {name} is masked")

    @property
    def paths(self) -> list[Path]:
        """Of the files that are there, readable or not."""
        names = (modality.file_beside(self.path.stem) for _, modality in self.declared)
        return [path for path in map(self.path.with_name, names) if path.exists()]

    @property
    def notes(self) -> list[str]:
        """What is missing, in words; complete when all was read."""
        parts = [
            f"{reasons[0]}: {name} is masked in {len(reasons)} of {self._spans} windows"
            for name, reasons in self._absent.items()
        ]
        return [*self._trouble, *parts]

    def read(self, start: Fraction, stop: Fraction) -> dict[str, Tensor]:
        """What there is from `start` to `stop` seconds: (*value_shape) by modality."""
        found = {}
        self._spans += 1
        for name, modality in self.declared:
            if name not in self._open:
                continue
            values, reason = None, f"{modality.file_beside(self.path.stem)} has gaps, or ends early"
            try:
                values = self._open[name].read(start, stop)
            except PerceivioError as error:
                reason = str(error)
            if values is None:
                self._absent.setdefault(name, []).append(reason)
            else:
                found[name] = as_values(values, modality)
        return found


class _Video:
    def __init__(self, modality: Modality, file: File) -> None:
        self.modality, self.file = modality, file

    def read(
        self, start: Fraction, stop: Fraction, crop: Crop | None = None, flip: bool = False
    ) -> Tensor | None:
        count, height, width = self.modality.shape
        with _told(self.file), self.file.media() as container:
            rate = Fraction(self.modality.rate or 1)
            frames, end = read_frames(container, start, count, rate)
        if end < stop - SLACK:
            return None
        if len({frame.shape for frame in frames}) > 1:
            raise MediaError(f"{self.file.name}: its picture changes its size")
        frames = [crop(f) if crop else centre_crop(f, height, width) for f in frames]
        values = scaled(frames, height, width, flip)
        if self.modality.channels == 1:
            values = values.float().mean(1, keepdim=True).round().to(torch.uint8)
        return values.movedim(1, self.modality.channel_axis % 4)


class _Sound:
    def __init__(self, modality: Modality, file: File) -> None:
        self.modality, self.file = modality, file

    def read(
        self, start: Fraction, stop: Fraction, crop: Crop | None = None, flip: bool = False
    ) -> Tensor | None:
        with _told(self.file), self.file.media() as container:
            rate = self.modality.rate or 1
            samples, end = read_samples(container, start, self.modality.shape[0], rate)
        if end < stop - SLACK:
            return None
        return torch.from_numpy(samples)[:, None].movedim(1, self.modality.channel_axis % 2)


class _Table:
    """Rows at any times; between two of them values lie on a line. An empty cell is a gap."""

    def __init__(self, modality: Modality, file: File) -> None:
        self.modality, self.file = modality, file
        self.times, *columns = _columns(file, (modality.time, *modality.columns))
        if np.isnan(self.times).any() or (np.diff(self.times) <= 0).any():
            raise MediaError(f"column {modality.time!r} must rise from row to row")
        self.values = np.stack(columns, axis=1)
        # A row stands for what is about it, for as long as rows are usually apart.
        usual = float(np.median(np.diff(self.times))) if len(self.times) > 1 else 0.0
        self.slack = max(float(SLACK), usual)

    def read(
        self, start: Fraction, stop: Fraction, crop: Crop | None = None, flip: bool = False
    ) -> Tensor | None:
        first, last = self.times[0] - self.slack, self.times[-1] + self.slack
        if not first <= start <= stop <= last:
            return None
        count, rate = self.modality.shape[0], self.modality.rate or 1
        times = float(start) + np.arange(count) / rate
        values = [np.interp(times, self.times, column) for column in self.values.T]
        values = np.stack(values, axis=1).astype(np.float32)
        if not np.isfinite(values).all():
            return None
        return torch.from_numpy(values).movedim(1, self.modality.channel_axis % 2)


class _Class:
    def __init__(self, modality: Modality, file: File) -> None:
        name = file.content().decode("utf-8-sig").strip()
        if name not in modality.names:
            known = ", ".join(modality.names[:TOLD]) + ", ..." * (len(modality.names) > TOLD)
            raise MediaError(f"{name[:80]!r} is none of the classes {known}")
        self.index = modality.names.index(name)

    def read(
        self, start: Fraction, stop: Fraction, crop: Crop | None = None, flip: bool = False
    ) -> Tensor:
        return torch.tensor(self.index)


def _columns(file: File, names: tuple[str, ...]) -> list[np.ndarray]:
    """Columns of a CSV or Parquet file, float64, NaN for empty cells."""
    try:
        import pyarrow as pa
        from pyarrow import csv, parquet
    except ImportError as error:
        raise PerceivioError(
            f"{file.name}: tables need pyarrow: pip install 'perceivio[train]'"
        ) from error
    data = io.BytesIO(file.content())
    try:
        is_parquet = file.name.lower().endswith(".parquet")
        table = parquet.read_table(data) if is_parquet else csv.read_csv(data)
        absent = [name for name in names if name not in table.column_names]
        if absent:
            there = ", ".join(table.column_names)
            raise MediaError(f"no column {absent[0]!r}; there are {there}")
        if not len(table):
            raise MediaError("holds no rows")
        columns = []
        for name in names:
            column = table.column(name)
            if not (pa.types.is_integer(column.type) or pa.types.is_floating(column.type)):
                raise MediaError(f"column {name!r} holds {column.type}, not numbers")
            columns.append(column.cast(pa.float64()).to_numpy())
    except (pa.ArrowException, KeyError, OSError) as error:
        raise MediaError(f"no table that can be read: {_line(error)}") from error
    return columns


@contextlib.contextmanager
def _told(file: File) -> Generator[None]:
    """Damage of any kind as a MediaError that names the file."""
    try:
        yield
    except MediaError as error:
        if str(error).startswith(file.name):
            raise
        raise MediaError(f"{file.name}: {error}") from error
    except (FFmpegError, OSError, ValueError) as error:
        raise MediaError(f"{file.name}: cannot be read: {ffmpeg.reason(error)}") from error


def _line(error: Exception) -> str:
    line = (str(error).strip().splitlines() or ["damaged"])[0]
    return "".join(c for c in line if c.isprintable())
