"""The moving average of the weights: what a run gives in the end, and what is validated."""

from __future__ import annotations

import copy

import torch
from torch import Tensor

from ..model import MultimodalAutoencoder


class Average:
    """A model beside the one that learns, whose weights follow it slowly.

    module  the averaged model
    decay   share of the average that stays at each step; less at first, so that the start is soon
            forgotten: (1 + step) / (10 + step). 0: the average is the model itself
    """

    def __init__(self, module: MultimodalAutoencoder, decay: float) -> None:
        self.module = copy.deepcopy(module).requires_grad_(False).eval()
        self.decay = decay

    @torch.no_grad()
    def follow(self, module: MultimodalAutoencoder, step: int) -> None:
        """After optimiser step `step` = 1, 2, ..."""
        share = 1 - min(self.decay, (1 + step) / (10 + step))
        for mine, other in zip(self.module.parameters(), module.parameters(), strict=True):
            mine.lerp_(other, share)

    def state(self) -> dict[str, Tensor]:
        return self.module.state_dict()

    def load(self, state: dict[str, Tensor]) -> None:
        self.module.load_state_dict(state)
