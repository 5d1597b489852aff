"""What a model makes of files beside a clip -> files beside the output, of the same names."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from torch import Tensor

from .clip_format import ClipFormat
from .config import Modality
from .errors import MediaError
from .ffmpeg import reason
from .pictures import resize, shown_size
from .writer import TARGETS, MediaWriter, check_free, part_of


def time_first(values: Tensor, modality: Modality) -> Tensor:
    """(*value_shape) -> (T, C, H, W) for video, (T, C) for other grids."""
    dims = len(modality.shape)
    return values.movedim(modality.channel_axis % (dims + 1), 1)


def names_beside(target: Path, clip: ClipFormat) -> dict[str, Path]:
    """Where each grid goes that is read from a file beside the clip: beside `target`, by modality.

    A suffix that cannot be written becomes .mp4 or .wav; of several modalities of one file, each
    has its own, with the modality's name before the suffix.
    """
    found: dict[str, Path] = {}
    files = [m.beside for _, m in clip.beside]
    for name, modality in clip.beside:
        if modality.is_classes:
            continue
        path = target.with_name(modality.file_beside(target.stem))
        if files.count(modality.beside) > 1:
            path = path.with_suffix(f".{name}{path.suffix}")
        written = TARGETS.get(path.suffix.lower())
        if modality.media == "video" and (written is None or written.container == "image2"):
            path = path.with_suffix(".mp4")
        if modality.media == "audio" and (written is None or written.audio is None):
            path = path.with_suffix(".wav")
        found[name] = path
    return found


class BesideWriter:
    """One modality's values into a file that appears only when it is whole.

    height  of a picture, in pixels

    Raises MediaError as MediaWriter does.
    """

    def __init__(self, path: Path, modality: Modality, height: int, overwrite: bool) -> None:
        self.path, self._modality = path, modality
        self._shape = (0, 0)
        self._rate = rate = modality.rate or 1
        self._writer: MediaWriter | TableWriter
        if modality.media == "table":
            columns = (modality.time, *modality.columns)
            self._writer = TableWriter(path, columns, overwrite)
        elif modality.media == "audio":
            self._writer = MediaWriter(path, None, sample_rate=rate, overwrite=overwrite)
        else:
            self._shape = shown_size((modality.shape[1], modality.shape[2]), height)
            self._writer = MediaWriter(path, rate, self._shape, overwrite=overwrite)
        self._written = 0

    def __enter__(self) -> Self:
        self._writer.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._writer.__exit__(kind, error, trace)

    def write(self, values: Tensor) -> None:
        """Append values (n, ...) as `time_first` gives them."""
        if not len(values):
            return
        if isinstance(self._writer, TableWriter):
            times = np.arange(self._written, self._written + len(values)) / self._rate
            self._writer.write(np.column_stack([times, values.double().numpy()]))
        elif self._modality.media == "audio":
            self._writer.write(samples=values[:, 0])
        else:
            self._writer.write(resize(values.expand(-1, 3, -1, -1), *self._shape))
        self._written += len(values)


class TableWriter:
    """Rows of numbers into a .csv or .parquet file that appears only when it is whole.

    Raises MediaError where it exists and `overwrite` is not set, or cannot be written.
    """

    def __init__(self, path: Path, columns: Sequence[str], overwrite: bool) -> None:
        self.path, self._columns, self._overwrite = path, list(columns), overwrite
        check_free(path, overwrite)
        self._part = part_of(path)
        self._file: Any = None
        self._parquet: Any = None
        try:
            if path.suffix.lower() == ".parquet":
                import pyarrow as pa
                from pyarrow import parquet

                schema = pa.schema([(name, pa.float64()) for name in self._columns])
                self._parquet = parquet.ParquetWriter(self._part, schema)
            else:
                self._file = self._part.open("w", encoding="utf-8", newline="")
                csv.writer(self._file, lineterminator="\n").writerow(self._columns)
        except (OSError, ImportError) as error:
            self._part.unlink(missing_ok=True)
            raise MediaError(f"{path}: cannot be written: {reason(error)}") from error

    def __enter__(self) -> Self:
        return self

    def write(self, rows: np.ndarray) -> None:
        """Append rows (n, columns); the first is a time."""
        try:
            if self._parquet is not None:
                import pyarrow as pa

                columns = dict(zip(self._columns, rows.T, strict=True))
                self._parquet.write_table(pa.table(columns))
                return
            lines = ([round(row[0], 6), *(f"{v:.6g}" for v in row[1:])] for row in rows.tolist())
            csv.writer(self._file, lineterminator="\n").writerows(lines)
        except OSError as error:
            raise MediaError(f"{self.path}: cannot be written: {reason(error)}") from error

    def __exit__(self, kind: object, *_: object) -> None:
        try:
            (self._parquet or self._file).close()
            if kind is None:
                check_free(self.path, self._overwrite)
                self._part.replace(self.path)
        except OSError as error:
            if kind is None:
                raise MediaError(f"{self.path}: cannot be written: {reason(error)}") from error
        finally:
            self._part.unlink(missing_ok=True)
