"""The encoder's cross-attend in factored form: no key and no value array is ever made.

Letters: B batch, M x C input array, N x D latents, H heads; i counts latents, j tokens.

A token x_j = [content | position | padding] has C channels, but only the first two kinds differ
from token to token. Its LayerNorm is x^_j g + b with x^_j = (x_j - mean_j) / std_j. The queries
come from the learned latents, so they are known before any input is.

Scores. b and the key bias add the same to every score of a query: the softmax cancels them. Gain
and key map go into the query, q~_i = (W_k g)^T q_i / sqrt(channels a head), and if q~_i is
centred over its C channels the token's mean drops out:

    score_ij = q~_i . x_j / std_j

A token's position is Fourier features of each dimension of its grid by itself, so of the product
only the content's part depends on the input; the rest is a sum of tables made once a model,

    q~_i . x_j = q~_i . content_j + T_i[t] + Y_i[y] + X_i[x]

and so are the sums of x_j and of its squares that mean_j and std_j are made of.

Values. Attention weights a_ij sum to 1 over j, so b and the value bias pass through as constants,
and W_v g can wait until tokens have been gathered. With w_ij = a_ij / std_j,

    sum_j a_ij x^_j = sum_j w_ij x_j, less its own mean over the C channels

The content needs the product with w. Positions need only w's sums over all but one dimension,
times that dimension's features, and the padding, the same for all tokens, needs w's whole sum.

All of it runs over tiles of tokens, in scores.py.

A modality that is masked whole is one token whose weight counts M times.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain, product

import torch
from torch import Tensor

from .layers import LAYER_NORM_EPS
from .linear import linear
from .modalities import ModalityIO
from .model import MultimodalAutoencoder
from .powers import UNIT
from .scores import Scores, few_of, pieces_for, tiles_for
from .tables import Rows, Separable, Tile
from .workers import pieces_of, share

Answer = Callable[[int, slice, Tensor], None]


@dataclass(frozen=True)
class Partial:
    """What queries have gathered from some of the tokens, in units of 2^-top.

    top    (H N,) about the largest score seen
    count  (H N,) sum of 2^score
    sums   (H N, C) sum of 2^score x_j / std_j
    """

    top: Tensor
    count: Tensor
    sums: Tensor


@dataclass(frozen=True)
class Tokens:
    """How queries read one modality; from the weights alone, float32.

    grid       tokens along each dimension
    rows       what tokens are beside their content
    sums       of that, sum and sum of squares over the channels
    scores     q~ . x_j, in powers of two
    masked     what is gathered where the modality is masked whole
    """

    grid: tuple[int, ...]
    rows: Rows
    sums: Separable
    scores: Scores
    masked: Partial

    @classmethod
    def of(cls, io: ModalityIO, queries: Tensor, device: torch.device) -> Tokens:
        """From centred queries (H N, C) in float64"""
        content = io.modality.content_channels
        rows = Rows.of(io.token_axes(), content, exact(io.padding))
        token = exact(io.mask_token)
        token /= (token.var(correction=0) + LAYER_NORM_EPS).sqrt()
        top = queries @ token
        count = torch.full_like(top, io.modality.tokens)
        masked = [part.to(device, torch.float32) for part in (top, count, count[:, None] * token)]
        return cls(
            grid=io.modality.token_grid,
            rows=rows,
            sums=rows.sums().to(device),
            scores=Scores(
                queries[:, :content].to(device, torch.float32).contiguous(),
                rows.through(queries).to(device),
            ),
            masked=Partial(*masked),
        )

    @cached_property
    def tiles(self) -> list[Tile]:
        return tiles_for(self.grid, len(self.scores.channels), self.scores.channels.device)

    def gather(self, content: Tensor, tiles: Sequence[Tile]) -> Partial:
        """From the tokens of some tiles; content (M, content channels)"""
        few = few_of(self.grid, content.device)
        found = self.scores.gather(content, self._std, tiles, few)
        return Partial(found.top, found.count, self._channels(found.contents, found.along))

    def _std(self, content: Tensor, tile: Tile) -> Tensor:
        """Standard deviation of the tokens of a tile over their channels, (P, 1)"""
        total, square = self.sums(tile).split(1, 1)
        channels = len(self.rows.shared)
        mean = (total + content.sum(1, keepdim=True)) / channels
        square = (square + content.square().sum(1, keepdim=True)) / channels
        return (square - mean.square() + LAYER_NORM_EPS).sqrt()

    def _channels(self, contents: Tensor, along: list[Tensor]) -> Tensor:
        """Gathered content (content channels, H N) and the sums of w along each dimension
        -> all that is gathered, (H N, C)"""
        sums = along[0].sum(0)[:, None] * self.rows.shared.to(contents)
        sums[:, : len(contents)] = contents.T
        for axis, channels, weights in zip(self.rows.axes, self.rows.channels, along, strict=False):
            seen = weights.any(1).nonzero()[:, 0]  # other threads saw the others
            features = axis[seen.to(axis.device)].T.to(contents).contiguous()
            sums[:, channels] = linear(features, weights[seen].T).T
        return sums


@dataclass(frozen=True)
class Reader:
    """The encoder's cross-attend from the weights alone, float32.

    tokens  by modality
    heads   H
    value   (D, H C): W_o W_v g of every head
    bias    (D,): what W_v b, the value bias and the output bias come to
    """

    tokens: Mapping[str, Tokens]
    heads: int
    value: Tensor
    bias: Tensor

    @classmethod
    @torch.inference_mode()
    def of(cls, module: MultimodalAutoencoder) -> Reader:
        """Computed in float64 on the CPU, whatever the model's device and type."""
        layer, latents = module.encoder.cross_attend, module.encoder.latents
        attention, heads = layer.attention, layer.attention.heads
        gain, offset = exact(layer.attended_norm.weight), exact(layer.attended_norm.bias)
        normed = torch.layer_norm(
            exact(latents),
            latents.shape[1:],
            exact(layer.query_norm.weight),
            exact(layer.query_norm.bias),
            LAYER_NORM_EPS,
        )
        q = normed @ exact(attention.query.weight).T + exact(attention.query.bias)
        q = q.unflatten(1, (heads, -1)).transpose(0, 1)  # H x N x channels a head
        key = (exact(attention.key.weight) * gain).unflatten(0, (heads, -1))
        queries = (q @ key / q.shape[2] ** 0.5).flatten(0, 1)  # H N x C
        queries -= queries.mean(1, keepdim=True)
        queries *= UNIT

        value, output = exact(attention.value.weight), exact(attention.output.weight)
        bias = output @ (value @ offset + exact(attention.value.bias))
        bias += exact(attention.output.bias)
        by_head = zip(output.chunk(heads, 1), value.chunk(heads, 0), strict=True)
        composed = [o @ (v * gain) for o, v in by_head]
        names, device = module.config.modalities, latents.device
        return cls(
            {name: Tokens.of(module.io(name), queries, device) for name in names},
            heads,
            torch.cat(composed, 1).to(device, torch.float32),
            bias.to(device, torch.float32),
        )

    def __call__(self, given: Mapping[str, Tensor], answer: Answer) -> None:
        """Content of the modalities that are given, each (B, M, content channels). `answer` is
        called, in any thread, with an example, some of the latents, and what attention returns
        for them, (so many, D) float32."""
        batch = len(next(iter(given.values())))
        longest = max(content.shape[1] for content in given.values())
        count = pieces_for(longest, self.value.device)
        masked = [tokens.masked for name, tokens in self.tokens.items() if name not in given]

        def gather(item: tuple[int, int]) -> list[Partial]:
            """Of one example: a part of the tokens of every modality."""
            example, piece = item
            mine = ((name, self.tokens[name].tiles[piece::count]) for name in given)
            return [
                self.tokens[name].gather(given[name][example], tiles)
                for name, tiles in mine
                if tiles
            ]

        found = share(gather, [*product(range(batch), range(count))], self.value.device)
        parts = [[*chain(*found[i : i + count]), *masked] for i in range(0, len(found), count)]
        rows = pieces_of(len(self.tokens[next(iter(given))].scores.channels) // self.heads, count)

        def end(item: tuple[int, slice]) -> None:
            example, some = item
            gathered = self._gathered(parts[example], some)
            answer(example, some, linear(gathered, self.value, self.bias))

        share(end, [*product(range(batch), rows)], self.value.device)

    def _gathered(self, parts: list[Partial], rows: slice) -> Tensor:
        """What all parts together come to, normed, of some latents: (rows, H C)"""

        def mine(x: Tensor) -> Tensor:
            return x.unflatten(0, (self.heads, -1))[:, rows]

        top = mine(torch.stack([part.top for part in parts], 1)).amax(2)
        count, gathered = torch.zeros_like(top), torch.zeros_like(mine(parts[0].sums))
        for part in parts:
            weight = (mine(part.top) - top).exp2_()
            count += mine(part.count) * weight
            gathered.addcmul_(mine(part.sums), weight[..., None])
        gathered /= count[..., None]
        gathered -= gathered.mean(2, keepdim=True)
        return gathered.transpose(0, 1).flatten(1)


def exact(x: Tensor) -> Tensor:
    """A float64 copy on the CPU: constants are computed once a model."""
    return x.detach().to("cpu", torch.float64, copy=True)
