"""The layers of layers.py without gradients, through the fastest linear maps, on all threads.

Plain in what they compute: the same operations in the same order. What is done for speed is said
where it is done.

Letters: B batch, Q queries, K attended rows, N x D latents, H heads.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import Linear
from torch.nn.functional import scaled_dot_product_attention

from .layers import Attention, CrossAttend, SelfAttend
from .linear import fast, linear, packed
from .powers import FAR, UNIT, powers
from .workers import share

SCORES = 2**16, 2**22  # fewest and most scores of a head that are made at once
WORK = 2**27  # multiply-adds of a self-attend that are worth a thread with rows of its own


class Maps:
    """Weight and bias of linear layers, laid out once for being used often, with so many rows.

    As whatever is made from weights, it has to be dropped when these change.
    """

    def __init__(self, rows: int) -> None:
        self._rows = rows
        self._laid: dict[Linear, tuple[Tensor, Tensor]] = {}

    def __call__(self, layer: Linear) -> tuple[Tensor, Tensor]:
        if layer not in self._laid:
            self._laid[layer] = packed(layer.weight, self._rows), layer.bias
        return self._laid[layer]


def cross_attend(layer: CrossAttend, queries: Tensor, attended: Tensor, maps: Maps) -> Tensor:
    """Queries (B or 1, Q, C_q) read from (B, K, C_k) -> (B, Q, C_q)"""
    x = attention(layer.attention, layer.query_norm(queries), layer.attended_norm(attended), maps)
    return finish(layer, queries + x if layer.query_residual else x, maps)


def self_attends(layers: Sequence[SelfAttend], x: Tensor, maps: Maps) -> Tensor:
    """Self-attends one after the other: (B, N, D) -> (B, N, D)"""
    threads = torch.get_num_threads()
    work = x.shape[1] * sum(weight.numel() for weight in layers[0].parameters())
    if fast(x) and threads > 1 and len(x) * work >= threads * WORK:
        if len(x) < threads:
            return _by_rows(layers, x, maps, -(-threads // len(x)))
        examples = x.chunk(threads)
        return torch.cat(share(lambda some: _in_turn(layers, some, maps), examples, x.device))
    return _in_turn(layers, x, maps)


def _in_turn(layers: Sequence[SelfAttend], x: Tensor, maps: Maps) -> Tensor:
    for layer in layers:
        y = layer.attention_norm(x)
        x = finish(layer, x + attention(layer.attention, y, y, maps), maps)
    return x


def finish(layer: CrossAttend | SelfAttend, x: Tensor, maps: Maps) -> Tensor:
    """What follows the attention."""
    hidden = linear(layer.mlp_norm(x), *maps(layer.mlp.widen), layer.mlp.approximate)
    return x + linear(hidden, *maps(layer.mlp.narrow))


def attention(layer: Attention, queries: Tensor, attended: Tensor, maps: Maps) -> Tensor:
    """(B or 1, Q, C_q), (B, K, C_k) -> (B, Q, C_q)"""

    def split(part: Linear, x: Tensor) -> Tensor:  # B x n x (heads c) -> B x heads x n x c
        return linear(x, *maps(part)).unflatten(-1, (layer.heads, -1)).transpose(1, 2)

    q, k, v = split(layer.query, queries), split(layer.key, attended), split(layer.value, attended)
    gathered = _gathered(q.expand(len(attended), -1, -1, -1), k, v)
    return linear(gathered.transpose(1, 2).flatten(-2), *maps(layer.output))


def _gathered(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Softmax-weighted means of values: (B, H, Q, c), (B, H, K, c), (B, H, K, c') -> (B, H, Q, c')

    torch's own function goes through MKL (see linear.py), so scores that are many, but fit into
    a cache that cores share, are made head by head.
    """
    if not (fast(q) and SCORES[0] <= q.shape[2] * k.shape[2] <= SCORES[1]):
        return scaled_dot_product_attention(q, k, v)
    gathered = q.new_empty(*q.shape[:3], v.shape[3])

    def head(index: tuple[int, int]) -> None:
        gathered[index] = _of_head(q[index], k[index], v[index])

    share(head, [(b, h) for b in range(q.shape[0]) for h in range(q.shape[1])], q.device)
    return gathered


def _of_head(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """(Q, c), (K, c), (K, c') -> (Q, c')"""
    q, k = q * (UNIT * q.shape[1] ** -0.5), k.contiguous()
    longest = [torch.linalg.vector_norm(rows, dim=1).amax() for rows in (q, k)]
    weights, total = powers(linear(q, k), far=(longest[0] * longest[1]).item() > FAR)
    return linear(weights, v.T.contiguous()).div_(total)


def _by_rows(layers: Sequence[SelfAttend], x: Tensor, maps: Maps, pieces: int) -> Tensor:
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
                mine = finish(done, mine + answer, maps)
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
