"""The layers of layers.py, through the fastest linear maps, on all threads, with gradients or not.

Plain in what they compute: the same operations in the same order. What is done for speed is said
where it is done.

Letters: B batch, Q queries, K attended rows, N x D latents, H heads.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import Linear
from torch.nn.functional import scaled_dot_product_attention

from .layers import Attention, CrossAttend, SelfAttend
from .linear import fast, linear
from .workers import share

SCORES = 2**16, 2**22  # fewest and most scores of a head that are made at once
ROWS = 2**28  # multiply-adds of a self-attend that are worth threads with rows of their own


def cross_attend(layer: CrossAttend, queries: Tensor, attended: Tensor) -> Tensor:
    """Queries (B or 1, Q, C_q) read from (B, K, C_k) -> (B, Q, C_q)"""
    x = attention(layer.attention, layer.query_norm(queries), layer.attended_norm(attended))
    return finish(layer, queries + x if layer.query_residual else x)


def self_attends(layers: Sequence[SelfAttend], x: Tensor) -> Tensor:
    """Self-attends one after the other: (B, N, D) -> (B, N, D)"""
    threads = torch.get_num_threads()
    work = x.shape[1] * sum(weight.numel() for weight in layers[0].parameters())
    if fast(x) and 0 < len(x) < threads and work >= ROWS and not torch.is_grad_enabled():
        return _by_rows(layers, x, -(-threads // len(x)))
    for layer in layers:
        y = layer.attention_norm(x)
        x = finish(layer, x + attention(layer.attention, y, y))
    return x


def finish(layer: CrossAttend | SelfAttend, x: Tensor) -> Tensor:
    """What follows the attention."""
    hidden = linear(layer.mlp_norm(x), *maps(layer.mlp.widen), layer.mlp.approximate)
    return x + linear(hidden, *maps(layer.mlp.narrow))


def attention(layer: Attention, queries: Tensor, attended: Tensor) -> Tensor:
    """(B or 1, Q, C_q), (B, K, C_k) -> (B, Q, C_q)"""

    def split(part: Linear, x: Tensor) -> Tensor:  # B x n x (heads c) -> B x heads x n x c
        return linear(x, *maps(part)).unflatten(-1, (layer.heads, -1)).transpose(1, 2)

    q, k, v = split(layer.query, queries), split(layer.key, attended), split(layer.value, attended)
    gathered = _gathered(q.expand(len(attended), -1, -1, -1), k, v)
    return linear(gathered.transpose(1, 2).flatten(-2), *maps(layer.output))


def maps(layer: Linear) -> tuple[Tensor, Tensor]:
    return layer.weight, layer.bias


def _gathered(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Softmax-weighted means of values: (B, H, Q, c), (B, H, K, c), (B, H, K, c') -> (B, H, Q, c')

    torch's own function goes through MKL (see linear.py), so scores that are many, but fit into
    a cache that cores share, are made head by head. So are those of bfloat16 with gradients,
    where torch's way back takes twice as long.
    """
    many = fast(q) and SCORES[0] <= q.shape[2] * k.shape[2] <= SCORES[1]
    slow = q.device.type == "cpu" and q.dtype == torch.bfloat16 and torch.is_grad_enabled()
    if many or slow:
        return _ByHead.apply(q, k, v)
    return scaled_dot_product_attention(q, k, v)


class _ByHead(torch.autograd.Function):
    """On the way back the weights are made again: N x K of every head and layer are not kept."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        # Laid out as the output map reads it, so that nothing is copied before and after.
        gathered = q.new_empty(len(q), q.shape[2], q.shape[1], v.shape[3]).transpose(1, 2)

        def head(index: tuple[int, int]) -> None:
            gathered[index] = _of_head(q[index], k[index], v[index])

        share(head, _heads(q), q.device)
        ctx.save_for_backward(q, k, v, gathered)
        return gathered

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, given: Tensor):  # pyright: ignore[reportIncompatibleMethodOverride]
        q, k, v, gathered = ctx.saved_tensors
        dq, dk, dv = torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)
        dtype = torch.promote_types(q.dtype, torch.float32)

        def head(index: tuple[int, int]) -> None:
            scale, d = q.shape[3] ** -0.5, given[index]
            scaled = q[index] * scale
            weights = linear(scaled, k[index]).softmax(1, dtype)
            # oneDNN copies a transposed first operand, so let that be the small one.
            dv[index] = linear(d.T, weights.to(q).T).T
            scores = linear(d, v[index]).to(dtype)
            scores -= (d * gathered[index]).sum(1, keepdim=True, dtype=dtype)
            scores = scores.mul_(weights).to(q)
            dq[index] = linear(scores, k[index].T) * scale
            dk[index] = linear(scaled.T, scores.T).T

        share(head, _heads(q), q.device)
        return dq, dk, dv


def _heads(q: Tensor) -> list[tuple[int, int]]:
    return [(b, h) for b in range(q.shape[0]) for h in range(q.shape[1])]


def _of_head(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """(Q, c), (K, c), (K, c') -> (Q, c')"""
    dtype = torch.promote_types(q.dtype, torch.float32)
    weights = linear(q * q.shape[1] ** -0.5, k.contiguous()).softmax(1, dtype)
    return linear(weights.to(q), v.T.contiguous())


def _by_rows(layers: Sequence[SelfAttend], x: Tensor, pieces: int) -> Tensor:
    """The self-attends with a thread for each piece of the rows.

    Rows need each other only as keys and values, so threads wait for each other once a layer, and
    not at the end of every product.
    """
    x = x.clone()
    size = -(-x.shape[1] // pieces)
    items = [
        (example, slice(first, first + size))
        for example in range(len(x))
        for first in range(0, x.shape[1], size)
    ]
    before: list[Tensor] = []  # queries, keys and values of all rows: B x N x (H c)
    for index in range(len(layers) + 1):
        coming = layers[index] if index < len(layers) else None
        now = [] if coming is None else [
            x.new_empty(*x.shape[:2], part.out_features) for part in _projections(coming)
        ]  # fmt: skip

        def work(
            item: tuple[int, slice],
            read: Sequence[Tensor] = before,
            done: SelfAttend | None = layers[index - 1] if index else None,
            coming: SelfAttend | None = coming,
            now: Sequence[Tensor] = now,
        ) -> None:
            """Of some rows: end one self-attend, and project for the next."""
            example, rows = item
            mine = x[item]
            if done is not None:
                heads = done.attention.heads
                q, k, v = (part[example].unflatten(-1, (heads, -1)).unbind(1) for part in read)
                heard = [_of_head(*qkv) for qkv in zip((h[rows] for h in q), k, v, strict=True)]
                answer = linear(torch.cat(heard, -1), *maps(done.attention.output))
                mine = finish(done, mine + answer)
                x[item] = mine
            if coming is not None:
                y = coming.attention_norm(mine)
                for part, whole in zip(_projections(coming), now, strict=True):
                    whole[item] = linear(y, *maps(part))

        share(work, items, x.device)
        before = now
    return x


def _projections(layer: SelfAttend) -> tuple[Linear, Linear, Linear]:
    return layer.attention.query, layer.attention.key, layer.attention.value
