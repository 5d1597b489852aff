"""The optimiser that settings name, its rate at each step, and its moments from a checkpoint."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from .lamb import Lamb
from .settings import Optimiser, Schedule

# What is kept of each parameter, beside the number of steps.
MOMENTS: dict[type[torch.optim.Optimizer], tuple[str, str]] = {
    torch.optim.AdamW: ("exp_avg", "exp_avg_sq"),
    Lamb: ("first", "second"),
}


def optimiser_of(module: nn.Module, chosen: Optimiser) -> torch.optim.Optimizer:
    """Of all parameters that have values; vectors (biases, norms, tokens) are a group of their
    own, which decays only where settings say so."""
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


def rate_at(step: int, schedule: Schedule) -> float:
    """Share of the highest rate at step 0, 1, ...: up in a line, level, down as a cosine to 0."""
    rising = min(1.0, (step + 1) / schedule.warm_up) if schedule.warm_up else 1.0
    level = schedule.flat * schedule.steps
    if step < level:
        return rising
    return rising * (0.5 + 0.5 * math.cos(math.pi * (step - level) / (schedule.steps - level)))


def set_rate(optimiser: torch.optim.Optimizer, rate: float) -> None:
    for group in optimiser.param_groups:
        group["lr"] = rate


def take_moments(optimiser: torch.optim.Optimizer, state: Mapping[str, Any]) -> None:
    """From the state of one of the same name. All else stays as this one was made: torch's own
    loading would bring back the settings that a run was begun with. Raises ValueError, or what an
    object of another kind raises, where they are not those of these parameters."""
    own = optimiser.state_dict()["param_groups"]
    optimiser.load_state_dict({"state": state["state"], "param_groups": own})
    names = MOMENTS[type(optimiser)]
    for parameter, kept in optimiser.state.items():
        shapes = {kept[name].shape for name in names}
        if shapes != {parameter.shape} or len(kept) != 1 + len(names):
            raise ValueError("what its optimiser kept is not of these parameters")
        float(kept["step"])
