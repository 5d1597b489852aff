"""Files on any store that fsspec knows: local folders, object stores, memory.

A place is written as users write it: `videos`, `/data/videos`, `s3://bucket/videos`.
"""

from __future__ import annotations

import errno
import os
import posixpath
import stat
import tempfile
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

import fsspec
from fsspec.implementations.local import LocalFileSystem

from ..errors import PerceivioError


@dataclass(frozen=True)
class Place:
    """A file or a folder on a store; `path` is absolute there, parts divided by "/".

    It holds no connection, so that it can go to another process.
    """

    protocol: str
    path: str

    @classmethod
    def of(cls, url: str | Path) -> Place:
        """Raises PerceivioError for a store that is unknown or whose package is not installed."""
        try:
            store, path = fsspec.core.url_to_fs(str(url))
        except (ValueError, ImportError) as error:
            raise PerceivioError(f"{url}: no such store: {error}") from error
        # Windows and a trailing slash aside, a path is only ever joined to and compared.
        path = posixpath.normpath(path) if path else ""
        return cls("file" if isinstance(store, LocalFileSystem) else _name(store), path)

    @property
    def store(self) -> Any:
        # fsspec keeps one for each process and thread, and makes a new one behind a fork.
        return fsspec.filesystem(self.protocol)

    @property
    def is_local(self) -> bool:
        return self.protocol == "file"

    @property
    def parent(self) -> Place:
        return Place(self.protocol, posixpath.dirname(self.path))

    @property
    def name(self) -> str:
        return posixpath.basename(self.path)

    def __truediv__(self, relative: str) -> Place:
        return Place(self.protocol, posixpath.normpath(posixpath.join(self.path, relative)))

    def __str__(self) -> str:
        return self.path if self.is_local else self.store.unstrip_protocol(self.path)

    def relative_to(self, folder: Place) -> str:
        """From `folder` to here, with ".." where it must be. Both are on one store."""
        return posixpath.relpath(self.path or "/", folder.path or "/")

    def holds(self, other: Place) -> bool:
        """Whether `other` is here or anywhere below."""
        return self.protocol == other.protocol and (
            posixpath.commonpath([self.path or "/", other.path or "/"]) == (self.path or "/")
        )

    def is_folder(self) -> bool:
        return bool(self.store.isdir(self.path))

    def exists(self) -> bool:
        return bool(self.store.exists(self.path))

    def files(self) -> dict[str, int | None]:
        """Every file below this folder, sorted: its path from here, and its size in bytes; None
        for a link to nowhere."""
        if self.is_local:
            return dict(sorted(_local_files(Path(self.path))))
        found = self.store.find(self.path, detail=True)
        sizes = ((posixpath.relpath(path, self.path), found[path]["size"]) for path in found)
        return dict(sorted(sizes))

    def read(self, offset: int = 0, size: int | None = None) -> bytes:
        """The file, or `size` bytes of it from `offset` on."""
        self._is_no_pipe()
        end = None if size is None else offset + size
        return self.store.cat_file(self.path, start=offset, end=end)

    def open(self) -> BinaryIO:
        """The file, to read and to seek in."""
        self._is_no_pipe()
        return cast(BinaryIO, self.store.open(self.path, "rb"))

    def _is_no_pipe(self) -> None:
        """Raises OSError for what might never be written to the end."""
        if self.is_local:
            kind = Path(self.path).stat().st_mode
            if not (stat.S_ISREG(kind) or stat.S_ISDIR(kind)):
                raise OSError(errno.EINVAL, "is no file but a device or a pipe")

    def make_folder(self) -> None:
        self.store.makedirs(self.path, exist_ok=True)

    @contextmanager
    def write(self) -> Generator[BinaryIO]:
        """A file to write, which appears under its name only when the block ends well.

        A local one is written beside and renamed: after a kill only a `.part` is left, which the
        next try replaces. For another store it is written on the local disk and sent whole.
        """
        if self.is_local:
            part = Path(self.path).with_name(f".{self.name}.part")
            try:
                with part.open("wb") as file:
                    yield file
                part.replace(self.path)
            finally:
                part.unlink(missing_ok=True)
        else:
            with tempfile.NamedTemporaryFile() as file:
                yield cast(BinaryIO, file)
                file.flush()
                self.store.put_file(file.name, self.path)


def _local_files(folder: Path) -> Iterator[tuple[str, int | None]]:
    """As `Place.files`, but linked folders are entered, which fsspec does not do."""
    for where, folders, names in os.walk(folder, followlinks=True):
        here = Path(where)
        real = here.resolve()
        # A link to a folder around it would be walked for ever.
        folders[:] = [name for name in folders if not real.is_relative_to((here / name).resolve())]
        for name in names:
            path = here / name
            yield (
                path.relative_to(folder).as_posix(),
                path.stat().st_size if path.exists() else None,
            )


def _name(store: Any) -> str:
    protocol = store.protocol
    return protocol if isinstance(protocol, str) else protocol[0]
