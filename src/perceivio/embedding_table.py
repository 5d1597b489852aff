"""The table of vectors that `perceivio embed` writes and `perceivio search` reads: Parquet.

    file        as it was named
    start, stop seconds on the file's clock
    model       identity of the model (identity.py)
    embedding   F numbers, float32

Both ways go through one group of rows at a time, so memory does not grow with the table. The
metadata say, in JSON under the key "perceivio", what the rows are.

Letters: n rows, F numbers of a vector.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet

from .errors import PerceivioError
from .writer import check_free, part_of

METADATA = b"perceivio"  # key of our JSON in the Parquet file's metadata
KIND, VERSION = "embeddings", 1
ROWS = 4096  # of a group; of 320 numbers, 5 MB
MOST_CHANNELS = 2**26  # of a vector: all latents of the largest model
MOST_NUMBERS = 2**26  # read at once


@dataclass(frozen=True)
class Facts:
    """What a table says of itself.

    identity  of the model that made it
    model     what that model was loaded from
    pooling   how latents became vectors
    channels  F
    """

    identity: str
    model: str
    pooling: str
    channels: int

    def schema(self) -> pa.Schema:  # pyright: ignore[reportUnknownParameterType]
        told = {"kind": KIND, "version": VERSION, **dataclasses.asdict(self)}
        return pa.schema(
            [
                pa.field("file", pa.string(), nullable=False),
                pa.field("start", pa.float64(), nullable=False),
                pa.field("stop", pa.float64(), nullable=False),
                pa.field("model", pa.string(), nullable=False),
                pa.field("embedding", pa.list_(pa.float32(), self.channels), nullable=False),
            ],
            metadata={METADATA: json.dumps(told).encode()},
        )

    @classmethod
    def of(cls, schema: pa.Schema) -> Facts:  # pyright: ignore[reportUnknownParameterType]
        """Raises PerceivioError where the columns are no table of vectors."""
        try:
            told = json.loads((schema.metadata or {})[METADATA])
            if told.pop("kind") != KIND:
                raise KeyError("kind")
        except (KeyError, ValueError, TypeError, AttributeError) as error:
            raise PerceivioError("no table that `perceivio embed` wrote") from error
        if told.pop("version", None) != VERSION:
            raise PerceivioError("made by another version; run `perceivio embed` again")
        try:
            facts = cls(**told)
            texts = facts.identity, facts.model, facts.pooling
            if not all(isinstance(text, str) and text.isprintable() for text in texts):
                raise ValueError("texts")
            if type(facts.channels) is not int or not 1 <= facts.channels <= MOST_CHANNELS:
                raise ValueError("channels")
            same = facts.schema().equals(schema)
        except (TypeError, ValueError, pa.ArrowException) as error:
            raise PerceivioError("its metadata are damaged") from error
        if not same:
            raise PerceivioError("its columns are not those that `perceivio embed` wrote")
        return facts


class TableWriter:
    """Writes rows in groups to a table that appears only when it is whole.

    Raises PerceivioError, in one line, where it cannot be written or exists and `overwrite` is
    not set.
    """

    def __init__(self, path: str | os.PathLike[str], facts: Facts, overwrite: bool = False) -> None:
        self.path, self._facts, self._overwrite = Path(path), facts, overwrite
        check_free(self.path, overwrite)
        self._part, self._schema = part_of(self.path), facts.schema()
        # A place for a group's vectors, once for all: small arrays that are kept would lie between
        # the large ones of the model that come and go, whose memory could not be used again then.
        rows = max(1, min(ROWS, MOST_NUMBERS // facts.channels))
        self._vectors = np.empty((rows, facts.channels), np.float32)
        self._files: list[str] = []
        self._spans: list[tuple[float, float]] = []
        try:
            with self._told():
                self._file = parquet.ParquetWriter(
                    self._part, self._schema, write_page_checksum=True
                )
        except PerceivioError:
            self._part.unlink(missing_ok=True)
            raise

    def add(self, file: str, spans: Sequence[tuple[float, float]], vectors: np.ndarray) -> None:
        """Rows of one file: start and stop of n windows, and their vectors (n, F)."""
        for span, vector in zip(spans, vectors, strict=True):
            self._vectors[len(self._spans)] = vector
            self._files.append(file)
            self._spans.append(span)
            if len(self._spans) == len(self._vectors):
                self._write()

    def _write(self) -> None:
        rows = len(self._spans)
        flat = pa.array(self._vectors[:rows].reshape(-1))
        columns = [
            pa.array(self._files),
            pa.array([start for start, _ in self._spans], pa.float64()),
            pa.array([stop for _, stop in self._spans], pa.float64()),
            pa.array([self._facts.identity] * rows),
            pa.FixedSizeListArray.from_arrays(flat, self._facts.channels),
        ]
        with self._told():
            self._file.write_table(pa.Table.from_arrays(columns, schema=self._schema))
        self._files, self._spans = [], []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        try:
            if kind is not None:
                with contextlib.suppress(OSError, pa.ArrowException):
                    self._file.close()
                return
            if self._spans:
                self._write()
            with self._told():
                self._file.close()
                check_free(self.path, self._overwrite)
                self._part.replace(self.path)
        finally:
            self._part.unlink(missing_ok=True)

    def _told(self) -> _Told:
        return _Told(self.path, "cannot be written")


class Table:
    """A table of vectors, read some rows at a time.

    facts  what it says of itself
    len()  its rows

    Raises PerceivioError, in one line, for what is no such table, is damaged, or is empty.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        if not self.path.exists():
            raise PerceivioError(f"{path}: no such file; make one with `perceivio embed`")
        if not (self.path.is_file() or self.path.is_dir()):
            raise PerceivioError(f"{path}: is no file but a device or a pipe")
        with _Told(self.path, "is no table that can be read"):
            self._file = parquet.ParquetFile(self.path, page_checksum_verification=True)
            len(self)  # an altered file may say that it is below zero
        try:
            self.facts = Facts.of(self._file.schema_arrow)
        except PerceivioError as error:
            raise PerceivioError(f"{path}: {error}") from error
        if not len(self):
            raise PerceivioError(f"{path}: is empty")

    def __len__(self) -> int:
        return self._file.metadata.num_rows

    def __iter__(self) -> Iterator[Rows]:
        first = 0
        # Equal numbers take no room in the file, and all of theirs here: fewer rows of long ones.
        rows = max(1, min(ROWS, MOST_NUMBERS // self.facts.channels))
        with _Told(self.path, "is damaged"):
            for batch in self._file.iter_batches(rows):
                found = Rows.of(batch, first, self.facts.channels)
                if not np.isfinite(found.vectors).all():
                    raise PerceivioError(f"{self.path}: holds vectors that are not finite")
                yield found
                first += len(batch)


@dataclass(frozen=True)
class Rows:
    """Neighbouring rows of a table.

    first        number of the first of them
    files, starts, stops  (n,)
    vectors      (n, F) float32
    """

    first: int
    files: list[str]
    starts: list[float]
    stops: list[float]
    vectors: np.ndarray

    @classmethod
    def of(cls, batch: pa.RecordBatch, first: int, channels: int) -> Rows:  # pyright: ignore[reportUnknownParameterType]
        names = "file", "start", "stop"
        files, starts, stops = (batch.column(name).to_pylist() for name in names)
        flat: Any = batch.column("embedding").flatten()
        columns = *map(batch.column, (*names, "embedding")), flat
        if any(column.null_count for column in columns):
            raise pa.ArrowInvalid("rows lack values")
        vectors = flat.to_numpy(zero_copy_only=False).reshape(-1, channels)
        if not (np.isfinite(vectors).all() and np.isfinite([starts, stops]).all()):
            raise pa.ArrowInvalid("rows hold values that are not finite")
        return cls(first, files, starts, stops, vectors)

    def __len__(self) -> int:
        return len(self.files)


class _Told:
    """What Parquet's reader and writer raise, as a PerceivioError that names the file."""

    def __init__(self, path: Path, what: str) -> None:
        self._path, self._what = path, what

    def __enter__(self) -> None: ...

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, (pa.ArrowException, OSError, ValueError)):  # also of texts
            line = (str(error).strip().splitlines() or ["damaged"])[0]
            raise PerceivioError(f"{self._path}: {self._what}: {line}") from error
