"""Functions of the points of a grid that are sums of one table a dimension, tile by tile.

Positions are Fourier features of each dimension by itself, so whatever is linear in them, or in
their squares, is such a sum: scores, means, variances.

Letters: P points, W channels of a function, n_i points along dimension i, K bands.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor


@dataclass(frozen=True)
class Tile:
    """Points that are answered together.

    rows     their indices along each dimension; without the last where `columns` are given
    columns  the stretch along the last dimension that all rows have
    place    where their answers go
    """

    rows: tuple[Tensor, ...]
    columns: slice | None
    place: slice

    def add(self, tables: Sequence[Tensor], values: Tensor) -> None:
        """Add values (P, W) at the points to tables (n_i, W): the transpose of `Separable`."""
        if self.columns is None:
            for table, index in zip(tables, self.rows, strict=True):
                table.index_add_(0, index, values)
            return
        *outer, last = tables
        last = last[self.columns]
        block = values.unflatten(0, (-1, len(last)))
        last += block.sum(0)
        if outer:
            stretches = block.sum(1)
            for table, index in zip(outer, self.rows, strict=True):
                table.index_add_(0, index, stretches)


@dataclass(frozen=True)
class Separable:
    """A function of grid points that is a sum over dimensions: tables (n_i, W), float32.

    A grid without dimensions has one table, of one row.
    """

    tables: tuple[Tensor, ...]

    def to(self, device: torch.device) -> Separable:
        return Separable(tuple(table.to(device, torch.float32) for table in self.tables))

    def __call__(self, tile: Tile) -> Tensor:
        """(P, W) at the points of a tile"""
        total = self._rows(tile)
        if tile.columns is None:
            assert total is not None
            return total
        last = self.tables[-1][tile.columns]
        return last if total is None else (total[:, None] + last).flatten(0, 1)

    def add_to(self, values: Tensor, tile: Tile, scale: Tensor) -> Tensor:
        """values (P, W) with scale (P, 1) times the function added, at the points of a tile of a
        whole grid, in place"""
        last, rows = self.tables[-1][tile.columns], self._rows(tile)
        block, scale = (x.unflatten(0, (-1, len(last))) for x in (values, scale))
        block.addcmul_(last, scale)
        if rows is not None:
            block.addcmul_(rows[:, None], scale)  # faster than an array of sums
        return values

    def _rows(self, tile: Tile) -> Tensor | None:
        """The part that depends on the rows of a tile, if any does: (rows, W)"""
        total = None
        for table, index in zip(self.tables, tile.rows, strict=False):
            rows = table.index_select(0, index)
            total = rows if total is None else total.add_(rows)
        return total


@dataclass(frozen=True)
class Rows:
    """What is known of every token or query of a grid without any input, float64 on the CPU.

    axes      features of positions along each dimension, (n_i, 1 + 2 K)
    channels  which channels of a token or query those are
    shared    (channels,): what all of them have in common, 0 in the channels of positions
    """

    axes: list[Tensor]
    channels: list[Tensor]
    shared: Tensor

    @classmethod
    def of(cls, axes: list[Tensor], before: int, after: Tensor) -> Rows:
        """Of rows [so many channels that are not known | position | `after`]"""
        dims = len(axes)
        bands = (axes[0].shape[1] - 1) // 2 if dims else 0
        width = dims * (1 + 2 * bands)
        # In order: positions, sines, cosines, each of all dimensions (see position.py).
        sizes = [1] * dims + [bands] * 2 * dims
        blocks = torch.arange(before, before + width).split(sizes) if dims else ()
        channels = [torch.cat(blocks[i::dims]) for i in range(dims)]
        shared = torch.cat([after.new_zeros(before + width), after])
        return cls([axis.to(after) for axis in axes], channels, shared)

    def through(self, weight: Tensor) -> Separable:
        """The linear map (W, channels) of all rows, in the type and on the device of `weight`."""
        common = weight @ self.shared.to(weight)
        tables = [
            axis.to(weight) @ weight[:, channels].T
            for axis, channels in zip(self.axes, self.channels, strict=True)
        ]
        return Separable((tables[0] + common, *tables[1:]) if tables else (common[None],))

    def sums(self) -> Separable:
        """Sum, and sum of squares, over the channels."""
        square = Rows([axis**2 for axis in self.axes], self.channels, self.shared**2)
        ones = torch.ones_like(self.shared)[None]
        pairs = zip(self.through(ones).tables, square.through(ones).tables, strict=True)
        return Separable(tuple(torch.cat(pair, 1) for pair in pairs))


def tiles_of(
    grid: Sequence[int], points: Tensor | None, size: int, device: torch.device
) -> Iterator[Tile]:
    """Tiles of `size` points at most: given ones in their order, or a whole grid, in blocks of
    whole stretches along its last dimension or of a part of one."""
    grid = grid or (1,)
    if points is not None:
        at = 0
        for some in points.to(device).split(size) if len(points) else ():
            yield Tile(torch.unravel_index(some, grid), None, slice(at, at + len(some)))
            at += len(some)
        return
    *outer, last = grid
    stretches = torch.arange(prod(outer), device=device)
    for some in stretches.split(max(1, size // last)):
        first = int(some[0]) * last
        rows = torch.unravel_index(some, outer) if outer else ()
        for start in range(0, last, size):
            stop = min(start + size, last)
            place = slice(first + start, first + start + len(some) * (stop - start))
            yield Tile(rows, slice(start, stop), place)
