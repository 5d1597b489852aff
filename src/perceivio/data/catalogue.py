"""An index: one row for each clip of a data set, in a Parquet file that any tool can read."""

from __future__ import annotations

import dataclasses
import io
import json
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.parquet as parquet

from .. import ffmpeg
from ..beside import File
from ..config import Modality
from ..errors import MediaError, PerceivioError
from .store import Place

VERSION = 2
READ = (1, 2)  # versions; the first knew of no files beside clips
METADATA = b"perceivio"  # key of our JSON in the Parquet file's metadata


class DataError(PerceivioError):
    """A data set that cannot be read or written as asked."""


@dataclass(frozen=True)
class Beside:
    """A file beside a clip, whose modality a configuration declares.

    path    as a clip's
    size    bytes
    offset  its first byte in the clip's shard; None for a file of its own
    """

    path: str
    size: int
    offset: int | None = None


@dataclass(frozen=True)
class Clip:
    """A row of an index.

    path          of the clip's file from the data set's root, parts divided by "/"; in a pack,
                  what it was before
    label         name of its class, if it has one
    start, stop   seconds in the longer video that it was cut from, where annotations say so
    duration      seconds from its first frame to the end of its last
    frame_rate    frames/s
    width, height  in square pixels, upright
    has_audio, sample_rate  whether it has sound, and at how many Hz
    size          bytes of its file, or of its part of a shard
    shard, offset  the shard it is packed in, and its first byte there; None for a file of its own
    beside        files beside it that can be read as they were declared
    """

    path: str
    label: str | None
    start: float | None
    stop: float | None
    duration: float
    frame_rate: float
    width: int
    height: int
    has_audio: bool
    sample_rate: int | None
    size: int
    shard: str | None = None
    offset: int | None = None
    beside: tuple[Beside, ...] = ()

    def __post_init__(self) -> None:
        files = (b if isinstance(b, Beside) else Beside(**b) for b in self.beside or ())
        object.__setattr__(self, "beside", tuple(files))


BESIDE = pa.struct(
    [
        pa.field("path", pa.string(), nullable=False),
        pa.field("size", pa.int64(), nullable=False),
        pa.field("offset", pa.int64()),
    ]
)
COLUMNS = pa.schema(
    [
        pa.field("path", pa.string(), nullable=False),
        pa.field("label", pa.string()),
        pa.field("start", pa.float64()),
        pa.field("stop", pa.float64()),
        pa.field("duration", pa.float64(), nullable=False),
        pa.field("frame_rate", pa.float64(), nullable=False),
        pa.field("width", pa.int32(), nullable=False),
        pa.field("height", pa.int32(), nullable=False),
        pa.field("has_audio", pa.bool_(), nullable=False),
        pa.field("sample_rate", pa.int32()),
        pa.field("size", pa.int64(), nullable=False),
        pa.field("shard", pa.string()),
        pa.field("offset", pa.int64()),
        pa.field("beside", pa.list_(BESIDE)),
    ]
)


@dataclass(frozen=True)
class Index:
    """The clips of a data set, and where they are.

    root     folder of the files or of the shards
    classes  names of the classes, sorted; a clip's class index counts in these
    table    the columns of `Clip`
    """

    root: Place
    classes: tuple[str, ...]
    table: pa.Table

    @classmethod
    def of(cls, root: Place, clips: Iterable[Clip]) -> Index:
        """An index of these clips, in this order; its classes are the labels they bear."""
        rows = [dataclasses.asdict(clip) for clip in clips]
        table = pa.Table.from_pylist(rows, schema=COLUMNS)
        labels = {row["label"] for row in rows} - {None}
        return cls(root, tuple(sorted(labels)), table)

    @classmethod
    def read(cls, url: str | Path | Place, root: str | Path | None = None) -> Index:
        """An index from its file. `root` says where the clips are now, if they were moved alone.

        Raises DataError for a file that is absent or no index.
        """
        place = url if isinstance(url, Place) else Place.of(url)
        try:
            table = parquet.read_table(io.BytesIO(place.read()))
        except (FileNotFoundError, IsADirectoryError) as error:
            raise DataError(
                f"{place}: no such index; make one with `perceivio data index`"
            ) from error
        except (pa.ArrowException, ValueError, OSError) as error:
            raise DataError(f"{place}: not an index: no Parquet file") from error
        told = (table.schema.metadata or {}).get(METADATA)
        if told is None:
            raise DataError(f"{place}: not an index: made by another program")
        try:
            facts = json.loads(told)
            if facts["version"] not in READ:
                raise DataError(
                    f"{place}: made by another version; run `perceivio data index` again"
                )
            if root is not None:
                home = Place.of(root)
            elif facts["root_is_relative"]:
                home = place.parent / facts["root"]
            else:
                home = Place.of(facts["root"])
            if facts["version"] == 1:
                none = pa.nulls(len(table), COLUMNS.field("beside").type)
                table = table.append_column("beside", none)
            classes = tuple(facts["classes"])
            table = table.select(COLUMNS.names).cast(COLUMNS)
            table.validate(full=True)  # texts too, which are else looked at one by one
            return cls(home, classes, table)
        except (KeyError, TypeError, ValueError, RecursionError, pa.ArrowException) as error:
            raise DataError(f"{place}: not an index: damaged, or altered") from error

    def write(self, place: Place) -> None:
        """Write it, whole or not at all.

        Where the index lies inside the root or above it, the root is told from the index, so that
        the two can move together; else by its full name.
        """
        near = self.root.holds(place.parent) or place.parent.holds(self.root)
        facts = {
            "version": VERSION,
            "root": self.root.relative_to(place.parent) if near else str(self.root),
            "root_is_relative": near,
            "classes": self.classes,
        }
        table = self.table.replace_schema_metadata({METADATA: json.dumps(facts).encode()})
        try:
            with place.write() as file:
                parquet.write_table(table, file)
        except OSError as error:
            raise DataError(f"{place}: cannot be written: {ffmpeg.reason(error)}") from error

    def __len__(self) -> int:
        return self.table.num_rows

    def __getitem__(self, row: int) -> Clip:
        if not -len(self) <= row < len(self):
            raise IndexError(f"row {row} of an index of {len(self)} clips")
        return Clip(*(column[row % len(self)].as_py() for column in self._columns))

    @cached_property
    def _columns(self) -> list[Any]:
        return [self.table.column(field.name) for field in dataclasses.fields(Clip)]

    def bytes_of(self, clip: Clip) -> bytes:
        """The clip's media file, whole. Raises MediaError where it cannot be read."""
        return self._bytes(clip.shard, clip)

    def bytes_beside(self, clip: Clip, file: Beside) -> bytes:
        """One of the files beside the clip, whole. Raises MediaError where it cannot be read."""
        return self._bytes(clip.shard, file)

    def _bytes(self, shard: str | None, what: Clip | Beside) -> bytes:
        try:
            if shard is None:
                return self._place(what.path).read()
            data = self._place(shard).read(what.offset or 0, what.size)
        except OSError as error:
            raise MediaError(f"{what.path}: cannot be read: {ffmpeg.reason(error)}") from error
        except (MemoryError, OverflowError, ValueError) as error:
            raise MediaError(f"{what.path}: is at no place in {shard}") from error
        if len(data) != what.size:
            raise MediaError(f"{what.path}: {shard} ends before it does")
        return data

    def open(self, clip: Clip) -> Any:
        """The clip as an open PyAV container. Raises MediaError where it cannot be read."""
        if clip.shard is not None:
            return ffmpeg.open_stream(io.BytesIO(self.bytes_of(clip)), clip.path)
        return open_file(self._place(clip.path))

    def _place(self, path: str) -> Place:
        """A file of the data set. Raises MediaError for one that would be elsewhere."""
        if path.startswith("/") or ".." in path.split("/"):
            raise MediaError(f"{path}: leads out of the data set, and is not read")
        return self.root / path

    def beside(self, clip: Clip, modality: Modality) -> File | None:
        """The file beside the clip that the modality is read from, if there is one."""
        wanted = path_beside(clip.path, modality)
        file = next((file for file in clip.beside if file.path == wanted), None)
        if file is None:
            return None

        def content() -> bytes:
            return self.bytes_beside(clip, file)

        if clip.shard is not None:
            return File(wanted, lambda: ffmpeg.open_stream(io.BytesIO(content()), wanted), content)
        return File(wanted, lambda: open_file(self._place(wanted)), content)


def path_beside(path: str, modality: Modality) -> str:
    """Of the file that the modality is read from, beside the clip of this path."""
    clip = PurePosixPath(path)
    return str(clip.with_name(modality.file_beside(clip.stem)))


def open_file(place: Place) -> Any:
    """A media file of its own as an open PyAV container; of a remote one only what is needed."""
    if place.is_local:
        return ffmpeg.open_media(Path(place.path))
    try:
        return ffmpeg.open_stream(place.open(), str(place))
    except OSError as error:
        raise MediaError(f"{place}: cannot be read: {ffmpeg.reason(error)}") from error
