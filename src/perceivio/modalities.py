"""A declared modality at work: values -> tokens, points -> queries, answers -> values.

Video, sound and labels all go through this one class; what differs is their declaration.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from .config import Modality
from .position import Grid, axis_features, grid_features, input_positions, query_positions


class ModalityIO(nn.Module):
    """The two ends of one modality, with the parameters that belong to it alone.

    padding        (C - content - position,) the channels that fill up a token
    mask_token     (C,) what stands in for every token of a modality that is not given
    query_padding  (E - position - learned,) the channels that fill up a query
    query          (learned,) learned channels of a query; empty for a pure grid
    output         linear map from an answer to the values of an output patch
    """

    padding: nn.Parameter
    mask_token: nn.Parameter
    query_padding: nn.Parameter
    query: nn.Parameter

    def __init__(
        self, modality: Modality, input_channels: int, query_channels: int, output_channels: int
    ) -> None:
        super().__init__()
        self.modality = modality
        position = modality.position_channels
        self.padding = nn.Parameter(
            torch.empty(input_channels - modality.content_channels - position)
        )
        self.mask_token = nn.Parameter(torch.empty(input_channels))
        self.query = nn.Parameter(torch.empty(modality.query))
        self.query_padding = nn.Parameter(torch.empty(query_channels - position - modality.query))
        self.embed = (
            nn.Linear(modality.patch_values, modality.embed) if modality.embed else nn.Identity()
        )
        self.output = nn.Linear(output_channels, modality.output_values)

    def token_axes(self) -> list[Tensor]:
        """Features of token positions along each dimension, each (n_i, 1 + 2 K)."""
        return self._axes(map(input_positions, self.modality.token_grid))

    def query_axes(self, grid: Grid | None = None) -> list[Tensor]:
        """Features of query positions along each dimension, each (n_i, 1 + 2 K), on a grid of
        one's own or, without one, on the trained one."""
        counts = self.modality.query_grid
        axes = [None] * len(counts) if grid is None else grid.axes
        return self._axes(map(query_positions, counts, axes))

    def _axes(self, positions: Iterable[Tensor]) -> list[Tensor]:
        # Built on the CPU in float32 whatever the model's device and type: see position.py.
        return [
            axis_features(along, self.modality.bands, resolution)
            for along, resolution in zip(positions, self.modality.resolution, strict=True)
        ]

    def content(self, values: Tensor) -> Tensor:
        """(B, *value_shape) -> (B, M, content channels): the patches of a modality, embedded."""
        modality = self.modality
        values = (values - modality.mean) / modality.std
        return self.embed(patches(values, modality, modality.patch))

    def tokens(self, values: Tensor) -> Tensor:
        """(B, *value_shape) -> (B, M, C): [content | position | padding]"""
        content = self.content(values)
        position = grid_features(self.token_axes()).to(content)
        shared = torch.cat([position, self.padding.expand(len(position), -1)], dim=1)
        return torch.cat([content, shared.expand(len(content), -1, -1)], dim=2)

    def masked_tokens(self, batch: int) -> Tensor:
        """(B, M, C): the mask token in place of every token."""
        return self.mask_token.expand(batch, self.modality.tokens, -1)

    def queries(self, points: Tensor | Grid | None = None) -> Tensor:
        """(P,) flat row-major indices of the output grid, a grid of one's own, or None for all of
        the trained one -> (P, E)"""
        if isinstance(points, Tensor):
            position = grid_features(self.query_axes(), points.cpu()).to(self.query)
        else:
            position = grid_features(self.query_axes(points)).to(self.query)
        learned = torch.cat([self.query, self.query_padding])
        return torch.cat([position, learned.expand(len(position), -1)], dim=1)

    def values(self, answers: Tensor) -> Tensor:
        """(B, P, output channels) -> (B, P, values of an output patch); classes: (B, classes)"""
        values = self.output(answers) * self.modality.std + self.modality.mean
        return values[:, 0] if self.modality.is_classes else values

    def assemble(self, values: Tensor) -> Tensor:
        """All output patches in order, (B, O, values of a patch) -> (B, *value_shape)"""
        modality = self.modality
        return values if modality.is_classes else unpatch(values, modality, modality.output_patch)


def patches(values: Tensor, modality: Modality, patch: tuple[int, ...]) -> Tensor:
    """Cut a grid, or a `stretch` of it, into patches: (B, *value_shape) -> (B, patches, values of
    a patch).

    Patches are in row-major order; in a patch, channels run fastest, then the last dimension.
    """
    dims = len(modality.shape)
    if dims:
        values = values.movedim(1 + modality.channel_axis % (dims + 1), -1)
        values = values.contiguous()  # two copies in order are faster than one out of order
    grid = zip(values.shape[1:-1], patch, strict=True)
    pairs = [n for size, p in grid for n in (size // p, p)]
    values = values.reshape(len(values), *pairs, modality.channels)
    counts, inside = range(1, 2 * dims, 2), range(2, 2 * dims + 1, 2)
    values = values.permute(0, *counts, *inside, 2 * dims + 1)
    return values.flatten(1 + dims).flatten(1, -2) if dims else values[:, None]


def stretch(values: Tensor, modality: Modality, rows: slice) -> Tensor:
    """The part of (B, *value_shape) that is in some rows of the token grid's first dimension."""
    if modality.is_classes:
        return values
    axis = 2 if modality.channel_axis % (len(modality.shape) + 1) == 0 else 1
    size = modality.patch[0]
    return values.narrow(axis, rows.start * size, (rows.stop - rows.start) * size)


def unpatch(
    values: Tensor,
    modality: Modality,
    patch: tuple[int, ...],
    grid: Sequence[int] | None = None,
) -> Tensor:
    """The inverse of `patches`; of a grid of so many patches, if not of the whole."""
    dims = len(modality.shape)
    grid = grid or [n // p for n, p in zip(modality.shape, patch, strict=True)]
    values = values.reshape(len(values), *grid, *patch, modality.channels)
    pairs = [axis for i in range(dims) for axis in (1 + i, 1 + dims + i)]
    values = values.permute(0, *pairs, 2 * dims + 1)
    shape = [n * p for n, p in zip(grid, patch, strict=True)]
    values = values.reshape(len(values), *shape, modality.channels)
    return values.movedim(-1, 1 + modality.channel_axis % (dims + 1))
