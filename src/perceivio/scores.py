"""What queries gather from the tokens of one modality, tile by tile; no key or value array is made.

Letters: M tokens of C channels, I queries (latents and heads), P tokens of a tile, n_i tokens along
dimension i of the grid. factored_encode.py says why this is attention; its letters are used here.

What every score is of passes over a tile is what it costs, next to the two products, so there are
few: scores are in powers of two (powers.py), 1 / std_j is added to them as its logarithm, which
makes them those of w, and the sum of a_ij = w_ij std_j comes out of the product with the content,
std_j being one more channel of it. So that powers stay finite, the highest score of a few tokens
is taken off; should others be higher by far, tiles are gone through again with the highest of all.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .linear import linear
from .tables import Separable, Tile, tiles_of
from .workers import threads

TILE = 700_000  # scores in a tile, 2.8 MB: smaller ones fit a core's own cache, but are more calls
LARGE_TILE = 2**25  # where starting an operation costs more than what it reads
FEW = 64  # tokens that are looked at for about the highest score
PIECE = 2**11  # tokens that are worth a thread of their own
MANY = 2.0**60  # a sum of weights up to which it is left as it is

Std = Callable[[Tensor, Tile], Tensor]  # content of a tile's tokens (P, content channels) -> (P, 1)


@dataclass(frozen=True)
class Gathered:
    """Sums over some of the tokens, in units of 2^-top.

    top       (I,) about the largest score of w
    count     (I,) sum of a
    contents  (content channels, I) sum of w content
    along     (n_i, I) sums of w along each dimension
    """

    top: Tensor
    count: Tensor
    contents: Tensor
    along: list[Tensor]


@dataclass(frozen=True)
class Scores:
    """Products with tokens [content | position | padding], before their norm.

    channels  (I, content channels)
    tables    (n_i, I): position and padding
    """

    channels: Tensor
    tables: Separable

    def __call__(self, tokens: Tensor, tile: Tile, scale: Tensor, *others: Tensor) -> Tensor:
        """scale (P, 1) times the products (P, I). tokens (P, content channels and more) are scaled
        content and what `others` (I,) stand against."""
        queries = torch.cat([self.channels, *(other[:, None] for other in others)], 1)
        return self.tables.add_to(linear(tokens, queries), tile, scale)

    def gather(
        self, content: Tensor, std: Std, tiles: Sequence[Tile], first: Sequence[Tile]
    ) -> Gathered:
        """From the tokens of some tiles, scores being in powers of two.

        content  (M, content channels)
        first    tiles to find `top` in
        """
        found = self._gather(content, std, tiles, self._highest(content, std, first))
        if found.count.amax() < MANY:  # which is not so of what is no number
            return found
        return self._gather(content, std, tiles, self._highest(content, std, tiles))

    def _highest(self, content: Tensor, std: Std, tiles: Sequence[Tile]) -> Tensor:
        nothing = self.channels.new_zeros(len(self.channels))
        found = [self._of_weights(content, std, tile, nothing)[0].amax(0) for tile in tiles]
        return torch.stack(found).amax(0)

    def _gather(self, content: Tensor, std: Std, tiles: Sequence[Tile], top: Tensor) -> Gathered:
        sums = self.channels.new_zeros(self.channels.shape[1] + 1, len(self.channels))
        along = [torch.zeros_like(table) for table in self.tables.tables]
        for tile in tiles:
            scores, known = self._of_weights(content, std, tile, top)
            weights = scores.exp2_()  # w
            sums += linear(known.T.contiguous(), weights.T)
            tile.add(along, weights)
        return Gathered(top, sums[-1], sums[:-1], along)

    def _of_weights(
        self, content: Tensor, std: Std, tile: Tile, top: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Scores of w, (P, I), and what is summed with w: [content | std]"""
        content = content[tile.place].to(self.channels.dtype)
        spread = std(content, tile)
        known, scale = torch.cat([content, spread], 1), spread.reciprocal()
        tokens = torch.cat([known * scale, scale.log2()], 1)
        return self(tokens, tile, scale, -top, torch.ones_like(top)), known


def tiles_for(grid: Sequence[int], queries: int, device: torch.device) -> list[Tile]:
    """Tiles of a modality for so many queries."""
    size = TILE if device.type == "cpu" else LARGE_TILE
    return list(tiles_of(grid, None, max(1, size // queries), device))


def few_of(grid: Sequence[int], device: torch.device) -> list[Tile]:
    """A tile to find about the highest score in."""
    return [next(tiles_of(grid, None, FEW, device))]


def pieces_for(tokens: int, device: torch.device) -> int:
    """In how many pieces, for a thread each, so many tokens are gathered from."""
    return min(threads(device), -(-tokens // PIECE))
