"""Writes a file of latents, record by record, and goes on with one that was not finished.

While it is written it is called NAME.part. Whoever goes on with it cuts off what is not whole, so a
process may be killed at any moment.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Self

import torch
from safetensors.torch import save
from torch import Tensor

from .errors import PerceivioError
from .latents import (
    COUNT,
    DONE,
    HEAD,
    LATS,
    MAGIC,
    MOMENT,
    NOTE,
    PREFIX,
    UNFINISHED,
    VERSION,
    Header,
    LatentsError,
    chunk_of,
    notes_to_json,
    read_head,
    read_record,
)
from .quantise import Precision, pack
from .writer import check_free


def block_size(precision: Precision, latents: int, channels: int) -> int:
    """Bytes of safetensors that N x D latents take: the same for all latents."""
    return len(save(pack(torch.zeros(latents, channels), precision)))


class LatentsWriter:
    """Appends records to NAME.part, which becomes NAME when it is whole.

    >>> with LatentsWriter("clip.latents", header) as writer:
    ...     for index in range(writer.done, windows):
    ...         writer.add(start, stop, frames, samples, latents)
    ...     writer.finish()

    done  records that there are: more than none at the beginning where NAME.part was begun with the
          same header, and is gone on with

    overwrite  replace what is there: a NAME, and a NAME.part with another header

    Left without `finish`, however that came, NAME.part stays, unless it has no record. Raises
    LatentsError or MediaError, in one line, for a NAME or another NAME.part that are in the way, a
    NAME.part that another process is writing, and where it cannot be written.
    """

    def __init__(
        self, path: str | os.PathLike[str], header: Header, overwrite: bool = False
    ) -> None:
        self.path = Path(path)
        self.part = self.path.with_name(self.path.name + UNFINISHED)
        self.done = 0
        self._header, self._overwrite = header, overwrite
        check_free(self.path, overwrite)
        try:
            self._file = self._locked()
            try:
                self._check = self._begin()
            except BaseException:
                self._file.close()
                raise
        except OSError as error:
            raise self._unwritable(error) from error

    def add(self, start: float, stop: float, frames: int, samples: int, latents: Tensor) -> None:
        """Append the latents (1, N, D) of the next window; the rest as in `latents.Record`."""
        block = save(pack(latents[0], self._header.precision))
        if len(block) != self._header.block:
            raise ValueError(f"{len(block)} bytes of latents, not {self._header.block}")
        self._append(LATS, MOMENT.pack(self.done, start, stop, frames, samples) + block)
        self.done += 1

    def finish(self, notes: Sequence[str] = (), lost: tuple[int, float] = (0, 0.0)) -> None:
        """Say that this was the last record, and give the file its name. `notes` and `lost` as in
        LatentsFile."""
        self._append(NOTE, notes_to_json(notes, lost))
        self._append(DONE, COUNT.pack(self.done))
        try:
            os.fsync(self._file.fileno())
            check_free(self.path, self._overwrite)
            if os.name == "nt":
                self._file.close()
            self.part.replace(self.path)
        except OSError as error:
            raise self._unwritable(error) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if not self.done:  # nothing to go on with; gone already where it was finished
            self.part.unlink(missing_ok=True)
        self._file.close()

    # ---- the file

    def _locked(self) -> IO[bytes]:
        """NAME.part, opened or made, and locked until it is closed or the process ends."""
        flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0)
        file = os.fdopen(os.open(self.part, flags, 0o666), "r+b", buffering=0)
        try:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except ImportError:
            return file  # Windows
        except BlockingIOError as error:
            file.close()
            raise LatentsError(f"{self.part}: another process is writing it") from error
        except OSError:
            return file  # file systems of clusters have no locks
        if not os.path.samestat(os.fstat(file.fileno()), self.part.stat()):
            file.close()  # it became NAME between our opening and locking it
            raise LatentsError(f"{self.path}: another process has just written it")
        return file

    def _begin(self) -> bytes:
        """Write the header, or go behind the last whole record; returns the checksum there."""
        prefix = PREFIX.pack(MAGIC, VERSION)
        chunk, check = chunk_of(HEAD, self._header.to_json(), prefix)
        head = prefix + chunk
        there = self._file.read(len(head))
        if len(there) == len(head) or not head.startswith(there):  # more than our own, cut off
            try:
                found, first, last = read_head(self._file)
            except LatentsError as error:
                self._refuse(str(error), error)
            else:
                other = _difference(self._header, found)
                if other is None:
                    return self._go_on(first, last)
                self._refuse(f"was begun with another {other}")
        self._file.seek(0)
        self._file.truncate()
        try:
            self._write(head)
        except OSError:
            self.part.unlink(missing_ok=True)
            raise
        return check

    def _go_on(self, first: int, check: bytes) -> bytes:
        while True:
            try:
                _, check = read_record(self._file, self._header, first, self.done)
            except LatentsError:
                break
            self.done += 1
        end = first + self.done * self._header.record
        self._file.seek(end)
        self._file.truncate()
        return check

    def _refuse(self, reason: str, error: Exception | None = None) -> None:
        """An unfinished file is not ours to replace, unless that was asked for."""
        if not self._overwrite:
            raise LatentsError(
                f"{self.part}: {reason}; remove it, or add --overwrite to begin anew"
            ) from error

    def _append(self, name: bytes, held: bytes) -> None:
        chunk, self._check = chunk_of(name, held, self._check)
        try:
            self._write(chunk)
        except OSError as error:
            raise self._unwritable(error) from error

    def _write(self, data: bytes) -> None:
        left = memoryview(data)
        while left:
            left = left[self._file.write(left) :]

    def _unwritable(self, error: OSError) -> PerceivioError:
        return LatentsError(f"{self.path}: cannot be written: {error.strerror or error}")


def _difference(wanted: Header, found: Header) -> str | None:
    """In words, the first thing in which an unfinished file is another; None for none."""
    for field in dataclasses.fields(Header):
        ours, theirs = getattr(wanted, field.name), getattr(found, field.name)
        if ours != theirs and field.name != "model":
            name = {"identity": "model", "files": "source"}.get(field.name, field.name)
            told = "" if field.name in ("identity", "files") else f" ({theirs}, not {ours})"
            return name.replace("_", " ") + told
    return None
