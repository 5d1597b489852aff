"""LAMB (You et al., arXiv 1904.00962): Adam, with the length of each parameter's step set by the
length of the parameter. Weight decay is inside the trust ratio, as in the paper's algorithm 2.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer


class Lamb(Optimizer):
    """params            parameters, or groups with settings of their own
    lr                rate: a step is `lr` times the parameter's norm long
    betas, eps        of the moments; eps stands outside the root
    weight_decay      times the parameter, added to Adam's direction before it is measured
    bias_correction   of the moments for having begun at nothing
    norm_clamp        highest norm of a parameter that counts; 0: any
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-6,
        weight_decay: float = 0.0,
        bias_correction: bool = True,
        norm_clamp: float = 0.0,
    ) -> None:
        super().__init__(
            params,
            {
                "lr": lr,
                "betas": betas,
                "eps": eps,
                "weight_decay": weight_decay,
                "bias_correction": bias_correction,
                "norm_clamp": norm_clamp,
            },
        )

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, group)
        return loss

    def _update(self, parameter: Tensor, group: dict[str, Any]) -> None:
        gradient, state = parameter.grad, self.state[parameter]
        if not state:
            state["step"] = 0
            state["first"], state["second"] = (torch.zeros_like(parameter) for _ in range(2))
        state["step"] += 1
        beta1, beta2 = group["betas"]
        first = state["first"].lerp_(gradient, 1 - beta1)
        second = state["second"].mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
        if group["bias_correction"]:
            first = first / (1 - beta1 ** state["step"])
            second = second / (1 - beta2 ** state["step"])
        direction = first / (second.sqrt() + group["eps"])
        direction += group["weight_decay"] * parameter

        length = parameter.norm()
        if group["norm_clamp"]:
            length = length.clamp(max=group["norm_clamp"])
        step = direction.norm()
        # A parameter that is zero, or is not to move, has no length to go by.
        trust = torch.where((length > 0) & (step > 0), length / step, 1.0)
        parameter.sub_(group["lr"] * trust * direction)
