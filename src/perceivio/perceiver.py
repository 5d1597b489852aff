"""The core of every Perceiver IO: an encoder from any input array to latents, and a decoder
from latents to any queries. Knows nothing of what the arrays mean.

Letters: B batch, M x C input array, N x D latents, O x E output queries.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .config import Attend
from .layers import CrossAttend, SelfAttend


class Encoder(nn.Module):
    """Learned latents read the input array once, then attend to themselves."""

    def __init__(
        self,
        *,
        input_channels: int,
        latents: int,
        latent_channels: int,
        cross_attend: Attend,
        self_attend: Attend,
        self_attends: int,
        blocks: int,
        activation: str,
    ) -> None:
        super().__init__()
        self.blocks = blocks
        self.latents = nn.Parameter(torch.empty(latents, latent_channels))
        self.cross_attend = CrossAttend(latent_channels, input_channels, cross_attend, activation)
        self.self_attends = nn.ModuleList(
            SelfAttend(latent_channels, self_attend, activation) for _ in range(self_attends)
        )

    def forward(self, input_array: Tensor) -> Tensor:
        """(B, M, C) -> (B, N, D)"""
        latents = self.latents.expand(len(input_array), -1, -1)
        return self.process(self.cross_attend(latents, input_array))

    def process(self, latents: Tensor) -> Tensor:
        """(B, N, D) -> (B, N, D): the self-attends, every block with the same weights."""
        for _ in range(self.blocks):
            for self_attend in self.self_attends:
                latents = self_attend(latents)
        return latents


class Decoder(nn.Module):
    """Queries read from the latents; a linear map gives every query its output channels."""

    def __init__(
        self,
        *,
        query_channels: int,
        latent_channels: int,
        output_channels: int,
        cross_attend: Attend,
        activation: str,
    ) -> None:
        super().__init__()
        self.cross_attend = CrossAttend(query_channels, latent_channels, cross_attend, activation)
        self.output = nn.Linear(query_channels, output_channels)

    def forward(self, queries: Tensor, latents: Tensor) -> Tensor:
        """(B, O, E), (B, N, D) -> (B, O, output channels)"""
        return self.output(self.cross_attend(queries, latents))
