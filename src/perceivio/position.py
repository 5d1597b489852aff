"""Where things are: the two position grids of the published model, and Fourier features.

Positions are built in float32 in one fixed order of operations, because the published weights
were trained with the rounding that this order gives: a sound position's largest angle is
48,254 rad, where neighbouring float32 numbers are 0.004 apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import pi, prod

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Grid:
    """Queries at positions of one's own: every combination of coordinates along each dimension.

    axes  (n_i,) for each dimension, in steps of the trained output queries: 0 is the first of
          them, 1 the second, 0.5 half-way between
    """

    axes: tuple[Tensor, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(len(axis) for axis in self.axes)

    def __len__(self) -> int:
        return prod(self.shape)


def input_positions(n: int) -> Tensor:
    """(n,) positions of input tokens: evenly over [-1, 1], both ends included."""
    return torch.linspace(-1.0, 1.0, n)


def query_positions(n: int, at: Tensor | None = None) -> Tensor:
    """(n,) positions of output queries: -1 + 2 i / n, which never reaches +1.

    at  (P,) other coordinates i than 0 .. n - 1: whole ones have the same positions, to the bit
    """
    at = torch.arange(n) if at is None else at.cpu().float()
    return -1 + 2 * at / torch.tensor(n)


def axis_features(positions: Tensor, bands: int, resolution: int) -> Tensor:
    """(n, 1 + 2 K) features of the positions along one dimension: [p | K sines | K cosines].

    Band k is sin or cos of pi f_k p, with f evenly from 1 to half the resolution.
    """
    frequencies = torch.linspace(1.0, resolution / 2, bands)
    angles = pi * (positions[:, None] * frequencies)
    return torch.cat([positions[:, None], angles.sin(), angles.cos()], dim=1)


def grid_features(axes: Sequence[Tensor], points: Tensor | None = None) -> Tensor:
    """(P, d + 2 d K) Fourier features of points of a grid, from the features along its axes.

    axes    d tensors (n_i, 1 + 2 K) of `axis_features`
    points  (P,) flat row-major indices; None: the whole grid in order

    The channels are [p_1 .. p_d | sines of dimension 1 .. d | cosines of dimension 1 .. d].
    A grid without dimensions has one point and no channels.
    """
    if not axes:
        return torch.zeros(1 if points is None else len(points), 0)
    shape = [len(axis) for axis in axes]
    if points is None:
        points = torch.arange(torch.Size(shape).numel(), device=axes[0].device)
    index = torch.unravel_index(points, shape)
    rows = [axis[i] for axis, i in zip(axes, index, strict=True)]
    bands = (rows[0].shape[1] - 1) // 2
    parts = [(slice(0, 1)), slice(1, 1 + bands), slice(1 + bands, None)]
    return torch.cat([row[:, part] for part in parts for row in rows], dim=1)
