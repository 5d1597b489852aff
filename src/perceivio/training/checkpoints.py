"""The states of a run on disk: whole or not there, the last few and the best few.

A checkpoint is written beside, forced to the disk, and renamed, so that one that has its name is
whole, whenever the process or the machine stops.
"""

from __future__ import annotations

import contextlib
import math
import os
import re
from collections.abc import Generator, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from .. import ffmpeg
from ..errors import PerceivioError
from .settings import Keep

VERSION = 1
PARTS: Mapping[str, type] = {  # of a state, see loop.py
    "step": int,
    "scores": dict,
    "settings": dict,
    "data": str,
    "config": dict,
    "module": dict,
    "average": dict,
    "optimiser": dict,
}


class CheckpointError(PerceivioError):
    """A checkpoint that cannot be written, or none that can be read."""


class Checkpoints:
    """The checkpoints of one run: files STEP.pt in a folder.

    A state is what `torch.save` takes and `torch.load` reads without running code; "step" counts
    the optimiser steps done, "scores" is {step: validation score}, lower is better.
    """

    def __init__(self, folder: Path, keep: Keep) -> None:
        self.folder, self.keep = folder, keep

    def steps(self) -> list[int]:
        """Those that are there, oldest first."""
        if not self.folder.is_dir():
            return []
        names = (re.fullmatch(r"(\d+)\.pt", path.name) for path in self.folder.iterdir())
        return sorted(int(name[1]) for name in names if name)

    def path(self, step: int) -> Path:
        return self.folder / f"{step:09d}.pt"

    def write(self, state: dict[str, Any]) -> Path:
        """Write a state, then remove those that are no longer to be kept.

        Raises CheckpointError where it cannot be written; then all that was there still is.
        """
        path = self.path(state["step"])
        part = path.with_suffix(".pt.part")
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with part.open("wb") as file:
                torch.save({"version": VERSION, **state}, file)
                file.flush()
                os.fsync(file.fileno())
            part.replace(path)
            sync_folder(self.folder)
        except (OSError, RuntimeError) as error:  # torch tells some failed writes as RuntimeError
            part.unlink(missing_ok=True)
            raise CheckpointError(
                f"cannot write {path}: {reason(error)}; {self.last_good()}"
            ) from error
        self._remove_others(state["scores"])
        return path

    def last_good(self) -> str:
        """What a message about a run that ends badly says of it."""
        steps = self.steps()
        if not steps:
            return "there is no checkpoint yet"
        return f"the last good checkpoint is {self.path(steps[-1])} (step {steps[-1]})"

    def newest(self) -> tuple[dict[str, Any] | None, list[str]]:
        """The newest state that can be read, None where there is none at all; and a note for each
        newer one that is damaged. Raises CheckpointError where there are only damaged ones."""
        notes = []
        for step in reversed(self.steps()):
            try:
                return self.read(step), notes
            except CheckpointError as error:
                notes.append(str(error))
        if notes:
            raise CheckpointError(notes[-1])
        return None, []

    def read(self, step: int) -> dict[str, Any]:
        path = self.path(step)
        try:
            state = dict(torch.load(path, map_location="cpu", weights_only=True))
            version = state["version"]
            size = path.stat().st_size
        except Exception as error:  # torch raises many kinds for a damaged file
            raise CheckpointError(f"{path} is damaged: {reason(error)}") from error
        if version != VERSION:
            raise CheckpointError(f"{path} is of version {version}, this perceivio reads {VERSION}")
        if sum(value.numel() * value.element_size() for value in _tensors(state)) > size:
            # One number can stand for a tensor of any size.
            raise CheckpointError(f"{path} declares more numbers than it has bytes for")
        return state

    def clean(self) -> None:
        """Remove what a killed process left half-written."""
        if self.folder.is_dir():
            for path in self.folder.glob("*.part"):
                path.unlink(missing_ok=True)

    def _remove_others(self, scores: dict[int, float]) -> None:
        steps = self.steps()
        kept = set(steps[-self.keep.last :]) | set(
            best([step for step in steps if step in scores], scores, self.keep.best)
        )
        for step in set(steps) - kept:
            self.path(step).unlink(missing_ok=True)


def _tensors(state: Any) -> Iterator[torch.Tensor]:
    """All in a state of dicts and lists, each place once: they may hold themselves."""
    left, seen = [state], set()
    while left:
        value = left.pop()
        if isinstance(value, torch.Tensor):
            yield value
        elif isinstance(value, dict | list | tuple) and id(value) not in seen:
            seen.add(id(value))
            left.extend(value.values() if isinstance(value, dict) else value)


def check_parts(state: Mapping[str, Any], step: int, path: Path) -> None:
    """Raises CheckpointError for a state that is not one of a run at this step."""
    wrong = [name for name, kind in PARTS.items() if not isinstance(state.get(name), kind)]
    if wrong or isinstance(state["step"], bool) or state["step"] != step:
        raise CheckpointError(f"{path} is no state of a run: see its {(wrong or ['step'])[0]}")


@contextlib.contextmanager
def told_of_state(path: Path) -> Generator[None]:
    """What a state that was altered breaks, as a CheckpointError that names it."""
    try:
        yield
    except PerceivioError as error:
        raise CheckpointError(f"{path}: {error}") from error
    except (AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path} is no state of a run: {reason(error)}") from error


def best(steps: Iterable[int], scores: dict[int, float], count: int) -> list[int]:
    """The `count` steps with the lowest scores; of equal ones the earlier, and NaN last."""
    return sorted(steps, key=lambda s: (math.isnan(scores[s]), scores[s], s))[:count]


def sync_folder(folder: Path) -> None:
    """Force a rename in this folder to the disk, where the system can."""
    if hasattr(os, "O_DIRECTORY"):
        number = os.open(folder, os.O_DIRECTORY)
        try:
            os.fsync(number)
        finally:
            os.close(number)


def reason(error: BaseException) -> str:
    """Why something could not be read or written, in a few words."""
    while not isinstance(error, OSError) and error.__context__ is not None:
        error = error.__context__
    if isinstance(error, OSError):
        return ffmpeg.reason(error)
    return " ".join(str(error).split())[:120] or type(error).__name__
