"""The layers of layers.py, through the fastest linear maps, on all threads, with gradients or not.

Plain in what they compute: the same operations in the same order. What is done for speed is said
where it is done.

Letters: B batch, Q queries, K attended rows, N x D latents, H heads.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import Linear
from torch.nn.functional import scaled_dot_product_attention

from .layers import Attention, CrossAttend, SelfAttend
from .linear import fast, linear, packed
from .powers import FAR, UNIT, powers
from .workers import pieces_of, share, threads

SCORES = 2**16, 2**22  # fewest and most scores of a head that are made at once
MUCH = 2**30  # multiply-adds of attention that are worth a thread with heads of its own
WORK = 2**27  # multiply-adds of a self-attend that are worth a thread with rows of its own


Maps = Callable[[Linear], tuple[Tensor, Tensor]]  # weight and bias of a layer, laid out or not


def as_they_are(layer: Linear) -> tuple[Tensor, Tensor]:
    return layer.weight, layer.bias


class LaidOut:
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
    count = threads(x.device)
    work = x.shape[1] * sum(weight.numel() for weight in layers[0].parameters())
    much = len(x) * work >= count * WORK
    if fast(x) and count > 1 and much and not torch.is_grad_enabled():
        if len(x) < count:
            return _by_rows(layers, x, maps, -(-count // len(x)))
        examples = x.chunk(count)
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
    if _are_few(layer, queries, attended):
        return _of_few(layer, queries, attended)

    def split(part: Linear, x: Tensor) -> Tensor:  # B x n x (heads c) -> B x heads x n x c
        return linear(x, *maps(part)).unflatten(-1, (layer.heads, -1)).transpose(1, 2)

    q, k, v = split(layer.query, queries), split(layer.key, attended), split(layer.value, attended)
    gathered = _gathered(q.expand(len(attended), -1, -1, -1), k, v)
    return linear(gathered.transpose(1, 2).flatten(-2), *maps(layer.output))


def _are_few(layer: Attention, queries: Tensor, attended: Tensor) -> bool:
    """Whether queries are so few that keys and values are not worth making."""
    (rows, channels), count = attended.shape[1:], queries.shape[1]
    both = layer.key.out_features + layer.value.out_features
    plain = rows * both * (channels + count)
    few = count * channels * (both + 2 * layer.heads * rows)
    return not torch.is_grad_enabled() and 2 * few < plain


def _of_few(layer: Attention, queries: Tensor, attended: Tensor) -> Tensor:
    """q . (W k) = (W^T q) . k, and values are mapped when they have been gathered. The softmax
    cancels what the key bias adds; its weights sum to 1, so the value bias passes through."""
    heads = layer.heads
    q = layer.query(queries).unflatten(-1, (heads, -1)).transpose(1, 2)  # B x H x Q x c
    key, value = (part.weight.unflatten(0, (heads, -1)) for part in (layer.key, layer.value))
    scores = (q @ key).flatten(1, 2) @ attended.mT * q.shape[-1] ** -0.5  # B x H Q x K
    gathered = (scores.softmax(-1) @ attended).unflatten(1, (heads, -1))
    values = (gathered @ value.mT).transpose(1, 2).flatten(-2) + layer.value.bias
    return layer.output(values)


def _gathered(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Softmax-weighted means of values: (B, H, Q, c), (B, H, K, c), (B, H, K, c') -> (B, H, Q, c')

    torch's own function goes through MKL (see linear.py), so scores that are many, but fit into
    a cache that cores share, are made head by head. So are those of bfloat16 with gradients,
    where torch's way back takes twice as long.
    """
    many = fast(q) and max(1, SCORES[0]) <= q.shape[2] * k.shape[2] <= SCORES[1]
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
            gathered[index] = _of_head(q[index], k[index].contiguous(), v[index].T.contiguous())

        _each_head(head, q, k)
        ctx.save_for_backward(q, k, v, gathered)
        return gathered

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, given: Tensor):  # pyright: ignore[reportIncompatibleMethodOverride]
        q, k, v, gathered = ctx.saved_tensors
        dq, dk, dv = torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)
        dtype = torch.promote_types(q.dtype, torch.float32)

        def head(index: tuple[int, int]) -> None:
            d, weights, total = given[index], *_weights(q[index], k[index].contiguous())
            weights /= total
            scale = q.shape[3] ** -0.5
            # oneDNN copies a transposed first operand, so let that be the small one.
            dv[index] = linear(d.T, weights.to(q).T).T
            scores = linear(d, v[index]).to(dtype)
            scores -= (d * gathered[index]).sum(1, keepdim=True, dtype=dtype)
            scores = scores.mul_(weights).to(q)
            dq[index] = linear(scores, k[index].T) * scale
            dk[index] = linear((q[index] * scale).T, scores.T).T

        _each_head(head, q, k)
        return dq, dk, dv


def _each_head(work: Callable[[tuple[int, int]], None], q: Tensor, k: Tensor) -> None:
    """In threads of ours if there is much to do: for some ms after each operation torch's own wait
    busily on the cores that ours need."""
    heads = [*product(range(q.shape[0]), range(q.shape[1]))]
    if 2 * q.numel() * k.shape[2] >= threads(q.device) * MUCH:
        share(work, heads, q.device)
    else:
        for head in heads:
            work(head)


def _of_head(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """(Q, c), (K, c), (c', K) -> (Q, c'); k and v without gaps"""
    weights, total = _weights(q, k)
    return linear(weights.to(q), v).div_(total)


def _weights(q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
    """(Q, c), (K, c) -> what softmax gives but for the division, (Q, K), and by what (Q, 1)"""
    scale, dtype = q.shape[1] ** -0.5, torch.promote_types(q.dtype, torch.float32)
    if dtype != q.dtype:
        weights = linear(q * scale, k).softmax(1, dtype)  # what is rounded later sums to one
        return weights, torch.ones_like(weights[:, :1])
    q = q * (UNIT * scale)
    longest = [torch.linalg.vector_norm(rows, dim=1).amax() for rows in (q, k)]
    return powers(linear(q, k), far=(longest[0] * longest[1]).item() > FAR)


def _by_rows(layers: Sequence[SelfAttend], x: Tensor, maps: Maps, pieces: int) -> Tensor:
    """The self-attends with a thread for each piece of the rows.

    Rows need each other only as keys and values, so threads wait for each other once a layer, and
    not at the end of every product.
    """
    items = [*product(range(len(x)), pieces_of(x.shape[1], pieces))]
    rows = [x[item] for item in items]
    x = torch.empty_like(x)
    read: Heads | None = None
    for done, coming in zip([None, *layers], [*layers, None], strict=True):
        written = Heads.empty(coming.attention, x) if coming else None

        def work(
            number: int,
            done: SelfAttend | None = done,
            read: Heads | None = read,
            coming: SelfAttend | None = coming,
            written: Heads | None = written,
        ) -> None:
            """Of some rows: end one self-attend, and project for the next."""
            mine, item = rows[number], items[number]
            if done and read:
                answer = linear(read.gathered(item), *maps(done.attention.output))
                rows[number] = mine = finish(done, mine + answer, maps)
            if not coming:
                x[item] = mine
            elif written:
                written.project(coming.attention, coming.attention_norm(mine), item, maps)

        share(work, range(len(items)), x.device)
        read = written
    return x


@dataclass(frozen=True)
class Heads:
    """Queries, keys and values of all rows as the heads read them.

    q      (B, H, N, c), so that scores are in powers of two
    k      (B, H, N, c)
    v      (B, H, c', N)
    norms  (2, B, N, H): lengths of queries and keys
    """

    q: Tensor
    k: Tensor
    v: Tensor
    norms: Tensor

    @classmethod
    def empty(cls, layer: Attention, x: Tensor) -> Heads:
        """For rows (B, N, D)"""
        batch, rows, heads = *x.shape[:2], layer.heads
        qk, v = (part.out_features // heads for part in (layer.key, layer.value))
        q, k = x.new_empty(2, batch, heads, rows, qk)
        norms = x.new_empty(2, batch, rows, heads)
        return cls(q, k, x.new_empty(batch, heads, v, rows), norms)

    def project(self, layer: Attention, y: Tensor, item: tuple[int, slice], maps: Maps) -> None:
        """Fill in those of some rows, which are y (rows, D) normed."""
        example, rows = item
        scale = UNIT * self.q.shape[3] ** -0.5
        parts = (layer.query, self.q, scale), (layer.key, self.k, 1.0)
        for (part, whole, times), norms in zip(parts, self.norms, strict=True):
            by_head = linear(y, *maps(part)).unflatten(1, (layer.heads, -1))
            torch.mul(by_head.transpose(0, 1), times, out=whole[example, :, rows])
            norms[example, rows] = torch.linalg.vector_norm(by_head, dim=2) * times
        transposed = linear(layer.value.weight, y) + layer.value.bias[:, None]
        self.v[example, :, :, rows] = transposed.unflatten(0, (layer.heads, -1))

    def gathered(self, item: tuple[int, slice]) -> Tensor:
        """What some rows gather from all, (rows, H c')"""
        example, rows = item
        q, k, v = self.q[example, :, rows], self.k[example], self.v[example]
        found = q.new_empty(q.shape[1], len(v), v.shape[1])
        far = self.norms[:, example].amax(1).prod(0) > FAR
        for head, beyond in enumerate(far.tolist()):
            weights, total = powers(linear(q[head], k[head]), beyond)
            torch.div(linear(weights, v[head]), total, out=found[:, head])
        return found.flatten(1)
