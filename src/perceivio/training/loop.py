"""The loop: steps, validations, checkpoints; stopped at any moment, it goes on as if it had not
been. What is in the folder of a run, folder.py says.
"""

from __future__ import annotations

import contextlib
import math
import signal
import time
from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from ..autoencoder import Autoencoder
from ..console import aside
from . import signals, validate
from .averages import Average
from .batches import (
    Numbered,
    Share,
    Turns,
    draw_masks,
    draw_points,
    inputs_of,
    known_of,
    read,
    readers_watched,
    workers_of,
)
from .checkpoints import best, told_of_state
from .errors import RunError, told_once
from .folder import RunFolder
from .losses import Learner
from .optimisers import optimiser_of, rate_at, set_rate, take_moments
from .processes import Processes, begun, check_device, computed_otherwise
from .record import Record, tell_start
from .settings import Settings
from .split import Split
from .start import Declared, Start, objectives_of, resumed
from .tally import Tally

NAMED = 3  # clips that a message names


@dataclass(frozen=True)
class Result:
    """How a run ended.

    model    folder of the averaged weights
    step     optimiser steps done
    scores   of the last validation, None where none was done this time
    stopped  the signal that asked it to stop, None where it is complete
    first    whether this is the first of its processes, which speaks for all
    """

    model: Path
    step: int
    scores: validate.Scores | None
    stopped: int | None
    first: bool


def train(
    data: str | Path,
    folder: str | Path,
    settings: Settings,
    *,
    root: str | Path | None = None,
    device: str | None = None,
    other_settings: bool = False,
) -> Result:
    """Train in `folder`, from the beginning or from where its last checkpoint is.

    data            an index, from `perceivio data index` or `pack`
    root            folder in which its clips are, where it is not the index's own
    device          "cpu", or None for a GPU where there is one
    other_settings  go on although settings differ from those that the run was begun with

    Started by `accelerate launch` or `torchrun` it is one of several processes. Raises a
    PerceivioError, in one line, for bad settings, data that is not there, a folder of another run,
    a full disk, and losses that are not finite; in all but one of several processes
    ElsewhereError.
    """
    with told_once():
        check_device(device)
        declared = Declared.by(settings)
    objectives = objectives_of(settings, declared.config)
    with begun(settings, objectives, device) as processes, contextlib.ExitStack() as ends:
        split = processes.each(lambda: Split.of(data, root, settings))
        kept = RunFolder(folder, settings.keep)
        ends.callback(kept.close)
        processes.first(kept.claim)
        state = processes.first(lambda: kept.newest(settings, split.identity, other_settings))
        step = processes.told(state["step"] if state else None)
        if step is not None:  # the others read it themselves; it is too large to send
            state = processes.each(lambda: state or kept.checkpoints.read(step))
        run = Run(processes, declared, split, kept, state)
        ends.callback(run.close)
        return run.go()


class Run:
    """The parts of a run, as they stand at `step` optimiser steps done.

    Of several processes each has all but the record, which is the first one's; their models are
    alike, and each takes its share of every step's clips.
    """

    def __init__(
        self,
        processes: Processes,
        declared: Declared,
        split: Split,
        folder: RunFolder,
        state: Mapping[str, Any] | None,
    ) -> None:
        """As it begins, or as it was in a checkpoint's state."""
        settings = declared.settings
        self.settings, self.processes, self.folder, self.split = settings, processes, folder, split
        run, device = settings.run, processes.device
        self.share = processes.each(
            lambda: Share.of(run.batch, run.at_once, processes.rank, processes.count)
        )
        if state:
            where = folder.checkpoints.path(state["step"])
            with told_of_state(where):
                begin = resumed(state, str(where))
        else:
            begin = processes.each(lambda: declared.begin(split.train.classes))
        self.module, self.config = begin.module, begin.module.config
        self.objectives = objectives_of(settings, self.config)
        self.clips, self.held = processes.each(lambda: split.examples(self.config, settings))
        self.workers = workers_of(settings.data, processes.here)

        for parameter in self.module.parameters():
            if not parameter.numel():
                parameter.requires_grad_(False)  # padding of no channels
        self.module.to(device)
        self.average = Average(self.module, run.ema)
        if run.compile and device.type == "cuda":
            for layer in self.module.encoder.self_attends:
                layer.compile()
        self.optimiser = optimiser_of(self.module, settings.optimiser)
        learner = Learner(self.module, self.objectives, run.recompute)
        self.learner = processes.accelerator.prepare_model(learner)

        self.step = 0
        self.scores: dict[int, float] = {}  # of each validation, by its step
        self.last_scores: validate.Scores | None = None
        if state:
            self.step, self.scores = state["step"], state["scores"]
            with told_of_state(folder.checkpoints.path(self.step)):
                take_moments(self.optimiser, state["optimiser"])
                self.average.load(state["average"])
        self.record = processes.first(lambda: self._begin_record(begin, state))

    def go(self) -> Result:
        """All steps that are left, or those until a signal."""
        steps, stopped = self.settings.schedule.steps, False
        with (
            signals.caught() as self.asked,
            readers_watched(),
            contextlib.closing(self._batches()) as batches,
        ):
            while not stopped:
                # First here: a run that was stopped before its validation does it when it goes on.
                if self._validation_is_due():
                    self._validate()
                    self._save()
                if self.step == steps:
                    break
                stopped = self._step(batches) and self.step < steps
                if stopped or self.step % self.settings.keep.every == 0:
                    self._save()
        self.processes.accelerator.wait_for_everyone()
        number = (self.asked.number or int(signal.SIGTERM)) if stopped else None
        model, first = self.folder.path / "model", self.processes.is_first
        return Result(model, self.step, self.last_scores, number, first)

    def _batches(self) -> Generator[dict[str, Any]]:
        """Those of all turns that are left."""
        seed, steps = self.settings.run.seed, self.settings.schedule.steps
        turns = Turns(len(self.clips), seed, self.share, self.step, steps)
        return read(Numbered(self.clips), turns, self.workers)

    def _step(self, batches: Iterator[dict[str, Any]]) -> bool:
        """One optimiser step. Returns whether any process was asked to stop."""
        settings, share, step = self.settings, self.share, self.step
        began, waited = time.monotonic(), 0.0
        rate = settings.optimiser.rate * rate_at(step, settings.schedule)
        set_rate(self.optimiser, rate)
        chosen = draw_points(settings.run.seed, step, share.rank, self.objectives, self.config)
        points = {k: p if p is None else p.to(self.processes.device) for k, p in chosen.items()}
        tally = Tally(self.objectives, self.config)
        rows: list[int] = []
        wrong_rows: list[int] = []
        self.optimiser.zero_grad(set_to_none=True)
        for turn in range(share.turns):
            asked = time.monotonic()
            batch = next(batches)
            waited += time.monotonic() - asked
            with self._apart_until(turn == share.turns - 1):
                each = self._learn(batch, points, tally)
            rows += batch["row"].tolist()
            wrong_rows += batch["row"][~each.isfinite()].tolist()
        clip = settings.optimiser.clip or math.inf
        norm = float(nn.utils.clip_grad_norm_(self.module.parameters(), clip))
        tally.stops = self.asked.number is not None
        tally.sums = self.processes.total(tally.sums)
        line = {"step": step + 1, **tally.line(share.batch), "rate": rate, "norm": norm}
        line["failures"] = tally.failures
        if not (math.isfinite(line["loss"]) and math.isfinite(norm)):
            self._not_finite(step + 1, wrong_rows, rows)
        self.optimiser.step()
        self.step += 1
        self.average.follow(self.module, self.step)
        if self.record:
            # It fails so seldom that the others do not wait for it: they hear of it in `_save`.
            self.record.step(line, waited / (time.monotonic() - began))
        return tally.stops

    def _apart_until(self, last: bool) -> contextlib.AbstractContextManager[Any]:
        """Gradients of several processes are only brought together in the last turn."""
        if last or self.processes.count == 1:
            return contextlib.nullcontext()
        return self.processes.accelerator.no_sync(self.learner)

    def _learn(
        self, batch: dict[str, Any], points: Mapping[str, Tensor | None], tally: Tally
    ) -> Tensor:
        """Gradients of one turn, and its sums. Returns each clip's loss (B,), on the CPU."""
        device, seed = self.processes.device, self.settings.run.seed
        known = known_of(batch, self.clips, self.config)
        masked = draw_masks(seed, batch["number"], known, self.objectives, self.config)
        masked, known = (
            {name: flags.to(device) for name, flags in each.items()} for each in (masked, known)
        )
        batch = {key: value.to(device, non_blocking=True) for key, value in batch.items()}
        inputs = inputs_of(batch, self.clips, self.config)
        wrong = self.learner(inputs, masked, points, known)
        each = tally.add(wrong, known, batch["failures"])
        self.processes.accelerator.backward(each.sum() / (self.share.clips * self.share.turns))
        return each.detach().cpu()

    def _not_finite(self, step: int, wrong: list[int], rows: list[int]) -> None:
        """Stop before the weights are touched, and say which clips it was."""
        wrong, rows = (sorted(set(self.processes.gathered(some))) for some in (wrong, rows))
        blamed, what = wrong or rows, "loss" if wrong else "gradient"
        names = [f"{self.clips.index[row].path} (row {row})" for row in blamed[:NAMED]]
        more = f" and {len(blamed) - NAMED} more" if len(blamed) > NAMED else ""

        def stop() -> None:
            where = self.folder.stopped(
                {"step": step, "what": what, "rows": rows, "not_finite": wrong}
            )
            raise RunError(
                f"step {step}: the {what} of {', '.join(names)}{more} is not finite;"
                f" {self.folder.checkpoints.last_good()}; all clips of the step are in {where}"
            )

        self.processes.first(stop)

    def _validation_is_due(self) -> bool:
        step = self.step
        due = step == self.settings.schedule.steps or step % self.settings.watch.validate == 0
        return due and step > 0 and step not in self.scores

    def _validate(self) -> None:
        """By the averaged weights; each process takes a share of the clips."""
        watch, model = self.settings.watch, Autoencoder(self.average.module)
        count = min(len(self.held), watch.clips)
        found = validate.measure(
            model, self.held, count, self.objectives, self.share, self.workers
        )
        scores = validate.summed_up(self.processes.total(found), self.objectives, self.config)
        self.last_scores, self.scores[self.step] = scores, scores.loss

        def show() -> None:
            assert self.record
            pairs = validate.look(model, self.held, min(count, watch.shown))
            self.record.validation(self.step, scores, count, pairs, self.config)

        self.processes.first(show)

    def _save(self) -> None:
        def write() -> None:
            assert self.record
            self.record.journal.sync()  # a checkpoint counts on its lines
            state = {
                "step": self.step,
                "settings": self.settings.to_dict(),
                "config": self.config.to_dict(),
                "data": self.split.identity,
                "computed": self.processes.computed(),
                "scores": self.scores,
                "module": self.module.state_dict(),
                "average": self.average.state(),
                "optimiser": self.optimiser.state_dict(),
            }
            is_best = best(self.scores, self.scores, 1) == [self.step]
            self.folder.save(state, self.average.module, is_best)

        self.processes.first(write)

    def _begin_record(self, begin: Start, state: Mapping[str, Any] | None) -> Record:
        size = 4 * sum(p.numel() * p.element_size() for p in self.module.parameters())
        self.folder.begin(self.settings, needed=2 * size)
        tell_start(begin, self.settings, len(self.clips), len(self.held), self.share)
        if state:
            aside.print(f"going on after step {self.step}")
            note = computed_otherwise(state.get("computed"), self.processes.computed())
            if note:
                aside.print(note)
        return Record(self.folder.path, self.settings, self.step)

    def close(self) -> None:
        if self.record:
            self.record.close()
