"""The fast engine: the function of the plain module, without gradients, for much less work.

The two cross-attends are computed in factored form (factored_encode.py, factored_decode.py say
how), where that counts fewer multiply-adds than the plain form; what remains goes through the
fastest linear maps there are (linear.py), on all threads (workers.py). Constants come from the
weights once, and again when the weights have changed.

Letters: B batch, M x C input array, N x D latents, O x E output queries.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import product
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.nn import Linear

from .config import Config
from .factored_decode import Writer
from .factored_encode import Reader
from .fast_layers import LaidOut, Maps, cross_attend, finish, self_attends
from .layers import SelfAttend
from .linear import linear
from .modalities import ModalityIO, patches, stretch
from .model import MultimodalAutoencoder, Points
from .position import Grid
from .workers import pieces_of, share, threads

GROUP = 2**24  # numbers in the input array of the examples encoded at once: 64 MB
CHUNK = 4096  # queries answered at once in plain form, over the whole batch
Made = TypeVar("Made")


class Engine:
    """Encodes and decodes as `module` does. Weights may change; constants follow them.

    Seen is every change in place that torch counts (optimisers, load_state_dict, whatever is done
    under no_grad) and every parameter that is replaced. Writing through `parameter.data` goes
    past that count: call `forget` after it.
    """

    def __init__(self, module: MultimodalAutoencoder) -> None:
        self.module = module
        self.forget()

    def __reduce__(self) -> tuple[Any, ...]:
        return Engine, (self.module,)  # a copy computes its own constants

    def forget(self) -> None:
        """Drop all constants; they are computed again when they are needed."""
        self._weights: list[tuple[Tensor, int]] = []
        self._constants: dict[str, Any] = {}

    @torch.inference_mode()
    def encode(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Inputs as the module takes them -> latents (B, N, D)"""
        config = self.module.config
        batch = self.module.check_inputs(inputs)
        self._look_at_weights()
        size = max(1, GROUP // (config.tokens * config.input_channels))
        groups = [] if batch else [self.module.encoder.latents.expand(0, -1, -1)]
        # In the model's order: sums in the caller's would differ in their last bits.
        ordered = {name: inputs[name] for name in config.modalities if name in inputs}
        for start in range(0, batch, size):
            some = {name: values[start : start + size] for name, values in ordered.items()}
            groups.append(self._process(self._read(some)))
        return torch.cat(groups) if len(groups) != 1 else groups[0]

    @torch.inference_mode()
    def decode(self, latents: Tensor, points: Points | None = None) -> dict[str, Tensor]:
        """Latents (B, N, D) and points as the module takes them -> the outputs it gives"""
        module = self.module
        chosen = module.check_points(points)
        self._look_at_weights()
        outputs: dict[str, Tensor] = {}
        plain: dict[str, Tensor | Grid | None] = {}
        for name, some in chosen.items():
            modality = module.config.modalities[name]
            count = modality.queries if some is None else len(some)
            axes = some.shape if isinstance(some, Grid) else modality.query_grid
            if decode_pays(module.config, name, count, axes):
                values = self._writer(name)(latents, some)
                outputs[name] = values[:, 0] if modality.is_classes else values
            else:
                plain[name] = some
        outputs |= self._decode_plainly(latents, plain) if plain else {}
        return {
            name: module.io(name).assemble(outputs[name]) if some is None else outputs[name]
            for name, some in chosen.items()
        }

    def writer(self, name: str) -> Writer:
        """The decoder's cross-attend for one modality, in factored form."""
        self._look_at_weights()
        return self._writer(name)

    def _writer(self, name: str) -> Writer:
        return self._constant(name, lambda: Writer.of(self.module, name))

    def _read(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """The cross-attend of the encoder."""
        encoder, module = self.module.encoder, self.module
        layer = encoder.cross_attend
        maps = self._maps()
        if not encode_pays(module.config):
            return cross_attend(layer, encoder.latents[None], module.input_array(inputs), maps)
        reader = self._constant("input array", lambda: Reader.of(module))
        content = self._content(inputs)
        x = encoder.latents.new_empty(len(next(iter(content.values()))), *encoder.latents.shape)

        def answer(example: int, rows: slice, found: Tensor) -> None:
            some = found.to(x.dtype)
            some = some + encoder.latents[rows] if layer.query_residual else some
            x[example, rows] = finish(layer, some, maps)

        reader(content, answer)
        return x

    def _content(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Content of the modalities that are given, each (B, M, content channels). In threads of
        ours: torch's own wait busily for a while on the cores that ours need next."""
        maps, found, items = self._maps(), {}, []
        for name, values in inputs.items():
            modality = self.module.config.modalities[name]
            shape = len(values), modality.tokens, modality.content_channels
            found[name] = self.module.encoder.latents.new_empty(shape)
            first = modality.token_grid[:1]
            pieces = pieces_of(first[0], threads(values.device)) if first else [slice(0, 1)]
            items += product([name], range(len(values)), pieces)

        def fill(item: tuple[str, int, slice]) -> None:
            name, example, rows = item
            io, whole = self.module.io(name), found[name][example]
            some = stretch(inputs[name][example : example + 1], io.modality, rows)
            each = len(whole) // (io.modality.token_grid or (1,))[0]
            whole[rows.start * each : rows.stop * each] = _content(io, some, maps)[0]

        share(fill, items, self.module.encoder.latents.device)
        return found

    def _process(self, x: Tensor) -> Tensor:
        """The self-attends."""
        encoder = self.module.encoder
        layers = [layer for layer in encoder.self_attends if isinstance(layer, SelfAttend)]
        return self_attends(layers * encoder.blocks, x, self._maps())

    def _decode_plainly(
        self, latents: Tensor, points: Mapping[str, Tensor | Grid | None]
    ) -> dict[str, Tensor]:
        """Values at points, of modalities where the factored form does not pay."""
        decoder, maps, parts = self.module.decoder, self._maps(), []
        for name, some in points.items():
            io = self.module.io(name)
            known = some is None
            parts.append(
                self._constant(f"queries of {name}", io.queries) if known else io.queries(some)
            )
        array = torch.cat(parts)[None]
        rows = []
        for examples in latents.split(max(1, CHUNK // max(1, array.shape[1]))):
            answers = [
                cross_attend(decoder.cross_attend, queries, examples, maps)
                for queries in array.split(CHUNK, 1)
            ]
            rows.append(linear(torch.cat(answers, 1), *maps(decoder.output)))
        split = torch.cat(rows).split([len(part) for part in parts], 1)
        pairs = zip(points, split, strict=True)
        return {name: _values(self.module.io(name), part, maps) for name, part in pairs}

    def _maps(self) -> Maps:
        return self._constant("maps", lambda: LaidOut(self.module.config.latents))

    def _constant(self, name: str, make: Callable[[], Made]) -> Made:
        """What `make` returns, made once for the weights as they were when last looked at."""
        if name not in self._constants:
            self._constants[name] = make()
        return self._constants[name]

    def _look_at_weights(self) -> None:
        """Forget all constants if the weights are others than those that they are of."""
        held = self._weights
        weights = list(self.module.parameters())
        same = len(held) == len(weights) and all(
            # `kept` shares the weight's memory, so no other tensor can have come to its address.
            not now.is_inference()
            and now._version == version
            and now.data_ptr() == kept.data_ptr()
            and now.dtype == kept.dtype
            for now, (kept, version) in zip(weights, held, strict=True)
        )
        if not same:
            self.forget()
            if not any(now.is_inference() for now in weights):
                self._weights = [(now.detach(), now._version) for now in weights]


def encode_pays(config: Config) -> bool:
    """Whether the factored form of the encoder's cross-attend counts fewer multiply-adds."""
    attend, n, c = config.encode, config.latents, config.input_channels
    qk, v = attend.qk(c), attend.v(c)
    content = sum(m.tokens * m.content_channels for m in config.modalities.values())
    tables = sum(sum(m.token_grid) * (1 + 2 * m.bands) for m in config.modalities.values())
    factored = attend.heads * n * (2 * content + tables + c * config.latent_channels)
    plain = config.tokens * (c + n) * (qk + v) + n * v * config.latent_channels
    return factored <= plain


def decode_pays(
    config: Config, name: str, points: int, axes: tuple[int, ...] | None = None
) -> bool:
    """Whether the factored form of decoding so many points, of a grid with so many coordinates
    along each dimension, counts fewer multiply-adds."""
    attend, modality = config.decode, config.modalities[name]
    axes = modality.query_grid if axes is None else axes
    n, d, e = config.latents, config.latent_channels, config.query_channels
    qk, v = attend.qk(d), attend.v(d)
    hidden, outputs = attend.widening * e, modality.output_values
    one = attend.heads == 1
    gathered = d if one else v
    rank = e if attend.query_residual else min(e, d if one else v + 1)
    mixing = gathered * (rank + outputs)

    tables = n * e * qk + sum(axes) * (1 + 2 * modality.bands) * attend.heads * n
    values, attention = (n * mixing, n * (rank + outputs)) if one else (n * d * v, n * v + mixing)
    factored = tables + values + points * (attention + (rank + outputs) * hidden)
    last = config.output_channels * (e + outputs)
    plain = n * d * v + points * ((e + n) * (qk + v) + 2 * e * hidden + last)
    return factored <= plain


def _content(io: ModalityIO, values: Tensor, maps: Maps) -> Tensor:
    """`io.content`, through the fast linear map."""
    modality = io.modality
    cut = patches((values - modality.mean) / modality.std, modality, modality.patch)
    return linear(cut, *maps(io.embed)) if isinstance(io.embed, Linear) else cut


def _values(io: ModalityIO, answers: Tensor, maps: Maps) -> Tensor:
    """`io.values`, through the fast linear map."""
    values = linear(answers, *maps(io.output)) * io.modality.std + io.modality.mean
    return values[:, 0] if io.modality.is_classes else values
