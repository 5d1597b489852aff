"""Where latents read from and write to: the weights of the two cross-attends, as arrays.

Reading: the encoder gives each latent, in each head, a weight for every token of the input array;
they sum to 1. Writing: the decoder gives each output query, in each head, a weight for every
latent; they sum to 1. A map of a latent is its weights on a modality's grid. Between the two the
self-attends pass everything around, so what a latent writes need not be what it has read.

Reading is computed from the layers of the plain module, writing by the engine, which knows scores
as sums of tables; some tokens or queries at a time: kept are the maps of the latents that were
asked for, never the whole matrix (of `base` 52,097 x 784 to read and 804,737 x 784 to write).

Letters: M tokens, O queries, N x D latents, H heads, K latents that are looked at, P of a tile.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

from .autoencoder import Autoencoder
from .config import Config
from .modalities import ModalityIO, stretch
from .model import InputError, MultimodalAutoencoder
from .position import grid_features
from .tables import Tile

TILE = 2**22  # numbers of a tile: 16 MB


@dataclass(frozen=True)
class Attention:
    """What some latents of one window read and write; all on the CPU, float32.

    latents  their numbers, K
    reads    by modality (K, H, *token_grid): weights that the latent gives to tokens; over the
             tokens of all modalities they sum to 1. None where only latents were known
    writes   by modality (K, H', *query_grid): weights that output queries give to the latent; over
             all N latents they sum to 1
    shares   by modality (N,): of every latent, the mean of those weights over queries and heads
    """

    latents: tuple[int, ...]
    reads: dict[str, Tensor] | None
    writes: dict[str, Tensor]
    shares: dict[str, Tensor]

    def read_shares(self, name: str) -> Tensor:
        """(K,): how much of a latent's reading goes to a modality, mean over heads."""
        assert self.reads is not None
        weights = self.reads[name]
        return weights.reshape(*weights.shape[:2], -1).sum(2).mean(1)


def attention(
    model: Autoencoder,
    inputs: Mapping[str, Tensor],
    latents: Sequence[int] | None = None,
    top: int = 2,
) -> Attention:
    """Where latents read from and write to in one window.

    inputs   by modality, each (1, *value_shape), as `model.encode` takes them
    latents  numbers of those to look at; None: the `top` strongest of every modality, pictures
             first

    The strongest latents of a modality are those with the largest mean weight over its queries.
    Raises InputError for inputs that do not fit, and for a latent that there is not.
    """
    if model.module.check_inputs(inputs) != 1:
        raise InputError("attention is that of one window: a batch of 1")
    values = model.encode(inputs)
    found = attention_of_latents(model, values, latents, top)
    own = {name: x.to(model.device, model.dtype) for name, x in inputs.items()}
    return Attention(
        found.latents, reads(model.module, own, found.latents), found.writes, found.shares
    )


def attention_of_latents(
    model: Autoencoder, values: Tensor, latents: Sequence[int] | None = None, top: int = 2
) -> Attention:
    """The same from the latents (1, N, D) of a window alone: what they read is not known."""
    config = model.config
    if values.shape != (1, config.latents, config.latent_channels):
        raise InputError("attention is that of one window: latents (1, N, D)")
    values = values[0].to(model.device, model.dtype)
    if latents is None:
        shares = {name: writes(model, values, name, ())[1] for name in by_dimensions(config)}
        latents = strongest(shares, top)
    chosen = _checked(latents, config)
    found = {name: writes(model, values, name, chosen) for name in config.modalities}
    return Attention(
        chosen,
        None,
        {name: maps for name, (maps, _) in found.items()},
        {name: share for name, (_, share) in found.items()},
    )


def by_dimensions(config: Config) -> list[str]:
    """Names of the modalities: pictures first, then curves, then classes."""
    return sorted(config.modalities, key=lambda name: -len(config.modalities[name].shape))


def strongest(shares: Mapping[str, Tensor], top: int) -> tuple[int, ...]:
    """The `top` latents with the largest share (N,) of each modality, each latent once; those of
    equal shares in order."""
    found: dict[int, None] = {}
    for share in shares.values():
        order = share.sort(descending=True, stable=True).indices
        found |= dict.fromkeys(order[:top].tolist())
    return tuple(found)


@torch.inference_mode()
def reads(
    module: MultimodalAutoencoder, inputs: Mapping[str, Tensor], latents: Sequence[int]
) -> dict[str, Tensor]:
    """By modality the weights (K, H, *token_grid) that K latents give to its tokens.

    inputs  by modality, each (1, *value_shape); a modality that is left out is masked
    """
    layer = module.encoder.cross_attend
    attention, heads = layer.attention, layer.attention.heads
    some = module.encoder.latents[list(latents)]
    queries = attention.query(layer.query_norm(some)).unflatten(1, (heads, -1))  # K x H x c
    # q . (W k) = (W^T q) . k: no keys are made. What the key bias adds is the same for all tokens.
    key = attention.key.weight.unflatten(0, (heads, -1))
    looked_for = torch.einsum("khc,hcx->khx", queries, key).flatten(0, 1) * queries.shape[2] ** -0.5

    def scores(tokens: Tensor) -> Tensor:  # P x C -> K H x P
        return (looked_for @ layer.attended_norm(tokens).T).float().cpu()

    found = []
    for name, modality in module.config.modalities.items():
        io = module.io(name)
        if name in inputs:
            found.append(torch.cat([scores(tokens) for tokens in _tokens(io, inputs[name])], 1))
        else:
            found.append(scores(io.mask_token[None]).expand(-1, modality.tokens))
    weights = torch.cat(found, 1).softmax(1).unflatten(0, (-1, heads))
    parts = weights.split([part.shape[1] for part in found], 2)
    return {
        name: part.unflatten(2, modality.token_grid) if modality.token_grid else part[..., 0]
        for (name, modality), part in zip(module.config.modalities.items(), parts, strict=True)
    }


def _tokens(io: ModalityIO, values: Tensor) -> Iterator[Tensor]:
    """The tokens of a modality, some rows of its grid's first dimension at a time: (P, C)"""
    modality = io.modality
    if not modality.token_grid:
        yield io.tokens(values)[0]
        return
    count, *others = modality.token_grid
    row = prod(others)
    step = max(1, TILE // (row * len(io.mask_token)))
    axes = io.token_axes()
    for first in range(0, count, step):
        rows = slice(first, min(first + step, count))
        content = io.content(stretch(values, modality, rows))[0]
        points = torch.arange(rows.start * row, rows.stop * row)
        shared = [grid_features(axes, points).to(content), io.padding.expand(len(content), -1)]
        yield torch.cat([content, *shared], 1)


@torch.inference_mode()
def writes(
    model: Autoencoder, values: Tensor, name: str, latents: Sequence[int]
) -> tuple[Tensor, Tensor]:
    """The weights (K, H, *query_grid) that a modality's queries give to K latents, and the mean
    weight (N,) of every latent, over queries and heads.

    values  latents (N, D) of a window
    """
    modality, heads = model.config.modalities[name], model.config.decode.heads
    chosen = list(latents)
    maps = torch.empty(len(chosen), heads, modality.queries)

    def look(tile: Tile, weights: Tensor, total: Tensor) -> Tensor:  # P x H x N, P x H x 1
        maps[:, :, tile.place] = (weights[:, :, chosen] / total).permute(2, 1, 0).cpu()
        return torch.einsum("phn,ph->n", weights, total[:, :, 0].reciprocal()).double()

    share = torch.stack(model.engine.writer(name).weights(values, look)).sum(0)
    grid = modality.query_grid
    maps = maps.unflatten(2, grid) if grid else maps[..., 0]
    return maps, (share / (modality.queries * heads)).float().cpu()


def _checked(latents: Sequence[int], config: Config) -> tuple[int, ...]:
    for number in latents:
        if not 0 <= number < config.latents:
            raise InputError(f"there is no latent {number}: they are 0 to {config.latents - 1}")
    return tuple(dict.fromkeys(latents))
