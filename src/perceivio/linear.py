"""Linear maps without gradients, as fast as the machine has them.

On a CPU torch sends float32 products to MKL, which on processors that are not Intel's leaves the
wide vector units unused: 105 GFLOP/s a core where oneDNN, which is in the same torch, reaches 240
(AMD Zen 5). oneDNN also applies the GELU while the product is still in cache. Both are exact
float32. The way to it is an operator that torch keeps for its own compiler, so where it is not
there, or the device is no CPU, the plain functions do the same.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

ONEDNN = torch.backends.mkldnn.is_available() and all(
    hasattr(torch.ops.mkldnn, name) for name in ("_linear_pointwise", "_reorder_linear_weight")
)
Gelu = Literal["none", "tanh"]  # how it is approximated, in torch's words: not, or by tanh


def linear(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, gelu: Gelu | None = None
) -> Tensor:
    """x (..., K), weight (L, K), bias (L,) -> x weight^T + bias (..., L), through a GELU if any."""
    if fast(x):
        if not x.numel():  # which packed weights cannot be multiplied with
            return x.new_zeros(*x.shape[:-1], len(weight))
        product = torch.ops.mkldnn._linear_pointwise
        post = ("none", [], "") if gelu is None else ("gelu", [], gelu)
        return product(x, weight, bias, *post)
    y = F.linear(x, weight, bias)
    return y if gelu is None else F.gelu(y, approximate=gelu)


def packed(weight: Tensor, rows: int) -> Tensor:
    """A weight (L, K) for `linear` alone, laid out for being used often, with so many rows of x."""
    if not fast(weight):
        return weight
    return torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), rows)


def fast(x: Tensor) -> bool:
    """Whether products with x go through oneDNN where torch's own go through MKL."""
    return x.device.type == "cpu" and x.dtype == torch.float32 and ONEDNN
