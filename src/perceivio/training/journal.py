"""The losses of every step, one line of JSON each, in a file that any tool can plot.

It holds nothing that depends on time or machine: a run that was killed and went on leaves the very
file of one that was not.
"""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path
from typing import Any

from .checkpoints import CheckpointError, reason


class Journal:
    """The file, open to be written on after step `step`; later lines, of a run that was stopped
    behind its last checkpoint, are cut off."""

    def __init__(self, path: Path, step: int) -> None:
        self.path = path
        try:
            kept = 0
            if path.exists():
                for line in path.read_bytes().splitlines(keepends=True):
                    if _step(line) > step:
                        break
                    kept += len(line)
            self._file = path.open("r+b" if path.exists() else "wb")
            self._file.seek(kept)
            self._file.truncate()
        except OSError as error:
            raise CheckpointError(f"cannot write {path}: {reason(error)}") from error

    def write(self, line: dict[str, Any]) -> None:
        """Raises CheckpointError where the disk is full."""
        try:
            self._file.write(json.dumps(line).encode() + b"\n")
            self._file.flush()
        except OSError as error:
            raise CheckpointError(f"cannot write {self.path}: {reason(error)}") from error

    def sync(self) -> None:
        """Force it to the disk: before a checkpoint that counts on it."""
        try:
            os.fsync(self._file.fileno())
        except OSError as error:
            raise CheckpointError(f"cannot write {self.path}: {reason(error)}") from error

    def close(self) -> None:
        with contextlib.suppress(OSError):  # what could not be written has been told
            self._file.close()


def _step(line: bytes) -> float:
    """That a line is about; a torn one is about none before the end."""
    try:
        return json.loads(line)["step"] if line.endswith(b"\n") else float("inf")
    except ValueError:
        return float("inf")
