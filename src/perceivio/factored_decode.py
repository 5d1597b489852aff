"""The decoder's cross-attend and all that follows it, in factored form.

Letters: B batch, N x D latents, O x E output queries, H heads; n counts queries, j latents.

A query q_n = [position | learned] is known without any input, and its position is Fourier
features of each dimension of a grid. So are its mean and standard deviation.

Scores. With the keys k_j of a clip, k~_j = (W_q g)^T k_j / sqrt(channels a head) centred over its
E channels, and c_j = (W_q b + query bias) . k_j / sqrt(channels a head),

    score_nj = q_n . k~_j / std_n + c_j
    q_n . k~_j = T_j[t] + Y_j[y] + X_j[x]

one small table for each dimension, made once a clip. No query is ever written out.

After the softmax P. The attention's output is o = W_o G + b_o with G = P V. It is read by two:
by the LayerNorm and MLP, and by the residual sum. The maps after them, to the shared channels and
to the values of an output patch, compose into one map A, so the MLP's second map is A W_2, and
the residual is A o, as few channels as the output patch has values.

The LayerNorm needs the variance of o over E channels. Centre [W_o | b_o] over the E outputs and
factorise, = Q R with orthonormal columns in Q: then r = R [G; 1] has |r|^2 = E variance, and the
MLP's first map reads r through (W_1 g) Q. R is never inverted: with a zero bias it is singular.

The softmax is one of powers of two (powers.py); a clip's tables bound its scores.

Both, [R; A W_o] and its bias, are the `mixing` of G. With one head it goes into the values of a
clip, V~ = V mixing^T + bias (weights sum to 1), and P V~ gives r and the residual at once. Left
for a point are N exponentials and the products with V~, W_1 and A W_2. The value map goes in too:
a latent x^ that its LayerNorm has centred is of rank D - 1, so u = x^ + 1, whose mean is 1, has
room for the constant, o = W u with W = W_o W_v g (1 - 1 1^T / D) + bias 1^T / D, and r has no more
than D channels.

Where the decoder adds the query to o, that sum has E channels that are all needed: Q is the
identity, and the query's own part in [r | residual], again a sum of tables, is added.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from typing import TypeVar

import torch
from torch import Tensor

from .factored_encode import exact
from .layers import LAYER_NORM_EPS, CrossAttend
from .linear import Gelu, linear, packed
from .modalities import ModalityIO
from .model import MultimodalAutoencoder
from .position import Grid
from .powers import FAR, UNIT, powers
from .tables import Rows, Separable, Tile, tiles_of
from .workers import share

TILE = 2**20  # numbers that a tile's largest arrays hold together: 4 MB, which the caches hold
ROWS = 448  # points of a tile, about, for which weights are laid out
Result = TypeVar("Result")


@dataclass(frozen=True)
class Asked:
    """Queries on a grid, the trained one or another, known from the weights alone.

    shape    of the grid
    queries  what they are
    sums     sum and sum of squares of every query's channels
    closest  the largest 1 / std of a query
    start    what each adds to [r | residual], where the decoder adds queries
    """

    shape: tuple[int, ...]
    queries: Rows
    sums: Separable
    closest: float
    start: Separable | None

    @classmethod
    @torch.inference_mode()
    def of(cls, io: ModalityIO, grid: Grid | None, adds: Tensor | None) -> Asked:
        """adds  (k + outputs, E): from a query to what it adds, if anything"""
        device, cpu = io.query.device, torch.device("cpu")
        learned = torch.cat([exact(io.query), exact(io.query_padding)])
        queries = Rows.of(io.query_axes(grid), 0, learned)
        shape = io.modality.query_grid if grid is None else grid.shape
        sums, channels = queries.sums(), len(queries.shared)
        tiles = tiles_of(shape, None, TILE, cpu)
        closest = max((_scale(sums, tile, channels).max().item() for tile in tiles), default=0.0)
        start = None if adds is None else queries.through(adds).to(device)
        return cls(shape, queries, sums.to(device), closest, start)


@dataclass(frozen=True)
class Answers:
    """What follows the attention for one modality; from the weights alone, in the model's type.

    mixing, bias   (k + outputs, channels gathered): to [r | residual], with its bias; what is
                   gathered are u with one head, the values of all heads otherwise
    adds           (k + outputs, E): what a query adds to those, where the decoder adds queries
    widen          (hidden, k) and its bias: the MLP's first map, in the basis of r
    narrow         (outputs, hidden): A W_2
    channels       E
    """

    mixing: Tensor
    bias: Tensor
    adds: Tensor | None
    widen: Tensor
    widen_bias: Tensor
    narrow: Tensor
    gelu: Gelu
    channels: int

    @classmethod
    def of(cls, module: MultimodalAutoencoder, name: str) -> Answers:
        io, layer = module.io(name), module.decoder.cross_attend
        mlp, modality = layer.mlp, io.modality
        latents = module.encoder.latents

        last = exact(io.output.weight) * modality.std
        a = last @ exact(module.decoder.output.weight)
        a_bias = last @ exact(module.decoder.output.bias) + exact(io.output.bias) * modality.std
        output, gathered = _output(layer)
        centred = output - output.mean(0)
        if layer.query_residual:
            basis, r = torch.eye(len(output), dtype=output.dtype), centred
        else:
            basis, r = torch.linalg.qr(centred)
        mixing = torch.cat([r, a @ output])
        bias = mixing[:, gathered:].sum(1)
        bias[len(r) :] += a @ exact(mlp.narrow.bias) + a_bias + modality.mean

        def own(x: Tensor) -> Tensor:
            return x.to(latents).contiguous()

        adds = None
        if layer.query_residual:
            adds = torch.cat([torch.eye(len(output), dtype=output.dtype) - 1 / len(output), a])
        widen = exact(mlp.widen.weight)
        return cls(
            mixing=own(mixing[:, :gathered]),
            bias=own(bias),
            adds=adds,
            widen=packed(own((widen * exact(layer.mlp_norm.weight)) @ basis), ROWS),
            widen_bias=own(widen @ exact(layer.mlp_norm.bias) + exact(mlp.widen.bias)),
            narrow=own(a @ exact(mlp.narrow.weight)),
            gelu=mlp.approximate,
            channels=len(output),
        )

    def __call__(self, mixed: Tensor, total: Tensor, start: Tensor | None) -> Tensor:
        """[r | residual] (P, k + outputs), `total` times too large (P, 1), and what queries add to
        it -> values (P, outputs)"""
        if start is not None:
            mixed, total = (mixed / total + start).to(mixed), torch.ones_like(total)
        r, residual = mixed.split([self.widen.shape[1], len(self.narrow)], 1)
        length = torch.linalg.vector_norm(r.float(), dim=1, keepdim=True) / total
        scale = (length.square() / self.channels + LAYER_NORM_EPS).rsqrt() / total
        hidden = linear(r * scale.to(r), self.widen, self.widen_bias, self.gelu)
        return linear(hidden, self.narrow) + (residual / total).to(r)


def _output(layer: CrossAttend) -> tuple[Tensor, int]:
    """The attention's output o from what is gathered, and how many channels that has: (E, those),
    with one more column for the bias if there are several heads. float64."""
    value, output, norm = layer.attention.value, layer.attention.output, layer.attended_norm
    weight, bias = exact(output.weight), exact(output.bias)
    if layer.attention.heads > 1:
        return torch.cat([weight, bias[:, None]], 1), weight.shape[1]
    bias += weight @ (exact(value.weight) @ exact(norm.bias) + exact(value.bias))
    weight = weight @ (exact(value.weight) * exact(norm.weight))
    return weight - weight.mean(1, keepdim=True) + bias[:, None] / weight.shape[1], weight.shape[1]


@dataclass(frozen=True)
class Writer:
    """The decoder for one modality, from the weights alone.

    io       the modality
    asked    all queries of training
    keys     (H, E, channels a head): turns keys into k~ of powers of two
    offset   (channels a head x H,): c_j = offset . k_j, of powers of two
    """

    module: MultimodalAutoencoder
    io: ModalityIO
    asked: Asked
    keys: Tensor
    offset: Tensor
    answers: Answers

    @classmethod
    @torch.inference_mode()
    def of(cls, module: MultimodalAutoencoder, name: str) -> Writer:
        """Computed in float64 on the CPU, whatever the model's device and type."""
        layer, device = module.decoder.cross_attend, module.encoder.latents.device
        attention, query = layer.attention, layer.attention.query
        width = len(query.weight) // attention.heads
        unit = UNIT / width**0.5
        keys = exact(query.weight) * exact(layer.query_norm.weight) * unit
        keys -= keys.mean(1, keepdim=True)
        offset = exact(query.weight) @ exact(layer.query_norm.bias) + exact(query.bias)
        io, answers = module.io(name), Answers.of(module, name)
        return cls(
            module=module,
            io=io,
            asked=Asked.of(io, None, answers.adds),
            keys=keys.unflatten(0, (-1, width)).mT.to(device, torch.float32).contiguous(),
            offset=(offset * unit).to(device, torch.float32),
            answers=answers,
        )

    def __call__(self, latents: Tensor, points: Tensor | Grid | None) -> Tensor:
        """Latents (B, N, D), flat indices (P,), a grid, or None for all -> (B, P, outputs)"""
        count = prod(self.asked.shape) if points is None else len(points)
        outputs = latents.new_empty(len(latents), count, len(self.answers.narrow))
        own = points if isinstance(points, Grid) else None
        asked = self.asked if own is None else Asked.of(self.io, own, self.answers.adds)
        some = None if isinstance(points, Grid) else points
        tiles = self._tiles(asked, some, latents)
        for one, out in zip(latents, outputs, strict=True):
            clip = self._clip(one, asked)

            def answer(tile: Tile, clip: Clip = clip, out: Tensor = out) -> None:
                start = asked.start(tile) if asked.start else None
                out[tile.place] = self.answers(*clip(tile), start)

            share(answer, tiles, latents.device)
        return outputs

    def weights(
        self, latents: Tensor, look: Callable[[Tile, Tensor, Tensor], Result]
    ) -> list[Result]:
        """What each query pays to each of the latents (N, D) of one clip. `look` is called, in any
        thread, with every tile, weights (P, H, N), and their sums (P, H, 1), by which they are too
        large."""
        clip = self._clip(latents, self.asked)
        tiles = self._tiles(self.asked, None, latents)
        return share(lambda tile: look(tile, *clip.weights(tile)), tiles, latents.device)

    def _tiles(self, asked: Asked, points: Tensor | None, latents: Tensor) -> list[Tile]:
        size = max(1, TILE // (len(self.keys) * latents.shape[-2] + len(self.answers.widen)))
        return list(tiles_of(asked.shape, points, size, latents.device))

    def _clip(self, latents: Tensor, asked: Asked) -> Clip:
        """What latents (N, D) of one clip come to, for what is asked."""
        layer = self.module.decoder.cross_attend
        attention, heads = layer.attention, len(self.keys)
        normed = layer.attended_norm(latents)
        k = linear(normed, attention.key.weight, attention.key.bias).float()
        offsets = (k * self.offset).unflatten(1, (heads, -1)).sum(2).T.contiguous()
        by_head = zip(k.chunk(heads, 1), self.keys, strict=True)
        tables = asked.queries.through(torch.cat([linear(k.contiguous(), w) for k, w in by_head]))
        reach = torch.stack([table.abs().amax(0) for table in tables.tables]).sum(0)
        far = (reach * asked.closest + offsets.flatten().abs()).max().item() > FAR
        if heads > 1:
            v = linear(normed, attention.value.weight, attention.value.bias)
            values = [packed(part, ROWS) for part in v.T.chunk(heads)]
            return Clip(self, asked, tables, offsets, far, values, v.dtype)
        u = torch.layer_norm(latents, latents.shape[1:], None, None, LAYER_NORM_EPS) + 1
        values = linear(self.answers.mixing, u) + self.answers.bias[:, None]
        return Clip(self, asked, tables, offsets, far, [packed(values, ROWS)], values.dtype)


@dataclass(frozen=True)
class Clip:
    """The attended array of one clip, for what is asked.

    tables   q_n . k~_j, (n_i, H N) for each dimension
    offsets  (H, N): c_j
    far      whether scores may be too large for powers of two as they are
    values   of each head, transposed: (channels a head, N), or V~ of the only head
    dtype    of those
    """

    writer: Writer
    asked: Asked
    tables: Separable
    offsets: Tensor
    far: bool
    values: list[Tensor]
    dtype: torch.dtype

    def __call__(self, tile: Tile) -> tuple[Tensor, Tensor]:
        """[r | residual] at the points of a tile, (P, k + outputs), and by how much it is too
        large: the sum of weights (P, 1)"""
        weights, total = self.weights(tile)
        weights = weights.to(self.dtype)
        gathered = [linear(weights[:, head], v) for head, v in enumerate(self.values)]
        if len(gathered) == 1:
            return gathered[0], total[:, 0]
        answers = self.writer.answers
        means = [part / total[:, head] for head, part in enumerate(gathered)]
        mixed = linear(torch.cat(means, 1).to(self.dtype), answers.mixing, answers.bias)
        return mixed, torch.ones_like(total[:, 0])

    def weights(self, tile: Tile) -> tuple[Tensor, Tensor]:
        """Attention of a tile's queries, (P, H, N), and by how much it is too large, (P, H, 1)"""
        scale = _scale(self.asked.sums, tile, self.writer.answers.channels)
        scores = self.tables(tile).unflatten(1, self.offsets.shape)
        return powers(torch.addcmul(self.offsets, scores, scale[:, None]), self.far)


def _scale(sums: Separable, tile: Tile, channels: int) -> Tensor:
    """1 / std of the queries at the points of a tile, (P, 1)"""
    mean, square = (sums(tile) / channels).split(1, 1)
    return (square - mean.square() + LAYER_NORM_EPS).rsqrt()
