"""The layers of the core: attention, MLP, cross-attend, self-attend. Plain, nothing fused.

Letters: B batch, Q x C_q queries, K x C_k attended array.
"""

from __future__ import annotations

from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from .config import Attend

LAYER_NORM_EPS = 1e-5


class Attention(nn.Module):
    """Multi-head attention: every query gathers a softmax-weighted mean of the values."""

    def __init__(self, query_channels: int, attended_channels: int, attend: Attend) -> None:
        super().__init__()
        qk, v = attend.qk(attended_channels), attend.v(attended_channels)
        self.heads = attend.heads
        self.query = nn.Linear(query_channels, qk)
        self.key = nn.Linear(attended_channels, qk)
        self.value = nn.Linear(attended_channels, v)
        self.output = nn.Linear(v, query_channels)

    def forward(self, queries: Tensor, attended: Tensor) -> Tensor:
        """(B, Q, C_q), (B, K, C_k) -> (B, Q, C_q)"""

        def split(x: Tensor) -> Tensor:  # B x n x (heads c) -> B x heads x n x c
            return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)

        gathered = F.scaled_dot_product_attention(
            split(self.query(queries)), split(self.key(attended)), split(self.value(attended))
        )
        return self.output(gathered.transpose(1, 2).flatten(-2))


class MLP(nn.Module):
    """Two linear maps with a GELU between them."""

    def __init__(self, channels: int, widening: int, activation: str) -> None:
        super().__init__()
        self.widen = nn.Linear(channels, widening * channels)
        self.narrow = nn.Linear(widening * channels, channels)
        self.approximate: Literal["none", "tanh"] = "tanh" if activation == "gelu_tanh" else "none"

    def forward(self, x: Tensor) -> Tensor:
        return self.narrow(F.gelu(self.widen(x), approximate=self.approximate))


class CrossAttend(nn.Module):
    """Queries read from another array; an MLP follows."""

    def __init__(
        self, query_channels: int, attended_channels: int, attend: Attend, activation: str
    ) -> None:
        super().__init__()
        self.query_residual = attend.query_residual
        self.query_norm = nn.LayerNorm(query_channels, LAYER_NORM_EPS)
        self.attended_norm = nn.LayerNorm(attended_channels, LAYER_NORM_EPS)
        self.attention = Attention(query_channels, attended_channels, attend)
        self.mlp_norm = nn.LayerNorm(query_channels, LAYER_NORM_EPS)
        self.mlp = MLP(query_channels, attend.widening, activation)

    def forward(self, queries: Tensor, attended: Tensor) -> Tensor:
        """(B, Q, C_q), (B, K, C_k) -> (B, Q, C_q)"""
        x = self.attention(self.query_norm(queries), self.attended_norm(attended))
        if self.query_residual:
            x = queries + x
        return x + self.mlp(self.mlp_norm(x))


class SelfAttend(nn.Module):
    """An array reads from itself; an MLP follows."""

    def __init__(self, channels: int, attend: Attend, activation: str) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(channels, LAYER_NORM_EPS)
        self.attention = Attention(channels, channels, attend)
        self.mlp_norm = nn.LayerNorm(channels, LAYER_NORM_EPS)
        self.mlp = MLP(channels, attend.widening, activation)

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, D) -> (B, N, D)"""
        y = self.attention_norm(x)
        x = x + self.attention(y, y)
        return x + self.mlp(self.mlp_norm(x))
