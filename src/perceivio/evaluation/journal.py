"""The journal of an evaluation: a line for its settings, then one for each finished file.

What is printed and written at the end is made from it alone, so an evaluation that was killed and
goes on ends with the bytes of one that was not.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ..errors import PerceivioError
from .files import File

NAME = "journal.jsonl"


class Journal:
    """That of a folder, which is made where there is none; open to be written on.

    settings   what figures depend on. Those of a journal that is there must be the same
    overwrite  begin anew, whatever is there

    Raises PerceivioError in one line for other settings, for a folder of something else, and where
    it cannot be written. `finished` counts the files in it.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any], overwrite: bool = False) -> None:
        self._path = folder / NAME
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if overwrite or not self._path.exists():
                self._begin(settings, overwrite)
            self._check(settings)
            whole = [len(line) for line in self._lines() if line.endswith(b"\n")]
            self._file = self._path.open("r+b")
            self._file.truncate(sum(whole))  # a kill can tear the last line
            self._file.seek(sum(whole))
        except OSError as error:
            raise PerceivioError(
                f"{folder}: cannot be written: {(error.strerror or str(error)).lower()}"
            ) from error
        self.finished = len(whole) - 1

    def add(self, file: File) -> None:
        """A finished file. It is on the disk when this returns."""
        try:
            self._file.write(_line(file.to_dict()))
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:
            raise PerceivioError(f"cannot write {self._path}: {error.strerror or error}") from error
        self.finished += 1

    def files(self) -> Iterator[File]:
        """The finished files, in their order, one at a time."""
        lines = self._lines()
        next(lines)
        return (File.from_dict(json.loads(line)) for line in lines)

    def close(self) -> None:
        self._file.close()

    def _begin(self, settings: Mapping[str, Any], overwrite: bool) -> None:
        """A journal of no files, whole from its first moment on."""
        folder = self._path.parent
        if not overwrite and any(not path.name.endswith(".part") for path in folder.iterdir()):
            raise PerceivioError(
                f"{folder}: is not empty, and no evaluation to go on with; name another folder"
                " with -o, or add --overwrite"
            )
        part = self._path.with_name(f".{NAME}.part")
        part.write_bytes(_line({"settings": settings}))
        part.replace(self._path)

    def _check(self, settings: Mapping[str, Any]) -> None:
        try:
            begun = dict(json.loads(next(self._lines(), b""))["settings"])
        except (ValueError, KeyError, TypeError) as error:
            raise PerceivioError(
                f"{self._path}: is no journal of an evaluation; name another folder with -o"
            ) from error
        wanted = json.loads(_line(settings))  # as they are read back
        if begun != wanted:
            other = [key for key in wanted if begun.get(key) != wanted[key]]
            raise PerceivioError(
                f"{self._path.parent}: holds an evaluation with other settings"
                f" ({', '.join(other)}); name another folder with -o, or add --overwrite to begin"
                " anew"
            )

    def _lines(self) -> Iterator[bytes]:
        with self._path.open("rb") as file:
            yield from file


def _line(plain: Mapping[str, Any]) -> bytes:
    return json.dumps(plain, allow_nan=False).encode() + b"\n"
