"""The plain module's function with gradients to every parameter, for much less work.

`encode`, `decode` and `forward` are those of `MultimodalAutoencoder`, on the module itself: same
arguments, same parameters, same values up to rounding. The encoder's cross-attend is in factored
form (factored_encode.py says how); here the constants of a model are made once a step, for the
whole batch, as part of the graph. What is done for each token is in gather.py, with the way back
by hand. All else is the plain layers through the fastest products (fast_layers.py).

Positions, LayerNorm of tokens, scores and their softmax stay float32 under autocast, which reaches
all maps of N rows.

Letters: B batch, M x C input array, N x D latents, O x E output queries, H heads.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import log
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from ..engine import encode_pays
from ..fast_layers import as_they_are as maps
from ..fast_layers import cross_attend, finish, self_attends
from ..layers import LAYER_NORM_EPS, SelfAttend
from ..linear import linear
from ..modalities import ModalityIO
from ..model import MultimodalAutoencoder, Points
from .gather import gather

CHUNK = 4096  # queries answered at once; more than these are answered again on the way back


def forward(
    module: MultimodalAutoencoder,
    inputs: Mapping[str, Tensor],
    masked: Mapping[str, Tensor] | None = None,
    points: Points | None = None,
    *,
    again: bool = False,
) -> dict[str, Tensor]:
    """decode(encode(inputs, masked), points)"""
    return decode(module, encode(module, inputs, masked, again=again), points)


def encode(
    module: MultimodalAutoencoder,
    inputs: Mapping[str, Tensor],
    masked: Mapping[str, Tensor] | None = None,
    *,
    again: bool = False,
) -> Tensor:
    """As `module.encode` -> latents (B, N, D)

    again  compute each self-attend again on the way back, for less memory
    """
    encoder, layer = module.encoder, module.encoder.cross_attend
    if encode_pays(module.config):
        x = _read(module, inputs, masked)
        x = finish(layer, x + encoder.latents if layer.query_residual else x, maps)
    else:
        x = cross_attend(layer, encoder.latents[None], module.input_array(inputs, masked), maps)
    for _ in range(encoder.blocks):
        for self_attend in encoder.self_attends:
            assert isinstance(self_attend, SelfAttend)
            x = _again(_self_attend, self_attend, x) if again else _self_attend(self_attend, x)
    return x


def _self_attend(layer: SelfAttend, x: Tensor) -> Tensor:
    """Elsewhere than on a CPU torch's products are the fastest, and the layer may be compiled."""
    return self_attends([layer], x, maps) if x.device.type == "cpu" else layer(x)


def decode(
    module: MultimodalAutoencoder, latents: Tensor, points: Points | None = None
) -> dict[str, Tensor]:
    """As `module.decode`: every query is made and mapped once for the whole batch."""
    chosen = module.check_points(points)
    if not chosen:
        return {}
    queries = [module.io(name).queries(some) for name, some in chosen.items()]
    array = torch.cat(queries)
    if len(array) <= CHUNK:
        answers = _answers(module, array, latents)
    else:
        chunks = [_again(_answers, module, some, latents) for some in array.split(CHUNK)]
        answers = torch.cat(chunks, 1)
    outputs = {}
    split = answers.split([len(part) for part in queries], 1)
    for (name, some), part in zip(chosen.items(), split, strict=True):
        io = module.io(name)
        values = linear(part, *maps(io.output)) * io.modality.std + io.modality.mean
        values = values[:, 0] if io.modality.is_classes else values
        outputs[name] = io.assemble(values) if some is None else values
    return outputs


def _again(function: Callable[..., Tensor], *arguments: Any) -> Tensor:
    """What the function returns; on the way back it is computed again. Nothing here is random."""
    result = checkpoint(function, *arguments, use_reentrant=False, preserve_rng_state=False)
    assert isinstance(result, Tensor)
    return result


def _answers(module: MultimodalAutoencoder, queries: Tensor, latents: Tensor) -> Tensor:
    """(O, E), (B, N, D) -> (B, O, output channels)"""
    decoder = module.decoder
    answers = cross_attend(decoder.cross_attend, queries[None], latents, maps)
    return linear(answers, *maps(decoder.output))


def _read(
    module: MultimodalAutoencoder,
    inputs: Mapping[str, Tensor],
    masked: Mapping[str, Tensor] | None,
) -> Tensor:
    """What the attention of the encoder's cross-attend returns: (B, N, D)"""
    module.check_inputs(inputs)
    layer, latents = module.encoder.cross_attend, module.encoder.latents
    attention, heads = layer.attention, layer.attention.heads
    with torch.autocast(latents.device.type, enabled=False):
        exact = torch.promote_types(latents.dtype, torch.float32)
        q = linear(layer.query_norm(latents), *maps(attention.query)).to(exact)
        key = (attention.key.weight * layer.attended_norm.weight).to(exact)
        by_head = zip(q.chunk(heads, 1), key.chunk(heads), strict=True)
        queries = torch.cat([linear(q_h, k_h.T) for q_h, k_h in by_head])  # H N x C
        queries = (queries - queries.mean(1, keepdim=True)) * (len(key) // heads) ** -0.5
        tokens = [
            _tokens(module.io(name), queries, inputs.get(name), (masked or {}).get(name))
            for name in module.config.modalities
        ]
        batch = max(len(lse) for lse, _ in tokens)
        shares = torch.stack([lse.expand(batch, -1) for lse, _ in tokens]).softmax(0)[..., None]
        gathered = shares[0] * tokens[0][1]
        for share, (_, sums) in zip(shares[1:], tokens[1:], strict=True):
            gathered = gathered + share * sums
        gathered = gathered - gathered.mean(2, keepdim=True)
        # The key bias cancels in the softmax: its gradient is zero, but it has one.
        gathered = gathered + 0 * attention.key.bias.sum()
    # Weights sum to 1, so what is the same for all tokens passes through.
    normed = gathered * layer.attended_norm.weight + layer.attended_norm.bias
    value = zip(normed.chunk(heads, 1), attention.value.weight.chunk(heads), strict=True)
    values = torch.cat([linear(x.to(w), w) for x, w in value], 2) + attention.value.bias
    return linear(values, *maps(attention.output))


def _tokens(
    io: ModalityIO, queries: Tensor, values: Tensor | None, masked: Tensor | None
) -> tuple[Tensor, Tensor]:
    """What queries (H N, C) gather from one modality alone: the logarithm of the sum of exp(score),
    (B or 1, H N), and the mean of normed tokens, (B or 1, H N or 1, C)."""
    token = F.layer_norm(io.mask_token.to(queries), io.mask_token.shape, eps=LAYER_NORM_EPS)
    lse = (queries @ token + log(io.modality.tokens))[None]
    if values is None:
        return lse, token[None, None]
    if masked is None:
        return _given(io, queries, values)
    kept = masked.logical_not().nonzero()[:, 0]
    given_lse, given_sums = _given(io, queries, values[kept])
    return (
        lse.expand(len(masked), -1).index_copy(0, kept, given_lse),
        token.expand(len(masked), len(queries), -1).index_copy(0, kept, given_sums),
    )


def _given(io: ModalityIO, queries: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    """The same for a modality that is given in every example, (B, *value_shape)."""
    content, padding = io.content(values).to(queries), io.padding.to(queries)
    axes = [axis.to(queries) for axis in io.token_axes()]
    sizes = [content.shape[2], io.modality.position_channels, len(padding)]
    for_content, for_position, for_padding = queries.split(sizes, 1)
    common = for_padding @ padding
    by_axis = zip(axes, _by_axis(for_position, len(axes)), strict=True)
    tables = [linear(axis, q) for axis, q in by_axis] or [torch.zeros_like(common)[None]]
    tables[0] = tables[0] + common
    std = _std(content, axes, padding)
    lse, contents, along = gather(content, std, for_content, tables, io.modality.token_grid)
    total = along[0].sum(1)[..., None]
    positions = [linear(w.mT, axis.T) for w, axis in zip(along, axes, strict=False)]
    return lse, torch.cat([contents.mT, *_by_channel(positions), total * padding], 2)


def _std(content: Tensor, axes: Sequence[Tensor], padding: Tensor) -> Tensor:
    """Standard deviation of tokens over their C channels, (B, M, 1)"""
    total, square = padding.sum()[None], padding.square().sum()[None]
    for axis in axes:
        total = (total[:, None] + axis.sum(1)).flatten()
        square = (square[:, None] + axis.square().sum(1)).flatten()
    channels = content.shape[2] + sum(axis.shape[1] for axis in axes) + len(padding)
    mean = (total + content.sum(2)) / channels
    square = (square + content.square().sum(2)) / channels
    return (square - mean.square() + LAYER_NORM_EPS).sqrt()[..., None]


def _by_channel(positions: Sequence[Tensor]) -> list[Tensor]:
    """Of each dimension's features, (.., 1 + 2 K), parts in the order of a token's channels: the
    positions themselves, sines, cosines, each of all dimensions (see position.py)."""
    bands = (positions[0].shape[-1] - 1) // 2 if positions else 0
    parts = slice(0, 1), slice(1, 1 + bands), slice(1 + bands, None)
    return [position[..., part] for part in parts for position in positions]


def _by_axis(channels: Tensor, dims: int) -> list[Tensor]:
    """The inverse: position channels (.., d + 2 d K) -> (.., 1 + 2 K) of each dimension."""
    bands = (channels.shape[-1] // dims - 1) // 2 if dims else 0
    parts = channels.split([1] * dims + [bands] * 2 * dims, -1) if dims else ()
    return [torch.cat(parts[i::dims], -1) for i in range(dims)]
