"""What a step comes to: sums over its clips, over all turns and processes, and the line that the
journal holds of them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ..config import Config
from ..metrics import decibels
from .losses import Wrong
from .settings import Objective


class Tally:
    """Sums over clips.

    sums  (3 modalities + 2,): for each modality its loss, the squares or the wrong classes, and
          the clips that count; then clips that could not be read, and processes that are asked to
          stop
    """

    def __init__(self, objectives: Mapping[str, Objective], config: Config) -> None:
        self.objectives = {name: o for name, o in objectives.items() if o.weight}
        self.modalities = config.modalities
        self.sums = torch.zeros(3 * len(self.objectives) + 2, dtype=torch.float64)

    def add(
        self, wrong: Mapping[str, Wrong], known: Mapping[str, Tensor], failures: Tensor
    ) -> Tensor:
        """The clips of a turn, and which of them have what not all need to have (B,). Returns the
        loss of each (B,), which has gradients."""
        each = torch.zeros(len(failures), device=failures.device)
        sums = []
        for name, objective in self.objectives.items():
            loss, square = wrong[name]
            each = each + objective.weight * loss
            counts = known[name].to(square) if name in known else torch.ones_like(square)
            sums += [loss.detach().sum(), (square * counts).sum(), counts.sum()]
        # Together, so that a GPU is waited for only once.
        sums = torch.stack([s.float() for s in [*sums, failures.sum()]])
        self.sums[:-1] += sums.cpu().double()
        return each

    def line(self, clips: int) -> dict[str, Any]:
        """Losses and measures of a step of so many clips."""
        line: dict[str, Any] = {"loss": 0.0}
        values = self.sums.tolist()
        for n, (name, objective) in enumerate(self.objectives.items()):
            loss, square, count = values[3 * n : 3 * n + 3]
            line["loss"] += objective.weight * loss / clips
            if not count:
                continue
            line[name] = loss / count
            modality = self.modalities[name]
            if modality.is_classes:
                line[f"{name}_top1"] = 1 - square / count
            elif modality.media == "table":
                line[f"{name}_error"] = math.sqrt(square / count) / modality.std
            elif square > 0:
                line[f"{name}_psnr"] = decibels(count / square)
        return line

    @property
    def failures(self) -> int:
        return round(self.sums[-2].item())

    @property
    def stops(self) -> bool:
        """Whether any process was asked to."""
        return bool(self.sums[-1])

    @stops.setter
    def stops(self, asked: bool) -> None:
        self.sums[-1] = asked
