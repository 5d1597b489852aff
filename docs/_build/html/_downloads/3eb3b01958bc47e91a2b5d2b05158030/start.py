"""Initial values that make an untrained `small` a working, linear transform coder.

The usual random start spends its first thousands of clips finding out where anything is. Here
the maps are set so that, before any training,

- a patch is embedded by its principal components,
- a latent reads one block of the video (one head for each token in it) or one stretch of sound,
- the self-attends and MLPs leave the channels alone that hold a latent's place and content,
- an output query reads the one latent that holds its block,
- and the output maps are the least-squares solution on real clips.

All of it is initial values: the architecture is what its configuration says, and everything is
learned on from here.
"""

from __future__ import annotations

from itertools import product

import torch
from torch import Tensor

from perceivio.config import Modality
from perceivio.layers import SelfAttend
from perceivio.modalities import ModalityIO, patches
from perceivio.model import MultimodalAutoencoder

from .layout import NEIGHBOUR_GAP, NEIGHBOURS, WHERE, taken, writers
from .notice import listen_around, notice

CONTENT = 0.02  # energy of embedded content, a channel: far below that of position and padding,
# so that LayerNorm divides all tokens by nearly the same number and reading them is linear
AMPLIFY = 2.0  # of that content, on its way into the latents
SHARPNESS = 12.0  # of the encoder's first look: neighbours are left next to nothing
MARK = 25.0  # score, before sharpening, that keeps latents off the tokens of other modalities
STILL = 0.1  # strength of self-attends and MLPs, of their usual
NOTICE = 3.0  # strength of content in what they read, of its usual
ELSEWHERE = 0.3  # strength of all else that a head scores neighbours by
DECODE_GAP = 24.0  # score that separates a query's own latent from a latent with nothing in common


@torch.no_grad()
def start_at_positions(
    module: MultimodalAutoencoder,
    clips: dict[str, Tensor],
    features: bool = True,
    logarithms: bool = True,
    neighbours: bool = True,
) -> None:
    """Set the initial values of a model from some hundred clips, {"image": ..., "audio": ...}.

    The last three take parts of it away, to see what they are worth (`ablate.py`).
    """
    grids = {name: module.io(name) for name in clips}
    for name, io in grids.items():
        embed_principal_components(io, patches_of(io, clips[name], io.modality.patch))
        io.mask_token.zero_()
    others = [io for name, io in named_ends(module) if name not in grids]
    mark_modalities(grids, others)
    codes, targets = place_latents(module, grids)
    read_own_blocks(module, grids, targets)
    look_around(module, grids, codes, neighbours)
    if features:
        notice(module, clips, logarithms)
    if neighbours:
        listen_around(module, grids, codes)
    answer_from_own_latent(module, grids, codes)
    fit_outputs(module, clips)


def named_ends(module: MultimodalAutoencoder) -> list[tuple[str, ModalityIO]]:
    return [(name, module.io(name)) for name in module.config.modalities]


def patches_of(io: ModalityIO, values: Tensor, patch: tuple[int, ...]) -> Tensor:
    """All patches of all clips, normalised: (patches, values of a patch)"""
    modality = io.modality
    return patches((values - modality.mean) / modality.std, modality, patch).flatten(0, 1)


def embed_principal_components(io: ModalityIO, x: Tensor) -> None:
    """Embed patches by principal components, half whitened, with the energy CONTENT a channel."""
    assert isinstance(io.embed, torch.nn.Linear)
    mean = x.mean(0)
    variances, directions = torch.linalg.eigh((x - mean).T @ (x - mean) / len(x))
    order = variances.argsort(descending=True)[: io.embed.out_features]
    variances, directions = variances[order].clamp(min=1e-6), directions[:, order]
    scale = variances**-0.25
    scale *= (CONTENT * len(order) / (variances * scale**2).sum()).sqrt()
    io.embed.weight.copy_((directions * scale).T)
    io.embed.bias.copy_(-io.embed.weight @ mean)


def mark_modalities(grids: dict[str, ModalityIO], others: list[ModalityIO]) -> None:
    """Padding of +-1 with zero sum at the end: steadies a token's norm, tells modalities apart."""
    mark = modality_mark(grids)
    for sign, io in zip((1.0, -1.0), grids.values(), strict=True):
        io.padding.copy_(alternating(len(io.padding)))
        io.padding[-len(mark) :] = sign * mark
        io.query_padding.normal_(std=0.5)
    for io in others:
        io.padding[-len(mark) :] = slow(mark)


def modality_mark(grids: dict[str, ModalityIO]) -> Tensor:
    """As many channels (in fours) as are padding at the end of the tokens of every grid."""
    return alternating(min(len(io.padding) for io in grids.values()) // 4 * 4)


def alternating(n: int) -> Tensor:
    return 1.0 - 2.0 * (torch.arange(n) % 2)


def slow(mark: Tensor) -> Tensor:
    """A second mark, with nothing in common with the first: + + - - + + - - ..."""
    return 1.0 - 2.0 * (torch.arange(len(mark)) // 2 % 2)


def place_latents(
    module: MultimodalAutoencoder, grids: dict[str, ModalityIO]
) -> tuple[Tensor, dict[str, list[list[int]]]]:
    """Give each output query of the grids a latent of its own.

    Returns the codes (N, channels) by which latents can be told apart, and by grid the tokens
    (flat indices) that each of its latents is to read. A code has one channel set for each
    coordinate, so that linear maps can turn positions into it.
    """
    encoder = module.encoder
    axes = [size for io in grids.values() for size in io.modality.query_grid]
    placed = sum(io.modality.queries for io in grids.values())
    free = encoder.latents.shape[0] - placed
    codes = torch.zeros(encoder.latents.shape[0], sum(axes) + free)
    targets: dict[str, list[list[int]]] = {}
    row = column = 0
    for name, io in grids.items():
        modality = io.modality
        targets[name] = []
        for cell in product(*map(range, modality.query_grid)):
            offsets = [sum(modality.query_grid[:axis]) + i for axis, i in enumerate(cell)]
            codes[row, [column + offset for offset in offsets]] = len(cell) ** -0.5
            targets[name].append(tokens_of_cell(modality, cell))
            row += 1
        column += sum(modality.query_grid)
    codes[range(row, row + free), range(column, column + free)] = 1.0
    basis = torch.linalg.qr(torch.randn(WHERE, WHERE))[0][: codes.shape[1]]
    encoder.latents.zero_()
    encoder.latents[:, :WHERE] = 2.0 * WHERE**0.5 * codes @ basis
    return codes, targets


def tokens_of_cell(modality: Modality, cell: tuple[int, ...]) -> list[int]:
    """Flat indices of the tokens inside one output patch."""
    inside = [
        range(i * out // patch, (i + 1) * out // patch)
        for i, out, patch in zip(cell, modality.output_patch, modality.patch, strict=True)
    ]
    grid = torch.arange(modality.tokens).reshape(modality.token_grid)
    return [int(grid[index]) for index in product(*inside)]


def read_own_blocks(
    module: MultimodalAutoencoder,
    grids: dict[str, ModalityIO],
    targets: dict[str, list[list[int]]],
) -> None:
    """Encoder: head h of a latent looks at the h-th token of its block and takes its content."""
    encoder, config = module.encoder, module.config
    layer = encoder.cross_attend.attention
    heads = layer.heads
    qk, v = layer.key.out_features // heads, layer.value.out_features // heads
    content = max(io.modality.content_channels for io in grids.values())
    mark = modality_mark(grids)

    # A key repeats the position channels and, in its last two, the marks of the modalities.
    place_channels = qk - 2
    key = torch.zeros(qk, config.input_channels)
    key[:place_channels, content : content + place_channels] = torch.eye(place_channels)
    key[qk - 2, -len(mark) :] = slow(mark) / len(mark)
    key[qk - 1, -len(mark) :] = mark / len(mark)
    # A value repeats the content; the padding's sum takes back the mean that LayerNorm took away.
    value = torch.zeros(v, config.input_channels)
    value[:, :v] = torch.eye(v)
    value[:, -len(mark) :] -= 1 / len(mark)
    layer.key.weight.copy_(key.repeat(heads, 1))
    layer.value.weight.copy_(AMPLIFY * value.repeat(heads, 1))

    wanted = torch.zeros(encoder.latents.shape[0], heads, qk)
    row = 0
    for sign, (name, io) in zip((1.0, -1.0), grids.items(), strict=True):
        tokens = io.tokens(torch.full((1, *io.modality.value_shape), io.modality.mean))[0]
        place = tokens[:, content : content + place_channels]
        place = place - place.mean(1, keepdim=True)
        for tokens_here in targets[name]:
            for head in range(heads):
                token = tokens_here[head * len(tokens_here) // heads]
                wanted[row, head, :place_channels] = place[token]
                wanted[row, head, qk - 1] = MARK * sign
            row += 1
    wanted[row, :, qk - 2] = MARK  # the first free latent reads a label that is given
    normed = torch.nn.functional.layer_norm(encoder.latents, encoder.latents.shape[1:])
    fit = torch.linalg.lstsq(normed, SHARPNESS * wanted.flatten(1), driver="gelsd").solution
    layer.query.weight.copy_(fit.T)

    layer.output.weight.zero_()
    layer.output.weight[WHERE : WHERE + heads * v] = torch.eye(heads * v)


def look_around(
    module: MultimodalAutoencoder,
    grids: dict[str, ModalityIO],
    codes: Tensor,
    neighbours: bool = True,
) -> None:
    """Self-attends: each head but the last looks at one neighbour in the picture, at all times;
    the last looks at everything. They and the MLPs see content amplified, and add to channels that
    hold no content, little at first.
    """
    encoder, kept = module.encoder, taken(module)
    read_code = torch.linalg.lstsq(encoder.latents[:, :WHERE], codes, driver="gelsd").solution
    read_rows, read_columns = last_two_axes(grids, read_code)
    rows, columns = read_rows.shape[1], read_columns.shape[1]
    for layer in encoder.self_attends:
        assert isinstance(layer, SelfAttend)
        attention = layer.attention
        channels = attention.key.out_features // attention.heads
        sharpness = NEIGHBOUR_GAP * channels**0.5
        for head in range(min(attention.heads - 1, len(NEIGHBOURS)) if neighbours else 0):
            down, right = NEIGHBOURS[head]
            of_head = slice(head * channels, (head + 1) * channels)
            attention.query.weight[of_head] *= ELSEWHERE
            attention.key.weight[of_head] *= ELSEWHERE
            of_place = slice(head * channels, head * channels + rows + columns)
            place = [read_rows, read_columns]
            neighbour = [read_rows @ shift(rows, down), read_columns @ shift(columns, right)]
            attention.key.weight[of_place, :WHERE] = torch.cat(place, 1).T
            attention.query.weight[of_place, :WHERE] = sharpness * torch.cat(neighbour, 1).T
        attention.value.weight[:, WHERE:] *= NOTICE
        layer.mlp.widen.weight[:, WHERE:] *= NOTICE
    encoder.cross_attend.mlp.widen.weight[:, WHERE:] *= NOTICE
    for linear in writers(module):
        linear.weight *= STILL
        linear.weight[:kept] = 0
    module.decoder.cross_attend.mlp.narrow.weight *= STILL


def last_two_axes(grids: dict[str, ModalityIO], read_code: Tensor) -> tuple[Tensor, Tensor]:
    """The columns of `read_code` that read row and column in the first grid that has both."""
    first = 0
    for io in grids.values():
        sizes = io.modality.query_grid
        if len(sizes) > 1:
            row = first + sum(sizes[:-2])
            column = row + sizes[-2]
            return read_code[:, row:column], read_code[:, column : column + sizes[-1]]
        first += sum(sizes)
    raise ValueError("no modality has rows and columns")


def shift(size: int, step: int) -> Tensor:
    """(size, size): one-hot row vectors times it are moved on by `step`, or off the edge."""
    return torch.diag(torch.ones(size - abs(step)), step)


def answer_from_own_latent(
    module: MultimodalAutoencoder, grids: dict[str, ModalityIO], codes: Tensor
) -> None:
    """Decoder: a query scores its own latent highest and takes over all its channels."""
    layer = module.decoder.cross_attend.attention
    qk = layer.key.out_features
    where = module.encoder.latents[:, :WHERE]
    decode_codes = torch.linalg.lstsq(where, codes, driver="gelsd").solution  # WHERE -> codes
    layer.key.weight.zero_()
    layer.key.weight[: codes.shape[1], :WHERE] = decode_codes.T
    queries = torch.cat([io.queries() for io in grids.values()])
    own = codes[: len(queries)]
    others = [io for name, io in named_ends(module) if name not in grids]
    if others:  # classes ask all the latents that belong to nobody
        for io in others:
            io.query.normal_()
        queries = torch.cat([queries, *(io.queries() for io in others)])
        free = codes[len(own) :].sum(0)
        own = torch.cat([own, *(free[None].expand(io.modality.queries, -1) for io in others)])
    normed = torch.nn.functional.layer_norm(queries, queries.shape[1:])
    wanted = torch.zeros(len(queries), qk)
    wanted[:, : codes.shape[1]] = DECODE_GAP * qk**0.5 * own
    fit = torch.linalg.lstsq(normed, wanted, driver="gelsd").solution
    layer.query.weight.copy_(fit.T)
    for linear in (layer.value, layer.output, module.decoder.output):
        linear.weight.copy_(torch.eye(*linear.weight.shape))


@torch.no_grad()
def fit_outputs(module: MultimodalAutoencoder, clips: dict[str, Tensor]) -> None:
    """Output maps: ridge regression from what the decoder answers to what it should have."""
    latents = module.encode(clips)
    for name in clips:
        io = module.io(name)
        queries = io.queries().expand(len(latents), -1, -1)
        answers = module.decoder(queries, latents).flatten(0, 1).double()
        wanted = patches_of(io, clips[name], io.modality.output_patch).double()
        mean_in, mean_out = answers.mean(0), wanted.mean(0)
        x, y = answers - mean_in, wanted - mean_out
        gram = x.T @ x
        gram += 1e-3 * gram.diagonal().mean() * torch.eye(len(gram), dtype=gram.dtype)
        weight = torch.linalg.solve(gram, x.T @ y).T
        io.output.weight.copy_(weight)
        io.output.bias.copy_(mean_out - weight @ mean_in)
