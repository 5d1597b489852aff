"""What is evaluated: the clips of folders, of lists of files and of indexes, in a fixed order."""

from __future__ import annotations

import contextlib
import hashlib
import tempfile
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Protocol

from ..config import Config
from ..errors import PerceivioError

if TYPE_CHECKING:
    from ..data.catalogue import Clip, Index


@dataclass(frozen=True)
class Source:
    """One clip.

    name   as it is told: its path behind the folder or the index as the user wrote it
    label  its class, if that is known
    size   bytes, if that is known
    local  makes a context that gives its file on the local disk
    """

    name: str
    label: str | None
    size: int | None
    local: Callable[[], AbstractContextManager[Path]]


@dataclass(frozen=True)
class Sources:
    """Clips by number, in a fixed order.

    count     how many
    identity  16 hexadecimal digits that name them: their names, classes and sizes, in their order
    """

    parts: tuple[_Part, ...]
    count: int
    identity: str

    @classmethod
    def of(
        cls,
        data: Sequence[str | Path],
        config: Config,
        root: str | Path | None = None,
        limit: int | None = None,
    ) -> Sources:
        """Of folders, media files and indexes (.parquet), in this order.

        root   folder in which the clips of an index are, where it is not the index's own
        limit  the first so many only

        A clip in a folder of a folder bears that folder's name as its class; one of an index, what
        the index says; a file that is named itself has none. Raises PerceivioError where there is
        nothing, and where folders or indexes need packages that are not installed.
        """
        parts = tuple(_part(str(each), config, root) for each in data)
        count = sum(len(part) for part in parts)
        found = cls(parts, count if limit is None else min(count, limit), "")
        if not found.count:
            raise PerceivioError(f"{', '.join(map(str, data))}: no clips are there")
        digest = hashlib.sha256()
        for source in found:
            told = f"{source.name}\0{source.label}\0{source.size}\n"
            digest.update(told.encode(errors="surrogateescape"))
        return cls(parts, found.count, digest.hexdigest()[:16])

    def __iter__(self) -> Iterator[Source]:
        return (self[number] for number in range(self.count))

    def __getitem__(self, number: int) -> Source:
        for part in self.parts:
            if number < len(part):
                return part[number]
            number -= len(part)
        raise IndexError(number)


class _Part(Protocol):
    """The clips of one folder, file or index, by number."""

    def __len__(self) -> int: ...

    def __getitem__(self, row: int, /) -> Source: ...


class _File:
    def __init__(self, path: Path) -> None:
        self._path = path

    def __len__(self) -> int:
        return 1

    def __getitem__(self, row: int, /) -> Source:
        size = self._path.stat().st_size if self._path.is_file() else None
        return Source(str(self._path), None, size, lambda: contextlib.nullcontext(self._path))


class _Rows:
    """Those of an index, or of a folder, which is an index that nobody checked."""

    def __init__(self, name: str, index: Index) -> None:
        self._name, self._index = name, index

    def __len__(self) -> int:
        return len(self._index)

    def __getitem__(self, row: int, /) -> Source:
        clip = self._index[row]
        name = f"{self._name}/{clip.path}"
        return Source(name, clip.label, clip.size, partial(_local, self._index, clip))


def _part(data: str, config: Config, root: str | Path | None) -> _Part:
    if data.lower().endswith(".parquet"):
        from ..data.catalogue import Index

        return _Rows(data, Index.read(data, root))
    if root is not None:
        raise PerceivioError("--root is for the clips of an index; a folder is its own root")
    if data.lower().endswith(".csv"):
        raise PerceivioError(f"{data}: make an index of it with `perceivio data index` first")
    path = Path(data)
    if path.is_dir() or "://" in data:
        return _Rows(data.rstrip("/"), _unchecked(data, config))
    if not path.exists():
        raise PerceivioError(f"{data}: no such file or folder")
    return _File(path)


def _unchecked(folder: str, config: Config) -> Index:
    """The videos of a folder as an index of what their names and sizes say."""
    from ..data.catalogue import Clip, Index
    from ..data.sources import of_folder
    from ..data.store import Place

    place = Place.of(folder)
    candidates, _ = of_folder(place, [modality for _, modality in config.beside()])
    unknown: dict[str, Any] = {"duration": 0.0, "frame_rate": 0.0, "width": 0, "height": 0}
    clips = [
        Clip(
            path=found.path, label=found.label, start=None, stop=None, **unknown, has_audio=False,
            sample_rate=None, size=found.size or 0, beside=found.beside,
        )
        for found in candidates
    ]  # fmt: skip
    return Index.of(place, clips)


@contextlib.contextmanager
def _local(index: Index, clip: Clip) -> Generator[Path]:
    """The clip's file; of one in a shard or on another store a copy, with the files beside it."""
    if clip.shard is None and index.root.is_local:
        yield Path((index.root / clip.path).path)
        return
    with tempfile.TemporaryDirectory(prefix="perceivio-") as folder:
        path = Path(folder) / PurePosixPath(clip.path).name
        path.write_bytes(index.bytes_of(clip))
        for file in clip.beside:
            near = Path(folder) / PurePosixPath(file.path).name
            near.write_bytes(index.bytes_beside(clip, file))
        yield path
