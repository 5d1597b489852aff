"""Linear maps, as fast as the machine has them.

On a CPU torch sends float32 products to MKL, which on processors that are not Intel's leaves the
wide vector units unused: 105 GFLOP/s a core where oneDNN, which is in the same torch, reaches 240
(AMD Zen 5). oneDNN also applies the GELU while the product is still in cache. Both are exact
float32. The way to it is an operator that torch keeps for its own compiler, so where it is not
there, or the device is no CPU, the plain functions do the same. It takes transposed operands as
they are, so the two products of the way back go through it as well.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

ONEDNN = torch.backends.mkldnn.is_available() and all(
    hasattr(torch.ops.mkldnn, name) for name in ("_linear_pointwise", "_reorder_linear_weight")
)
Gelu = Literal["none", "tanh"]  # how it is approximated, in torch's words: not, or by tanh


def linear(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, gelu: Gelu | None = None
) -> Tensor:
    """x (..., K), weight (L, K), bias (L,) -> x weight^T + bias (..., L), through a GELU if any."""
    if not fast(x):
        y = F.linear(x, weight, bias)
    elif torch.is_grad_enabled():
        y = _Linear.apply(x, weight, bias)
    else:
        return _product(x, weight, bias, gelu)
    return y if gelu is None else F.gelu(y, approximate=gelu)


def _product(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, gelu: Gelu | None = None
) -> Tensor:
    if not x.numel():  # which packed weights cannot be multiplied with
        return x.new_zeros(*x.shape[:-1], len(weight))
    post = ("none", [], "") if gelu is None else ("gelu", [], gelu)
    # Of a part of a larger array oneDNN multiplies number by number, thousands of times slower.
    # A packed weight (`packed`) has no strides to ask for.
    if not weight.is_mkldnn and not (weight.is_contiguous() or weight.T.is_contiguous()):
        weight = weight.contiguous()
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, *post)


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return _product(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor):  # pyright: ignore[reportIncompatibleMethodOverride]
        x, weight = ctx.saved_tensors
        rows = dy.flatten(0, -2)
        to_x, to_weight, to_bias = ctx.needs_input_grad
        return (
            _product(dy, weight.T) if to_x else None,
            _product(rows.T, x.flatten(0, -2).T) if to_weight else None,
            rows.sum(0) if to_bias else None,
        )


def packed(weight: Tensor, rows: int) -> Tensor:
    """A weight (L, K) for `linear` alone, laid out for being used often, with so many rows of x."""
    if not fast(weight):
        return weight
    return torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), rows)


def fast(x: Tensor) -> bool:
    """Whether products with x go through oneDNN where torch's own go through MKL."""
    if x.device.type != "cpu" or x.dtype != torch.float32 or not ONEDNN:
        return False
    return not torch.is_autocast_enabled("cpu")  # that wants another type
