"""What a model is asked for in training, and how wrong its answer is.

Every loss is first one number a clip; a step's loss is the mean over all its clips. So it makes no
difference over how many processes, or over how many turns of one process, they are spread.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..config import Modality
from ..modalities import patches
from ..model import MultimodalAutoencoder, Points
from .fast import forward
from .settings import Objective

# The "log" loss: an error of 1 % of the clip's energy (20 dB) is good enough, and below this
# energy, of a mean square, a clip is flat or silent.
LOG_FLOOR, LOG_SILENCE = 0.01, 1e-6


class Wrong(NamedTuple):
    """How wrong the answers are about one modality, a number (B,) for each clip.

    loss    as its objective says, not yet weighted; 0 for a clip that does not have it
    square  of grids the mean square error; of classes 1 where the most probable one is wrong
    """

    loss: Tensor
    square: Tensor


class Learner(nn.Module):
    """The model with its objectives: one call from a batch to losses, so that wrappers for several
    processes and for half precision see all of it."""

    def __init__(
        self,
        module: MultimodalAutoencoder,
        objectives: Mapping[str, Objective],
        recompute: bool = False,
    ) -> None:
        super().__init__()
        self.module = module
        self.objectives = {name: o for name, o in objectives.items() if o.weight}
        self.recompute = recompute

    def forward(
        self,
        inputs: Mapping[str, Tensor],
        masked: Mapping[str, Tensor],
        points: Mapping[str, Tensor | None],
        known: Mapping[str, Tensor],
    ) -> dict[str, Wrong]:
        """Inputs (B, *value_shape) and what of them is masked (B,); output points (P,) by modality,
        None for all; which clips have what not all need to have (B,) -> how wrong each modality
        is."""
        asked = {name: points.get(name) for name in self.objectives}
        outputs = forward(self.module, inputs, masked, asked, again=self.recompute)
        return {
            name: self._wrong(name, outputs[name].float(), inputs, asked, known.get(name))
            for name in self.objectives
        }

    def _wrong(
        self,
        name: str,
        got: Tensor,
        inputs: Mapping[str, Tensor],
        points: Points,
        known: Tensor | None,
    ) -> Wrong:
        modality = self.module.config.modalities[name]
        wanted = inputs[name]
        if modality.is_classes:
            return class_error(got, wanted, known)
        chosen = points[name]
        if chosen is not None:
            assert isinstance(chosen, Tensor)  # between the points there is nothing to compare with
            wanted = patches(wanted, modality, modality.output_patch)[:, chosen]
        wrong = grid_error(got, wanted, modality, self.objectives[name].loss)
        return wrong if known is None else Wrong(wrong.loss * known, wrong.square)


def class_error(got: Tensor, wanted: Tensor, known: Tensor | None) -> Wrong:
    """Logits and one-hot classes (B, classes), and which clips have one (B,) -> cross-entropy."""
    right = wanted.argmax(-1)
    wrong = (got.argmax(-1) != right).float().detach()
    if known is not None:
        right = right.where(known, -1)
    return Wrong(F.cross_entropy(got, right, ignore_index=-1, reduction="none"), wrong)


def grid_error(got: Tensor, wanted: Tensor, modality: Modality, loss: str) -> Wrong:
    """Values of equal shape (B, ...) of a grid -> the loss of each clip, by its name."""
    difference = (got - wanted).flatten(1)
    square = difference.square().mean(1)
    if loss == "l1":
        return Wrong(difference.abs().mean(1), square.detach())
    if loss == "l2":
        return Wrong(square, square.detach())
    energy = (wanted - modality.mean).square().flatten(1).mean(1) + LOG_SILENCE
    return Wrong(torch.log(square / energy + LOG_FLOOR), square.detach())
