"""What queries gather from the tokens of one modality, with gradients and without a key array.

The way there is that of scores.py, with the letters of factored_encode.py: i counts queries
(latents and heads), j tokens, q~ centred queries, std_j the standard deviation of a token's C
channels. Gathered are sums over the tokens j of this modality alone,

    z_ij = q~_i . content_j + T_i[t] + Y_i[y] + X_i[x]          p_ij = exp(z_ij / std_j - lse_i)
    contents_i = sum_j w_ij content_j                           w_ij = p_ij / std_j
    along_i[t] = sum of w_ij over the tokens at t; likewise for y and x

and lse_i, by which modalities are weighed against each other afterwards.

The way back. No p is kept: a tile of them is made again from lse. With the gradients of what was
gathered, G_i, A_i[t] .. and dlse_i,

    u_ij = G_i . content_j + A_i[t] + ..                        is that of w_ij,
    delta_i = sum_j w_ij u_ij - dlse_i                          needs only what was gathered,
    h_ij = p_ij (u_ij - delta_i std_j)                          so that dz_ij = h_ij / std_j^2

dz has the form of w: its sums against content and along each dimension are the gradients of q~ and
of the tables. A token's std gets

    -(h_ij (z_ij / std_j + 1) / std_j^2 + p_ij delta_i / std_j)  summed over i.

Both terms with std_j, lse_i std_j in the exponent and delta_i std_j, are one more channel of the
content. Inside, scores and lse are in powers of two.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ..linear import linear
from ..powers import UNIT
from ..scores import Gathered, Scores, few_of, pieces_for, tiles_for
from ..tables import Separable, Tile
from ..workers import share


def gather(
    content: Tensor, std: Tensor, queries: Tensor, tables: Sequence[Tensor], grid: Sequence[int]
) -> tuple[Tensor, Tensor, list[Tensor]]:
    """What queries (I, content channels) gather, with tables (n_i, I) for the dimensions of a grid
    of M tokens, from content (B, M, content channels) and std (B, M, 1).

    Returns lse (B, I), contents (B, content channels, I), along (B, n_i, I) for each dimension.
    """
    lse, contents, *along = _Gather.apply(content, std, queries, tuple(grid), *tables)
    return lse, contents, along


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        content: Tensor,
        std: Tensor,
        queries: Tensor,
        grid: tuple[int, ...],
        *tables: Tensor,
    ) -> tuple[Tensor, ...]:
        items = _Items(content, grid, len(queries))
        scores = _in_powers_of_two(queries, tables)

        def work(item: int) -> Gathered:
            example, tiles = items[item]
            spread = std[example]
            return scores.gather(
                content[example], lambda _, tile: spread[tile.place], tiles, items.few
            )

        parts = share(work, range(len(items)), content.device)
        lse = content.new_empty(len(content), len(queries))
        sums = [content.new_zeros(len(content), *t.shape) for t in (queries.T, *tables)]
        for example in range(len(content)):
            mine = parts[example * items.pieces : (example + 1) * items.pieces]
            top = torch.stack([part.top for part in mine]).amax(0)
            weights = [(part.top - top).exp2() for part in mine]
            count = sum(part.count * weight for part, weight in zip(mine, weights, strict=True))
            lse[example] = (top + torch.as_tensor(count).log2()) / UNIT
            for part, weight in zip(mine, weights, strict=True):
                for total, more in zip(sums, (part.contents, *part.along), strict=True):
                    total[example].addcmul_(more, weight / count)
        ctx.grid = grid
        ctx.save_for_backward(content, std, queries, lse, *sums, *tables)
        return lse, *sums

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_lse: Tensor, *d_sums: Tensor):  # pyright: ignore[reportIncompatibleMethodOverride]
        content, std, queries, lse, *rest = ctx.saved_tensors
        sums, tables = rest[: len(d_sums)], rest[len(d_sums) :]
        items = _Items(content, ctx.grid, len(queries))
        d_sums = tuple(d.contiguous() for d in d_sums)  # tiles read rows of them
        delta = sum((a * b).sum(1) for a, b in zip(d_sums, sums, strict=True)) - d_lse
        d_content = torch.empty_like(content) if ctx.needs_input_grad[0] else None
        d_std = torch.empty_like(std)
        scores = _in_powers_of_two(queries, tables)

        def work(item: int) -> list[Tensor]:
            example, tiles = items[item]
            along = Separable(tuple(d[example] for d in d_sums[1:]))
            gradients = Scores(d_sums[0][example].T.contiguous(), along)
            back = _Back(scores, UNIT * lse[example], gradients, delta[example])
            d_queries = torch.zeros_like(queries.T)
            d_tables = [torch.zeros_like(table) for table in tables]
            # Memory of 3 MB that is asked for tile by tile is taken from the system each time.
            p = content.new_empty(max(t.place.stop - t.place.start for t in tiles), len(queries))
            for tile in tiles:
                here = example, tile.place
                values, spread, d_spread = content[here], std[here], d_std[here]
                d_values = None if d_content is None else d_content[here]
                dz = back(values, spread, tile, p[: len(values)], d_values, d_spread)
                d_queries += linear(values.T.contiguous(), dz.T)
                tile.add(d_tables, dz)
            return [d_queries, *d_tables]

        parts = share(work, range(len(items)), content.device)
        totals = [content.new_zeros(t.shape) for t in (queries.T, *tables)]
        for part in parts:
            for total, more in zip(totals, part, strict=True):
                total += more
        d_queries, *d_tables = totals
        return d_content, d_std, d_queries.T, None, *d_tables


class _Items:
    """Which tiles of which example are worked on together: (example, tiles) by number."""

    def __init__(self, content: Tensor, grid: tuple[int, ...], queries: int) -> None:
        device = content.device
        self.tiles, self.few = tiles_for(grid, queries, device), few_of(grid, device)
        self.pieces = min(pieces_for(content.shape[1], device), len(self.tiles))
        self.count = len(content) * self.pieces

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, item: int) -> tuple[int, list[Tile]]:
        example, piece = divmod(item, self.pieces)
        return example, self.tiles[piece :: self.pieces]


def _in_powers_of_two(queries: Tensor, tables: Sequence[Tensor]) -> Scores:
    return Scores(queries * UNIT, Separable(tuple(table * UNIT for table in tables)))


@dataclass(frozen=True)
class _Back:
    """The way back through the tiles of one example.

    scores     of tokens, in powers of two
    lse        (I,), in powers of two
    gradients  G and A
    delta      (I,)
    """

    scores: Scores
    lse: Tensor
    gradients: Scores
    delta: Tensor

    def __call__(
        self,
        content: Tensor,
        std: Tensor,
        tile: Tile,
        p: Tensor,
        d_content: Tensor | None,
        d_std: Tensor,
    ) -> Tensor:
        """dz (P, I) of a tile; p (P, I) is written over, and the gradients of content and std go
        to their places."""
        scale = std.reciprocal()
        tokens = torch.cat([content * scale, torch.ones_like(scale)], 1)
        z = self.scores(tokens, tile, scale, -self.lse)
        torch.exp2(z, out=p)
        dz = self.gradients(tokens * scale, tile, scale.square(), -self.delta).mul_(p)
        through_dz = z.mul_(dz).sum(1, keepdim=True) + (dz @ (self.lse + UNIT))[:, None]
        d_std.copy_(-(through_dz / UNIT + scale * (p @ self.delta)[:, None]))
        if d_content is not None:
            d_content.copy_(linear(dz, self.scores.channels.T) / UNIT)
            d_content += linear(p.mul_(scale), self.gradients.channels.T)
        return dz
