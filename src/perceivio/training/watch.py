"""Progress on the terminal: a bar where there is one, plain lines elsewhere."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping

from ..console import aside, literal

RECENT = 50  # steps over which the pace is taken


class Progress:
    """What one sees of a run while it goes on.

    steps, done  in all, and before this process
    batch        clips a step
    every        steps between plain lines
    """

    def __init__(self, steps: int, done: int, batch: int, every: int) -> None:
        self.steps, self.done, self.batch, self.every = steps, done, batch, every
        self._times = deque([time.monotonic()], maxlen=RECENT + 1)
        self._bar = None
        if aside.is_terminal:
            from rich.progress import BarColumn, TextColumn
            from rich.progress import Progress as Bar

            self._bar = Bar(BarColumn(20), TextColumn("{task.description}"), console=aside)
            self._task = self._bar.add_task("", total=steps, completed=done)
            self._bar.start()

    @property
    def pace(self) -> float:
        """Clips a second, lately."""
        passed = self._times[-1] - self._times[0]
        return (len(self._times) - 1) * self.batch / passed if passed else 0.0

    def step(self, step: int, figures: Mapping[str, float], waited: float) -> None:
        """After optimiser step `step`; `waited` is the share of its time spent on waiting for
        clips."""
        self._times.append(time.monotonic())
        if self._bar is None and step % self.every and step != self.steps:
            return
        shown = "  ".join(f"{name} {value:.4g}" for name, value in figures.items())
        left = (self.steps - step) * self.batch / self.pace if self.pace else 0.0
        line = (
            f"step {step}/{self.steps}  {shown}  {self.pace:.1f} clips/s"
            f"  waiting {waited:.0%}  {duration(left)} left"
        )
        if self._bar is None:
            aside.print(literal(line))
        else:
            self._bar.update(self._task, completed=step, description=literal(line))

    def note(self, text: str) -> None:
        aside.print(literal(text))

    def resume(self) -> None:
        """After something that is no step, as validation is: its time does not count."""
        if self._times:
            pause = time.monotonic() - self._times[-1]
            self._times = deque((t + pause for t in self._times), maxlen=RECENT + 1)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.stop()


def duration(seconds: float) -> str:
    """3725 -> "1:02:05" """
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}"
