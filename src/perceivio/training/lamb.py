"""LAMB (You et al., arXiv 1904.00962): Adam, with the length of each parameter's step set by the
length of the parameter. Weight decay is inside the trust ratio, as in the paper's algorithm 2.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
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
            parameters = [p for p in group["params"] if p.grad is not None]
            if not parameters:
                continue
            gradients = [p.grad for p in parameters]
            for p in parameters:
                if not self.state[p]:
                    self.state[p] = {
                        "step": 0, "first": torch.zeros_like(p), "second": torch.zeros_like(p)
                    }  # fmt: skip
                self.state[p]["step"] += 1
            states = [self.state[p] for p in parameters]
            first = [state["first"] for state in states]
            second = [state["second"] for state in states]
            beta1, beta2 = group["betas"]
            torch._foreach_lerp_(first, gradients, 1 - beta1)
            torch._foreach_mul_(second, beta2)
            torch._foreach_addcmul_(second, gradients, gradients, 1 - beta2)

            # Both corrections, a number for each parameter: some are met later than others.
            counts = [state["step"] if group["bias_correction"] else 10**9 for state in states]
            directions = torch._foreach_div(second, [1 - beta2**n for n in counts])
            torch._foreach_sqrt_(directions)
            torch._foreach_add_(directions, group["eps"])
            torch._foreach_reciprocal_(directions)
            torch._foreach_mul_(directions, first)
            torch._foreach_div_(directions, [1 - beta1**n for n in counts])
            torch._foreach_add_(directions, parameters, alpha=group["weight_decay"])

            lengths = torch.stack(torch._foreach_norm(parameters))
            if group["norm_clamp"]:
                lengths = lengths.clamp(max=group["norm_clamp"])
            steps = torch.stack(torch._foreach_norm(directions))
            # A parameter that is zero, or is not to move, has no length to go by.
            trust = torch.where((lengths > 0) & (steps > 0), lengths / steps, 1.0)
            torch._foreach_mul_(directions, list((-group["lr"] * trust).unbind()))
            torch._foreach_add_(parameters, directions)
        return loss
