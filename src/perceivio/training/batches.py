"""Which clips a step sees, what of them is masked, and which points are asked for.

Nothing here has a state: clip n of a run, counted from its first step on, is the same whoever asks
and whenever, and so is all that is drawn at random about it.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Generator, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from ..config import Config
from ..data.dataset import ClipDataset, Epochs, as_inputs, present
from ..errors import PerceivioError
from .errors import RunError
from .settings import Data, Objective, SettingsError
from .signals import ignored

# First numbers of keys, so that no two kinds of draws share one. Those of examples and of their
# order are shorter keys, drawn in data/dataset.py.
MASKS, POINTS = 1, 2


@dataclass(frozen=True)
class Share:
    """The part of every step that one process takes.

    batch  clips a step, all processes together
    turns  in which each process takes its part
    rank, ranks  of the process
    """

    batch: int
    turns: int
    rank: int = 0
    ranks: int = 1

    @classmethod
    def of(cls, batch: int, at_once: int, rank: int, ranks: int) -> Share:
        """With as few turns as can be. Raises SettingsError where `ranks` does not divide
        `batch`."""
        if batch % ranks:
            raise SettingsError(
                f"run.batch = {batch} cannot be shared by {ranks} processes; it must be a multiple"
                f" of {ranks}"
            )
        part = batch // ranks
        turns = next(n for n in range(1, part + 1) if part % n == 0 and part // n <= at_once)
        return cls(batch, turns, rank, ranks)

    @property
    def clips(self) -> int:
        """Of one turn of one process."""
        return self.batch // (self.ranks * self.turns)

    def numbers(self, step: int, turn: int) -> range:
        """The clips of this process, counted from the beginning of the run."""
        first = step * self.batch + (turn * self.ranks + self.rank) * self.clips
        return range(first, first + self.clips)


class Turns(Sampler[list[tuple[int, int, int]]]):
    """Keys (epoch, row, number) of the clips of this process, turn after turn, from a step on."""

    def __init__(self, rows: int, seed: int, share: Share, step: int, steps: int) -> None:
        self.rows, self.seed, self.share = rows, seed, share
        self.step, self.steps = step, steps

    def __len__(self) -> int:
        return (self.steps - self.step) * self.share.turns

    def __iter__(self) -> Iterator[list[tuple[int, int, int]]]:
        share = self.share
        stream = self._stream(self.step * share.batch)
        for step in range(self.step, self.steps):
            first = step * share.batch
            everyone = list(islice(stream, share.batch))
            for turn in range(share.turns):
                yield [
                    (*everyone[number - first], number) for number in share.numbers(step, turn)
                ]

    def _stream(self, first: int) -> Iterator[tuple[int, int]]:
        """(epoch, row) of clip `first` of the run and all after it, epoch after epoch."""
        epoch, skipped = divmod(first, self.rows)
        while True:
            yield from Epochs(self.rows, self.seed, epoch, skipped)
            epoch, skipped = epoch + 1, 0


class Numbered(Dataset[dict[str, Any]]):
    """A data set whose examples know their number in the run."""

    def __init__(self, clips: ClipDataset) -> None:
        self.clips = clips

    def __getitem__(self, key: tuple[int, int, int]) -> dict[str, Any]:
        epoch, row, number = key
        return {**self.clips[epoch, row], "number": number}


def read(
    examples: Dataset[dict[str, Any]], keys: Iterable[Any], workers: int
) -> Generator[dict[str, Any]]:
    """Collated examples, a batch for each list of keys, read ahead by `workers` processes, which
    live until this is closed.

    Raises the error of an example in one line, as if it had not been in another process, and
    RunError where such a process has died; see `readers_watched` too.
    """
    try:
        yield from _read(examples, keys, workers)
    except PerceivioError as error:
        told = str(error)
        if told.startswith("Caught "):  # a worker's, made anew by torch: its traceback is the text
            told = str(error.args[0]).strip().splitlines()[-1].partition(": ")[2]
        raise RunError(told) from error
    except (OSError, EOFError) as error:  # the connection to it broke before torch knew
        if not workers:
            raise
        raise _died(error) from error


@contextlib.contextmanager
def readers_watched() -> Generator[None]:
    """Where a process that reads clips dies, torch raises wherever this one is, in the middle of a
    step too. Raises RunError instead, in one line."""
    try:
        yield
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise _died(error) from error


def _died(error: Exception) -> RunError:
    last = (str(error).strip().splitlines() or ["its connection is closed"])[-1]
    return RunError(f"a process that reads clips has died: {last}")


def _read(
    examples: Dataset[dict[str, Any]], keys: Iterable[Any], workers: int
) -> Generator[dict[str, Any]]:
    batches: Any = iter(
        DataLoader(
            examples,
            batch_sampler=keys,
            num_workers=workers,
            worker_init_fn=ignored if workers else None,
            pin_memory=torch.cuda.is_available(),
        )
    )
    try:
        yield from batches
    finally:
        # torch does so when the last reference goes; an error's traceback may hold one until this
        # process ends, and then it would wait for processes that know no signal. Of one that was
        # killed, torch may only tell here.
        if workers:
            batches._shutdown_workers()


def workers_of(settings: Data, here: int) -> int:
    """Processes that read clips for each of the `here` processes of this machine that train: the
    cores there are, but one for itself."""
    if settings.workers >= 0:
        return settings.workers
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return max(1, min(16, (cores or 1) // here - 1))


def inputs_of(
    batch: Mapping[str, Any], clips: ClipDataset, config: Config
) -> dict[str, Tensor]:
    """A collated batch -> the model's inputs."""
    classes = config.classes()
    inputs = as_inputs(dict(batch), clips.format, classes[1].channels if classes else 1)
    label = inputs.pop("label")
    return inputs if classes is None else {**inputs, classes[0]: label}


def known_of(
    batch: Mapping[str, Any], clips: ClipDataset, config: Config
) -> dict[str, Tensor]:
    """Which clips of a collated batch have what: (B,) booleans of those modalities that a clip may
    be without, classes and what is read from files beside."""
    classes = config.classes()
    found = present(dict(batch), clips.format)
    labelled = found.pop("label")
    return found if classes is None else {**found, classes[0]: labelled}


def draw_masks(
    seed: int,
    numbers: Tensor,
    known: Mapping[str, Tensor],
    objectives: Mapping[str, Objective],
    config: Config,
) -> dict[str, Tensor]:
    """Which inputs are replaced by the mask token: (B,) booleans by modality, keyed by
    (seed, number of the clip in the run).

    Each modality is masked with its own probability, on its own; but a draw in which no grid at
    all would be left to tell from is drawn again. What a clip does not have (`known`) is masked.
    """
    names = sorted(name for name, o in objectives.items() if o.mask or name in known)
    grids = [name for name, modality in config.modalities.items() if not modality.is_classes]
    shares = np.array([objectives[name].mask for name in names])
    rows = []
    for n, number in enumerate(numbers.tolist()):
        has = [name for name in grids if name not in known or known[name][n]]
        seen = [names.index(name) for name in has if name in names]
        can_all_go = len(seen) == len(has) and bool((shares[seen] < 1).any())
        random = np.random.default_rng((MASKS, 0, 0, 0, seed, number))
        row = random.random(len(names)) < shares
        while can_all_go and row[seen].all():
            row = random.random(len(names)) < shares
        rows.append(row)
    masks = torch.from_numpy(np.array(rows)).reshape(len(rows), len(names))
    masked = {name: masks[:, n] for n, name in enumerate(names)}
    return {name: mask | ~known[name] if name in known else mask for name, mask in masked.items()}


def draw_points(
    seed: int, step: int, rank: int, objectives: Mapping[str, Objective], config: Config
) -> dict[str, Tensor | None]:
    """Output points (P,) to decode by modality, without repetition, sorted; None: all of it. Keyed
    by (seed, step, rank): all clips that a process takes in a step are asked for the same."""
    points: dict[str, Tensor | None] = {}
    for n, (name, objective) in enumerate(sorted(objectives.items())):
        queries = config.modalities[name].queries
        if not objective.points or objective.points >= queries:
            points[name] = None
            continue
        random = np.random.default_rng((POINTS, 0, 0, 0, seed, step, rank, n))
        chosen = random.choice(queries, objective.points, replace=False, shuffle=False)
        points[name] = torch.from_numpy(np.sort(chosen))
    return points
