"""A run: steps, checkpoints, validation; stopped at any moment, it goes on as if it had not been.

A run is a folder:

    settings.json   what it was begun with
    losses.jsonl    a line a step
    checkpoints/    states to go on from
    board/          for TensorBoard
    model/          the averaged weights, for `perceivio.load`; best/: those that validated best
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import logging
import math
import os
import re
import shutil
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from accelerate import Accelerator, DistributedDataParallelKwargs
from accelerate.state import AcceleratorState
from accelerate.utils import broadcast_object_list, gather_object
from torch import Tensor, nn

from .. import weights
from ..autoencoder import Autoencoder
from ..config import Config
from ..data.catalogue import Index
from ..data.dataset import Augment, ClipDataset
from ..data.store import Place
from ..errors import PerceivioError
from ..metrics import decibels
from ..model import MultimodalAutoencoder
from ..pipeline import clip_format
from . import validate
from .averages import Average
from .batches import Share, Turns, draw_masks, draw_points, inputs_of, reader
from .board import Board
from .checkpoints import Checkpoints, best
from .journal import Journal
from .lamb import Lamb
from .losses import Learner
from .settings import Objective, Schedule, Settings, SettingsError, differences
from .start import Anew, Declared, objectives_of
from .watch import Progress

T = TypeVar("T")

PROBED = 16  # clips that are looked for before a run begins
NAMED = 3  # clips that a message names


class RunError(PerceivioError):
    """A run that cannot begin, or cannot go on."""


class ElsewhereError(PerceivioError):
    """What another process of this run has already told."""


@dataclass(frozen=True)
class Result:
    """How a run ended.

    model    folder of the averaged weights
    step     optimiser steps done
    scores   of the last validation
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
    with _quiet_if_not_first():
        declared = Declared.by(settings)
    objectives = objectives_of(settings, declared.config)
    with contextlib.ExitStack() as ends:
        if not dist.is_initialized():
            ends.callback(lambda: dist.is_initialized() and dist.destroy_process_group())
        accelerator = _accelerator(settings, objectives, device)
        with _quiet_if_not_first():
            run = _Run(accelerator, declared, data, Path(folder), root, other_settings, ends)
        ends.enter_context(_told_if_alone(accelerator))
        return run.go()


class _Run:
    """The parts of a run, as they stand at `step` optimiser steps done."""

    def __init__(
        self,
        accelerator: Accelerator,
        declared: Declared,
        data: str | Path,
        folder: Path,
        root: str | Path | None,
        other_settings: bool,
        ends: contextlib.ExitStack,
    ) -> None:
        """What is opened is closed by `ends`, also where the beginning fails."""
        settings = declared.settings
        self.settings, self.folder, self.accelerator = settings, folder, accelerator
        self.progress: Progress | None = None
        self.board: Board | None = None
        self.journal: Journal | None = None
        self._ends = ends
        self.signal: int | None = None
        ranks, rank = accelerator.num_processes, accelerator.process_index
        if settings.run.batch % ranks:
            raise SettingsError(
                f"run.batch = {settings.run.batch} cannot be shared by {ranks} processes; it must"
                f" be a multiple of {ranks}"
            )
        self.share = Share.of(settings.run.batch, settings.run.at_once, rank, ranks)
        index, held = _data(data, root, settings)
        self.checkpoints = Checkpoints(folder / "checkpoints", settings.keep)
        self._first(self._claim)
        state = self._first(lambda: self._resume(index, held, other_settings))
        if state is not None and not accelerator.is_main_process:
            state = self.checkpoints.read(state["step"])

        # The model: as it was, or as it begins.
        classes = index.classes
        anew: Sequence[Anew] = ()
        kept = 0
        if state is not None:
            module = MultimodalAutoencoder(Config.from_dict(state["config"]))
            module.load_state_dict(state["module"])
        else:
            start = declared.begin(classes)
            module, anew, kept = start.module, start.anew, start.kept
        config = module.config
        self.config, self.objectives = config, objectives_of(settings, config)
        for parameter in module.parameters():
            if not parameter.numel():
                parameter.requires_grad_(False)  # padding of no channels
        module.to(accelerator.device)
        self.module = module
        self.average = Average(module, settings.run.ema)
        if settings.run.compile and accelerator.device.type == "cuda":
            for layer in module.encoder.self_attends:
                layer.compile()
        learner = Learner(module, self.objectives, settings.run.recompute)
        self.optimiser = _optimiser(module, settings)
        self.learner = accelerator.prepare_model(learner)

        self.step, self.scores = 0, {}
        self.last_scores: validate.Scores | None = None
        if state is not None:
            self.step, self.scores = state["step"], state["scores"]
            self.optimiser.load_state_dict(state["optimiser"])
            self.average.load(state["average"])

        # The data.
        names = _class_names(config)
        augment = Augment(settings.data.area, settings.data.aspect, settings.data.flip)
        _check_classes(index, held, names, settings)
        seed = settings.run.seed
        self.clips = ClipDataset(index, clip_format(config), names, seed, augment)
        self.held = ClipDataset(held, clip_format(config), names, seed, augment=None)
        self.workers = _workers(settings, accelerator)

        if accelerator.is_main_process:
            self._tell_start(len(index), len(held), kept, anew, state is not None)
        self._first(self._open)

    # ---- the loop

    def go(self) -> Result:
        """All steps that are left, or those until a signal."""
        steps, batches, stopped = self.settings.schedule.steps, None, False
        self._catch_signals()
        while True:
            # First here: a run that was stopped before its validation does it when it goes on.
            if self._validation_is_due():
                self._validate()
                self._save()
            if self.step == steps:
                break
            if batches is None:
                turns = Turns(
                    len(self.clips), self.settings.run.seed, self.share, self.step, steps
                )
                batches = iter(reader(self.clips, turns, self.workers))
            stopped = self._step(batches) and self.step < steps
            if stopped or self.step % self.settings.keep.every == 0:
                self._save()
            if stopped:
                break
        self.accelerator.wait_for_everyone()
        number = (self.signal or int(signal.SIGTERM)) if stopped else None
        first = self.accelerator.is_main_process
        return Result(self.folder / "model", self.step, self.last_scores, number, first)

    def _validation_is_due(self) -> bool:
        step = self.step
        due = step == self.settings.schedule.steps or step % self.settings.watch.validate == 0
        return due and step > 0 and step not in self.scores

    def _step(self, batches: Iterator[dict[str, Any]]) -> bool:
        """One optimiser step. Returns whether any process was asked to stop."""
        settings, share, step = self.settings, self.share, self.step
        began, waited = time.monotonic(), 0.0
        rate = settings.optimiser.rate * rate_at(step, settings.schedule)
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        chosen = draw_points(settings.run.seed, step, share.rank, self.objectives, self.config)
        device = self.accelerator.device
        points = {name: p if p is None else p.to(device) for name, p in chosen.items()}
        sums = torch.zeros(3 * len(self.learned) + 2, dtype=torch.float64)
        rows: list[int] = []
        wrong_rows: list[int] = []
        self.optimiser.zero_grad(set_to_none=True)
        for turn in range(share.turns):
            asked = time.monotonic()
            batch = _next(batches)
            waited += time.monotonic() - asked
            # Gradients of several processes are only brought together in the last turn.
            alone = turn < share.turns - 1 and share.ranks > 1
            with self.accelerator.no_sync(self.learner) if alone else contextlib.nullcontext():
                each, counted = self._learn(batch, points)
            sums += counted
            rows += batch["row"].tolist()
            wrong_rows += batch["row"][~each.isfinite()].tolist()
        clip = settings.optimiser.clip
        norm = float(nn.utils.clip_grad_norm_(self.module.parameters(), clip or math.inf))
        sums[-1] = self.signal is not None
        if share.ranks > 1:
            total = self.accelerator.reduce(sums.to(device), "sum")
            assert isinstance(total, Tensor)
            sums = total.cpu()
        line = self._line(sums, rate, norm)
        if not (math.isfinite(line["loss"]) and math.isfinite(norm)):
            self._not_finite(line, wrong_rows, rows)
        self.optimiser.step()
        self.step += 1
        self.average.follow(self.module, self.step)
        seconds = time.monotonic() - began
        self._first(lambda: self._record(line, waited / seconds), every_step=True)
        return bool(sums[-1])

    def _learn(
        self, batch: dict[str, Any], points: dict[str, Tensor | None]
    ) -> tuple[Tensor, Tensor]:
        """Gradients of one turn. Returns each clip's loss (B,), and sums over the clips: for each
        modality loss, square, and clips that count; then clips that could not be read."""
        device = self.accelerator.device
        seed = self.settings.run.seed
        masked = draw_masks(seed, batch["number"], batch["label"], self.objectives, self.config)
        batch = {key: value.to(device, non_blocking=True) for key, value in batch.items()}
        inputs, labels = inputs_of(batch, self.clips, self.config)
        masked = {name: mask.to(device) for name, mask in masked.items()}
        wrong = self.learner(inputs, masked, points, labels)
        each = torch.zeros(len(labels), device=device)
        counted = []
        for name in self.learned:
            loss, square = wrong[name]
            each = each + self.objectives[name].weight * loss
            count = torch.ones_like(square)
            if self.config.modalities[name].is_classes:
                count = (labels >= 0).to(square)
            counted += [loss.detach().sum(), (square * count).sum(), count.sum()]
        self.accelerator.backward(each.sum() / (self.share.clips * self.share.turns))
        counted += [batch["failures"].sum(), torch.zeros((), device=device)]
        return each.detach().cpu(), torch.stack([c.float() for c in counted]).cpu().double()

    @property
    def learned(self) -> list[str]:
        return [name for name, objective in self.objectives.items() if objective.weight]

    def _line(self, sums: Tensor, rate: float, norm: float) -> dict[str, Any]:
        """What the journal holds of a step; nothing in it depends on time."""
        line: dict[str, Any] = {"step": self.step + 1, "loss": 0.0}
        values = sums.tolist()
        for n, name in enumerate(self.learned):
            loss, square, count = values[3 * n : 3 * n + 3]
            line["loss"] += self.objectives[name].weight * loss / self.share.batch
            if not count:
                continue
            line[name] = loss / count
            if self.config.modalities[name].is_classes:
                line[f"{name}_top1"] = 1 - square / count
            elif square > 0:
                line[f"{name}_psnr"] = decibels(count / square)
        return line | {"rate": rate, "norm": norm, "failures": round(values[-2])}

    def _not_finite(self, line: dict[str, Any], wrong: list[int], rows: list[int]) -> None:
        """Stop before the weights are touched, and say which clips it was."""
        if self.share.ranks > 1:
            wrong, rows = gather_object(wrong), gather_object(rows)
        wrong, rows = sorted(set(wrong)), sorted(set(rows))
        blamed = wrong or rows
        index = self.clips.index
        names = [f"{index[row].path} (row {row})" for row in blamed[:NAMED]]
        more = f" and {len(blamed) - NAMED} more" if len(blamed) > NAMED else ""
        what = "loss" if wrong else "gradient"

        def stop() -> None:
            facts = {"step": line["step"], "what": what, "rows": rows, "not_finite": wrong}
            with contextlib.suppress(OSError):
                (self.folder / "stopped.json").write_text(json.dumps(facts) + "\n", "utf-8")
            raise RunError(
                f"step {line['step']}: the {what} of {', '.join(names)}{more} is not finite;"
                f" {self.checkpoints.last_good()}; all clips of the step are in"
                f" {self.folder / 'stopped.json'}"
            )

        self._first(stop)

    def _record(self, line: dict[str, Any], waited: float) -> None:
        assert self.journal
        assert self.progress
        assert self.board
        self.journal.write(line)
        shown = {key: line[key] for key in line if key not in ("step", "rate", "norm", "failures")}
        self.progress.step(self.step, shown, waited)
        if self.step % self.settings.watch.every == 0:
            losses = {key: line[key] for key in ("loss", *self.learned) if key in line}
            others = {key: shown[key] for key in shown if key not in losses}
            self.board.scalars("loss", losses, self.step)
            run = {"waiting for data": waited, "clips a second": self.progress.pace}
            run |= {"rate": line["rate"], "gradient norm": line["norm"]}
            run |= {"clips left out": line["failures"]}
            self.board.scalars("training", others, self.step)
            self.board.scalars("run", run, self.step)

    # ---- validation and checkpoints

    def _validate(self) -> None:
        count = min(len(self.held), self.settings.watch.clips)
        model = Autoencoder(self.average.module)
        found = validate.measure(
            model, self.held, count, self.objectives, self.share, self.workers
        )
        if self.share.ranks > 1:
            total = self.accelerator.reduce(found.to(self.accelerator.device), "sum")
            assert isinstance(total, Tensor)
            found = total.cpu()
        scores = validate.summed_up(found, self.objectives, self.config)
        self.last_scores = scores
        self.scores[self.step] = scores.loss

        def show() -> None:
            assert self.progress
            assert self.board
            figures = {"loss": scores.loss, **scores.figures}
            told = "  ".join(f"{name} {value:.4g}" for name, value in figures.items())
            self.progress.note(f"validation at step {self.step}, {count} clips  {told}")
            self.board.scalars("validation", figures, self.step)
            shown = min(count, self.settings.watch.shown)
            self.board.clips(validate.look(model, self.held, shown), self.config, self.step)
            self.progress.resume()

        self._first(show)

    def _save(self) -> None:
        def write() -> None:
            assert self.journal
            self.journal.sync()
            self.checkpoints.write(
                {
                    "step": self.step,
                    "settings": self.settings.to_dict(),
                    "config": self.config.to_dict(),
                    "data": self.data_identity,
                    "scores": self.scores,
                    "module": self.module.state_dict(),
                    "average": self.average.state(),
                    "optimiser": self.optimiser.state_dict(),
                }
            )
            module = self.average.module
            weights.save_module(module, self.folder / "model", overwrite=True)
            if best(self.scores, self.scores, 1) == [self.step]:
                weights.save_module(module, self.folder / "best", overwrite=True)

        self._first(write)

    def _resume(self, index: Index, held: Index, other_settings: bool) -> dict[str, Any] | None:
        """The state to go on from, if there is one, and if it is of this run."""
        self.checkpoints.clean()
        state, notes = self.checkpoints.newest()
        for note in notes:
            logging.getLogger(__name__).warning("%s; going on from the one before", note)
        self.data_identity = _identity(index, held)
        if state is None or other_settings:
            return state
        where = self.checkpoints.path(state["step"])
        changes = differences(state["settings"], self.settings.to_dict())
        if changes:
            raise RunError(
                f"{where} was made with other settings: {'; '.join(changes)}; give those, another"
                " folder, or --other-settings to go on with the new ones"
            )
        if state["data"] != self.data_identity:
            raise RunError(
                f"{where} was made with other clips; give the same index, another folder, or"
                " --other-settings to go on with these"
            )
        return state

    # ---- beginning and end

    def _claim(self) -> None:
        """Make the folder ours. Raises RunError where it is something else, or in use."""
        folder = self.folder
        if folder.exists() and not folder.is_dir():
            raise RunError(f"{folder} is a file; a run is a folder")
        known = folder / "settings.json"
        if folder.is_dir() and any(folder.iterdir()) and not known.exists():
            raise RunError(f"{folder} has files already and is no run; choose another folder")
        try:
            folder.mkdir(parents=True, exist_ok=True)
            known.touch()
            lock = _lock(folder / "lock")
        except OSError as error:
            raise RunError(f"{folder}: cannot be written: {error.strerror}") from error
        if lock is None:
            raise RunError(f"{folder}: another process is training there")
        self._ends.callback(lock.close)

    def _open(self) -> None:
        """What only the first process has, once all else is well."""
        states = 4 * sum(p.numel() * p.element_size() for p in self.module.parameters())
        free = shutil.disk_usage(self.folder).free
        if free < 2 * states:
            raise RunError(
                f"{self.folder}: {free / 1e6:,.0f} MB are free, and a run needs"
                f" {2 * states / 1e6:,.0f} MB for two checkpoints"
            )
        known = self.folder / "settings.json"
        text = json.dumps(self.settings.to_dict(), indent=2) + "\n"
        try:
            known.write_text(text, "utf-8")
        except OSError as error:
            raise RunError(f"{known}: cannot be written: {error.strerror}") from error
        self.journal = Journal(self.folder / "losses.jsonl", self.step)
        self._ends.callback(self.journal.close)
        self.board = Board(self.folder / "board", self.step)
        self._ends.callback(self.board.close)
        schedule = self.settings.schedule
        self.progress = Progress(
            schedule.steps, self.step, self.share.batch, self.settings.watch.every
        )
        self._ends.callback(self.progress.close)

    def _tell_start(
        self, clips: int, held: int, kept: int, anew: Sequence[Anew], goes_on: bool
    ) -> None:
        from ..console import aside

        parameters = sum(p.numel() for p in self.module.parameters())
        share = self.share
        aside.print(
            f"{parameters / 1e6:.2f} M parameters; {clips:,} clips, {held:,} to validate on;"
            f" {share.batch} a step: {share.ranks} process{'es' * (share.ranks > 1)} x"
            f" {share.turns} x {share.clips}, on {self.accelerator.device}"
        )
        if goes_on:
            aside.print(f"going on after step {self.step}")
        if kept:
            aside.print(f"{kept} parameters are those of {self.settings.model.start}")
        for each in anew:
            aside.print(f"begins anew: {each.name}: {each.why}")

    def _catch_signals(self) -> None:
        def stop(number: int, _: Any) -> None:
            if self.signal is not None:
                raise KeyboardInterrupt
            self.signal = number

        for name in (signal.SIGTERM, signal.SIGINT):
            with contextlib.suppress(ValueError):  # not in the main thread
                self._ends.callback(signal.signal, name, signal.signal(name, stop))

    def _first(self, work: Callable[[], T], every_step: bool = False) -> T | None:
        """Do something in the first process only. Where it fails there, all stop: that one with
        the error, the others with ElsewhereError.

        every_step  fails so seldom that the others need not wait for it: they hear in `_save`, or
                    when the first process is gone
        """
        if self.accelerator.num_processes == 1 or (
            every_step and self.accelerator.is_main_process
        ):
            return work()
        if every_step:
            return None
        result, error = None, None
        if self.accelerator.is_main_process:
            try:
                result = work()
            except PerceivioError as caught:
                error = caught
        step = result["step"] if isinstance(result, dict) else None
        told = broadcast_object_list([error is not None, step])
        if error is not None:
            raise error
        if told[0]:
            raise ElsewhereError("another process has stopped")
        # The others read a state themselves; it is too large to send.
        return result if self.accelerator.is_main_process else _step_only(told[1])


def _step_only(step: int | None) -> Any:
    return None if step is None else {"step": step}


def rate_at(step: int, schedule: Schedule) -> float:
    """Share of the highest rate at step 0, 1, ...: up in a line, level, down as a cosine to 0."""
    rising = min(1.0, (step + 1) / schedule.warm_up) if schedule.warm_up else 1.0
    level = schedule.flat * schedule.steps
    if step < level:
        return rising
    return rising * (0.5 + 0.5 * math.cos(math.pi * (step - level) / (schedule.steps - level)))


def _accelerator(
    settings: Settings, objectives: Mapping[str, Objective], device: str | None
) -> Accelerator:
    if device not in (None, "cpu", "cuda"):
        raise SettingsError(f"device must be cpu or cuda, not {device}")
    if device == "cuda" and not torch.cuda.is_available():
        raise SettingsError("device 'cuda' cannot be used: there is no GPU that torch sees")
    cpu = device == "cpu" or not torch.accelerator.is_available()
    precision = settings.run.precision
    half = precision == "bfloat16" or (precision == "auto" and not cpu)
    # A run in the same process may have been of another kind.
    AcceleratorState._reset_state(reset_partial_state=not dist.is_initialized())
    # Mask tokens of what is never masked have no part in any step. And without looking for such,
    # torch regroups the gradients after a process's first step: sums over more than two processes
    # would be rounded otherwise after a restart.
    unused = any(not o.weight or not o.mask for o in objectives.values())
    several = int(os.environ.get("WORLD_SIZE", "1")) > 2
    kwargs = DistributedDataParallelKwargs(find_unused_parameters=unused or several)
    return Accelerator(
        cpu=cpu, mixed_precision="bf16" if half else "no", kwargs_handlers=[kwargs]
    )


def _optimiser(module: MultimodalAutoencoder, settings: Settings) -> torch.optim.Optimizer:
    chosen = settings.optimiser
    matrices = [p for p in module.parameters() if p.numel() and p.dim() > 1]
    vectors = [p for p in module.parameters() if p.numel() and p.dim() < 2]
    decay = chosen.weight_decay
    groups: list[dict[str, Any]] = [
        {"params": matrices, "weight_decay": decay},
        {"params": vectors, "weight_decay": decay if chosen.decay_vectors else 0.0},
    ]
    if chosen.name == "adamw":
        return torch.optim.AdamW(groups, chosen.rate, chosen.betas, chosen.epsilon)
    return Lamb(
        groups,
        chosen.rate,
        chosen.betas,
        chosen.epsilon,
        bias_correction=chosen.bias_correction,
        norm_clamp=chosen.norm_clamp,
    )


def _data(data: str | Path, root: str | Path | None, settings: Settings) -> tuple[Index, Index]:
    """Clips to train and to validate on. Raises PerceivioError where they are not there."""
    index = Index.read(data, root)
    _check_there(index, str(data))
    if settings.data.validation:
        held = Index.read(settings.data.validation)
        _check_there(held, settings.data.validation)
        return index, held
    count = max(1, round(settings.data.held_out * len(index)))
    if len(index) < 2:
        raise RunError(f"{data}: one clip is not enough to train on one and validate on another")
    # Drawn by (seed,) alone, so the same whatever else a run draws; in a random order.
    order = np.random.default_rng((settings.run.seed,)).permutation(len(index))
    train, held = np.sort(order[count:]), order[:count]
    return _taken(index, train), _taken(index, held)


def _taken(index: Index, rows: np.ndarray) -> Index:
    return dataclasses.replace(index, table=index.table.take(rows))


def _check_there(index: Index, name: str) -> None:
    for row in np.linspace(0, len(index) - 1, min(PROBED, len(index))).astype(int).tolist():
        clip = index[row]
        place: Place = index.root / (clip.shard or clip.path)
        if not place.exists():
            raise RunError(
                f"{name}: {place} is not there; if the clips have moved, say where they are with"
                " --root"
            )


def _check_classes(index: Index, held: Index, names: Sequence[str], settings: Settings) -> None:
    for clips in (index, held):
        unknown = sorted(set(clips.classes) - set(names))
        if unknown and names:
            hint = " (--set model.classes=index takes the data's)"
            raise RunError(
                f"{len(unknown)} labels of the data are none of the model's {len(names)} classes,"
                f" {unknown[0]!r} among them{hint * (settings.model.classes == 'model')}"
            )


def _class_names(config: Config) -> Sequence[str]:
    found = config.classes()
    return found[1].names if found else ()


def _identity(index: Index, held: Index) -> str:
    """16 hexadecimal digits that name the clips of a run, in their order, with their labels."""
    digest = hashlib.sha256()
    for clips in (index, held):
        for column in ("path", "label", "shard", "offset"):
            digest.update(repr(clips.table.column(column).to_pylist()).encode())
    return digest.hexdigest()[:16]


def _workers(settings: Settings, accelerator: Accelerator) -> int:
    """Processes that read clips for each that trains: the cores there are, but one for itself."""
    if settings.data.workers >= 0:
        return settings.data.workers
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    here = int(os.environ.get("LOCAL_WORLD_SIZE") or accelerator.num_processes)
    return max(1, min(16, (cores or 1) // here - 1))


def _lock(path: Path) -> Any:
    """The file, locked until it is closed or the process ends, however; None where another has it.

    A lock of the kind that forked processes do not share: workers outlive a killed process a bit.
    It would be lost if this process opened and closed the file once more.
    """
    file = path.open("a")
    try:
        import fcntl

        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except ImportError:
        pass  # Windows
    except OSError:
        file.close()
        return None
    return file


def _next(batches: Iterator[dict[str, Any]]) -> dict[str, Any]:
    """The next batch. What a worker raises comes with its traceback around the one line."""
    try:
        return next(batches)
    except PerceivioError as error:
        last = str(error).strip().splitlines()[-1]
        raise RunError(re.sub(r"^[\w.]+Error: ", "", last)) from error
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        last = str(error).strip().splitlines()[-1]
        raise RunError(f"a process that reads clips has died: {last}") from error


@contextlib.contextmanager
def _told_if_alone(accelerator: Accelerator) -> Iterator[None]:
    """A process whose fellows have gone says so: one of them has told why."""
    try:
        yield
    except RuntimeError as error:
        lost = isinstance(error, dist.DistError) or "onnection " in str(error)
        if accelerator.num_processes == 1 or not lost:
            raise
        raise ElsewhereError("another process has ended") from error


@contextlib.contextmanager
def _quiet_if_not_first() -> Iterator[None]:
    """What is wrong in every process alike is told by the first."""
    try:
        yield
    except ElsewhereError:
        raise
    except PerceivioError as error:
        if int(os.environ.get("RANK", "0")):
            raise ElsewhereError(str(error)) from error
        raise
