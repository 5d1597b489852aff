"""The multimodal autoencoder as a plain, trainable torch module. It is the specification.

Letters: B batch, M x C input array, N x D latents, O x E output queries.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from .config import Config
from .errors import PerceivioError
from .modalities import ModalityIO
from .perceiver import Decoder, Encoder
from .position import Grid

Points = Mapping[str, Tensor | Grid | None]


class InputError(PerceivioError, ValueError):
    """Inputs or points that do not fit the model."""


class MultimodalAutoencoder(nn.Module):
    """Modalities -> input array -> latents -> answers to queries -> modalities."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.modalities = nn.ModuleDict(
            {
                name: ModalityIO(
                    modality, config.input_channels, config.query_channels, config.output_channels
                )
                for name, modality in config.modalities.items()
            }
        )
        self.encoder = Encoder(
            input_channels=config.input_channels,
            latents=config.latents,
            latent_channels=config.latent_channels,
            cross_attend=config.encode,
            self_attend=config.process,
            self_attends=config.self_attends,
            blocks=config.blocks,
            activation=config.activation,
        )
        self.decoder = Decoder(
            query_channels=config.query_channels,
            latent_channels=config.latent_channels,
            output_channels=config.output_channels,
            cross_attend=config.decode,
            activation=config.activation,
        )
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """The published start: small random latents and tokens, LeCun-normal maps, zero biases."""
        for name, parameter in self.named_parameters():
            if name.endswith("bias"):
                parameter.zero_()
            elif "norm" in name:
                parameter.fill_(1.0)
            elif parameter.dim() == 2 and not name.endswith("latents"):
                parameter.normal_(std=parameter.shape[1] ** -0.5)
            else:
                nn.init.trunc_normal_(parameter, std=0.02)

    def input_array(
        self, inputs: Mapping[str, Tensor], masked: Mapping[str, Tensor] | None = None
    ) -> Tensor:
        """Tokens of all modalities, sorted by name: (B, M, C).

        inputs  (B, *value_shape) by modality; a modality that is left out is masked whole
        masked  (B,) booleans by modality: the examples in which it is masked although given
        """
        batch = self.check_inputs(inputs)
        array = []
        for name, io in self._modalities():
            tokens = io.tokens(inputs[name]) if name in inputs else io.masked_tokens(batch)
            if name in inputs and masked and name in masked:
                tokens = torch.where(masked[name][:, None, None], io.mask_token, tokens)
            array.append(tokens)
        return torch.cat(array, dim=1)

    def encode(
        self, inputs: Mapping[str, Tensor], masked: Mapping[str, Tensor] | None = None
    ) -> Tensor:
        """Inputs as in `input_array` -> latents (B, N, D)"""
        return self.encoder(self.input_array(inputs, masked))

    def decode(self, latents: Tensor, points: Points | None = None) -> dict[str, Tensor]:
        """Answer queries from latents (B, N, D).

        points  flat row-major indices (P,) of a modality's output grid, a `Grid` of positions of
                one's own, or None for all of it; a modality that is not named is not computed.
                None: everything, whole.

        Returns whole modalities as (B, *value_shape), points as (B, P, values of an output
        patch), classes as logits (B, classes).
        """
        points = self.check_points(points)
        if not points:
            return {}
        queries = {name: self.io(name).queries(chosen) for name, chosen in points.items()}
        array = torch.cat(list(queries.values()))
        answers = self.decoder(array.expand(len(latents), -1, -1), latents)
        split = answers.split([len(q) for q in queries.values()], dim=1)
        outputs = {}
        for (name, chosen), part in zip(points.items(), split, strict=True):
            values = self.io(name).values(part)
            outputs[name] = self.io(name).assemble(values) if chosen is None else values
        return outputs

    def reconstruct(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """decode(encode(inputs)): every modality, every point"""
        return self.decode(self.encode(inputs))

    def classify(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Logits (B, classes), with the label masked whether or not it is given."""
        classes = self.config.classes()
        if classes is None:
            raise InputError("this model has no classes")
        name = classes[0]
        given = {key: value for key, value in inputs.items() if key != name}
        return self.decode(self.encode(given), {name: None})[name]

    forward = reconstruct

    def io(self, name: str) -> ModalityIO:
        io = self.modalities[name]
        assert isinstance(io, ModalityIO)
        return io

    def _modalities(self) -> list[tuple[str, ModalityIO]]:
        return [(name, self.io(name)) for name in self.config.modalities]

    def check_inputs(self, inputs: Mapping[str, Tensor]) -> int:
        """The batch size of inputs that fit. Raises InputError for those that do not."""
        if not inputs:
            raise InputError(f"no input given; this model takes {', '.join(self.modalities)}")
        batches = set()
        for name, values in inputs.items():
            if name not in self.config.modalities:
                known = ", ".join(self.config.modalities)
                raise InputError(f"no modality is called {name!r}; this model takes {known}")
            shape = self.config.modalities[name].value_shape
            if tuple(values.shape[1:]) != shape:
                wanted = ", ".join(map(str, shape))
                raise InputError(f"{name} has shape {tuple(values.shape)}, not (B, {wanted})")
            batches.add(len(values))
        if len(batches) > 1:
            raise InputError(f"modalities have different batch sizes: {sorted(batches)}")
        return batches.pop()

    def check_points(self, points: Points | None) -> dict[str, Tensor | Grid | None]:
        """Points of known modalities, sorted by name. Raises InputError for any that do not fit."""
        if points is None:
            return dict.fromkeys(self.config.modalities)
        for name, chosen in points.items():
            if name not in self.config.modalities:
                known = ", ".join(self.config.modalities)
                raise InputError(f"no modality is called {name!r}; this model has {known}")
            if chosen is None:
                continue
            if isinstance(chosen, Grid):
                _check_grid(name, chosen, self.config.modalities[name].query_grid)
                continue
            if chosen.dim() != 1 or chosen.is_floating_point() or chosen.dtype == torch.bool:
                raise InputError(f"points of {name} must be a 1-D tensor of whole numbers")
            count = self.config.modalities[name].queries
            if len(chosen) and not 0 <= int(chosen.min()) <= int(chosen.max()) < count:
                raise InputError(f"points of {name} must lie in 0 .. {count - 1}")
        return dict(sorted(points.items()))


def _check_grid(name: str, grid: Grid, trained: tuple[int, ...]) -> None:
    """Raises InputError for coordinates that are not between those of training."""
    if len(grid.axes) != len(trained) or not trained:
        raise InputError(f"a grid of {name} needs {len(trained)} axes, not {len(grid.axes)}")
    for axis, count in zip(grid.axes, trained, strict=True):
        if axis.dim() != 1 or not len(axis):
            raise InputError(f"each axis of a grid of {name} must be a 1-D tensor of coordinates")
        if not 0 <= axis.min().item() <= axis.max().item() <= count - 1:
            raise InputError(f"coordinates of {name} must lie in 0 .. {count - 1}")
