"""What is told of a run while it goes on: on the terminal, in a file of losses, in TensorBoard."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..config import Config
from ..console import aside, counted, literal
from .batches import Share
from .board import Board
from .journal import Journal
from .settings import Settings
from .start import Start
from .validate import Scores
from .watch import Progress


def tell_start(begin: Start, settings: Settings, clips: int, held: int, share: Share) -> None:
    """What is trained, and on what, in a few lines on standard error."""
    parameters = sum(p.numel() for p in begin.module.parameters())
    device = next(begin.module.parameters()).device
    aside.print(
        f"{parameters / 1e6:.2f} M parameters; {clips:,} clips, {held:,} to validate on;"
        f" {share.batch} a step: {share.ranks} process{'es' * (share.ranks > 1)} x"
        f" {share.turns} x {share.clips}, on {device}"
    )
    if begin.kept:
        aside.print(f"{begin.kept} parameters are those of {literal(settings.model.start)}")
    for line in dict.fromkeys(each.line for each in begin.anew):
        aside.print(f"begins anew: {literal(line)}")


class Record:
    """All three, from after step `step` on.

    Every method raises CheckpointError where something cannot be written.
    """

    def __init__(self, folder: Path, settings: Settings, step: int) -> None:
        self.every = settings.watch.every
        with contextlib.ExitStack() as ends:
            self.journal = Journal(folder / "losses.jsonl", step)
            ends.callback(self.journal.close)
            self.board = Board(folder / "board", step)
            ends.callback(self.board.close)
            self.progress = Progress(
                settings.schedule.steps, step, settings.run.batch, self.every
            )
            ends.callback(self.progress.close)
            self._ends = ends.pop_all()

    def step(self, line: Mapping[str, Any], waited: float) -> None:
        """A line of the journal; `waited` is the share of the step's time without clips."""
        self.journal.write(dict(line))
        step, aside = line["step"], ("step", "rate", "norm", "failures")
        shown = {key: line[key] for key in line if key not in aside}
        self.progress.step(step, shown, waited)
        if step % self.every:
            return
        measures = {key for key in shown if key.endswith(("_psnr", "_top1", "_error"))}
        self.board.scalars("loss", {k: v for k, v in shown.items() if k not in measures}, step)
        self.board.scalars("training", {k: shown[k] for k in shown if k in measures}, step)
        run = {"waiting for data": waited, "clips a second": self.progress.pace}
        run |= {"rate": line["rate"], "gradient norm": line["norm"]}
        run |= {"clips left out": line["failures"]}
        self.board.scalars("run", run, step)

    def validation(
        self,
        step: int,
        scores: Scores,
        count: int,
        pairs: Sequence[tuple[Any, Any]],
        config: Config,
    ) -> None:
        """Scores of `count` clips, and some of them beside what the model makes of them."""
        figures = {"loss": scores.loss, **scores.figures}
        told = "  ".join(f"{name} {value:.4g}" for name, value in figures.items())
        self.progress.note(f"validation at step {step}, {counted(count, 'clip')}  {told}")
        self.board.scalars("validation", figures, step)
        self.board.clips(list(pairs), config, step)
        self.progress.resume()

    def close(self) -> None:
        self._ends.close()
