"""How a started `small` is laid out: which latents and channels are for what.

The first latents belong to one output query of a grid each, the last ones to none. The first
channels of a latent say where it belongs, the next hold the content of its block, and the others
are for features.
"""

from __future__ import annotations

from torch import nn

from perceivio.layers import SelfAttend
from perceivio.model import MultimodalAutoencoder

WHERE = 64  # channels of a latent that say where it belongs; the others hold content
# Down, right: a head each.
NEIGHBOURS = ((0, -1), (0, 1), (-1, 0), (1, 0), (0, 0), (-1, -1), (1, 1))
NEIGHBOUR_GAP = 12.0  # score that separates a neighbour from a latent with nothing in common


def taken(module: MultimodalAutoencoder) -> int:
    """How many channels of a latent hold its place and content; features go into the others."""
    return WHERE + module.encoder.cross_attend.attention.value.out_features


def free(module: MultimodalAutoencoder) -> int:
    """How many latents belong to no output query of a grid: the last ones."""
    return len(module.encoder.latents) - sum(
        m.queries for m in module.config.modalities.values() if m.shape
    )


def writers(module: MultimodalAutoencoder) -> list[nn.Linear]:
    """The maps by which self-attends and MLPs add to the latents."""
    layers = [layer for layer in module.encoder.self_attends if isinstance(layer, SelfAttend)]
    mlps = [layer.mlp.narrow for layer in (module.encoder.cross_attend, *layers)]
    return [*mlps, *(layer.attention.output for layer in layers)]
