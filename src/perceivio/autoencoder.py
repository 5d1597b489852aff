"""A ready model: what `perceivio.load` returns.

It computes the function of `model.module`, the plain specification, without gradients and with
bounded memory, by the fast engine.

Letters: B batch, N x D latents, P points.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from . import weights
from .config import Config, Modality
from .engine import Engine
from .errors import PerceivioError
from .identity import identity
from .model import InputError, MultimodalAutoencoder, Points
from .queries import Look, Pictures, samples_of, times_of


class Prediction(NamedTuple):
    """A class and its probability, 0 to 1."""

    name: str
    probability: float


class Autoencoder:
    """Encode, decode, reconstruct, classify. Made by `load` or from any MultimodalAutoencoder.

    module  the plain torch module, trainable: the specification
    config  its frozen configuration
    engine  what computes its function here; it follows when weights are changed
    source  what it was loaded from, in words; empty where it was made from a module
    device, dtype  of its weights, and of what it computes
    """

    def __init__(self, module: MultimodalAutoencoder, source: str = "") -> None:
        self.engine = Engine(module.eval())
        self.source = source

    @property
    def identity(self) -> str:
        """64 hexadecimal digits that name what it computes: see `identity.identity`."""
        return identity(self.module)

    @property
    def module(self) -> MultimodalAutoencoder:
        return self.engine.module

    @property
    def config(self) -> Config:
        return self.module.config

    @property
    def device(self) -> torch.device:
        return self.module.encoder.latents.device

    @property
    def dtype(self) -> torch.dtype:
        return self.module.encoder.latents.dtype

    def __repr__(self) -> str:
        config = self.config
        size = f"{config.latents} x {config.latent_channels} latents"
        parts = ", ".join(f"{k} {m.value_shape}" for k, m in config.modalities.items())
        return f"<Autoencoder {config.name or 'unnamed'}: {parts}; {size}; {self.device}>"

    def encode(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Inputs by modality, each (B, *value_shape) -> latents (B, N, D).

        "image" is (B, T, 3, H, W) in [0, 1], "audio" (B, S, 1) in [-1, 1], "label" (B, classes)
        one-hot. A modality that is left out is masked. Raises InputError for shapes that do not
        fit.
        """
        return self.engine.encode({k: self._own(v) for k, v in inputs.items()})

    def decode(self, latents: Tensor, points: Points | None = None) -> dict[str, Tensor]:
        """Latents (B, N, D) -> values by modality; only what is asked for is computed.

        points  flat row-major indices (P,) of a modality's output grid, a `Grid` of positions of
                one's own, or None for all of it; a modality that is not named is not computed.
                None: everything, whole.

        Whole modalities are (B, *value_shape), points (B, P, values of an output patch), classes
        logits (B, classes). Raises InputError for latents or points that do not fit.
        """
        wanted = (self.config.latents, self.config.latent_channels)
        if latents.dim() != 3 or tuple(latents.shape[1:]) != wanted:
            shape = ", ".join(map(str, wanted))
            raise InputError(f"latents have shape {tuple(latents.shape)}, not (B, {shape})")
        return self.engine.decode(self._own(latents), points)

    def frame(
        self,
        latents: Tensor,
        seconds: float,
        size: tuple[int, int] | None = None,
        crop: tuple[float, float, float, float] | None = None,
        coarse: int = 1,
    ) -> Tensor:
        """The picture at a time of the window, between frames too: (B, 3, height, width).

        size, crop, coarse  as in `Look`: pixels, fractions of the picture, one query in so many

        Raises InputError for a time outside of the window.
        """
        return self.pictures(latents, [seconds], Look(size, crop, coarse))[:, 0]

    def frames(
        self,
        latents: Tensor,
        start: float = 0.0,
        stop: float | None = None,
        rate: float | None = None,
        size: tuple[int, int] | None = None,
        crop: tuple[float, float, float, float] | None = None,
        coarse: int = 1,
    ) -> Tensor:
        """The pictures at start, start + 1 / rate, ... before stop: (B, T, 3, height, width).

        stop  seconds; None: the window's end
        rate  frames/s; None: the model's own
        size, crop, coarse  as in `Look`

        Raises InputError for times outside of the window.
        """
        video = self._media("video")[1]
        times = times_of(
            start, float(video.seconds or 0) if stop is None else stop, rate or video.rate or 1
        )
        return self.pictures(latents, times, Look(size, crop, coarse))

    def pictures(
        self, latents: Tensor, seconds: Sequence[float], look: Look, name: str | None = None
    ) -> Tensor:
        """The pictures at any times of the window: (B, T, 3, H, W). Only what they show is asked.

        name  of another modality that is video than the clip's own
        """
        name, modality = self._media("video") if name is None else self._known(name)
        wanted = Pictures.of(modality, seconds, look)
        return wanted(self.decode(latents, {name: wanted.grid})[name])

    def audio(self, latents: Tensor, start: float = 0.0, stop: float | None = None) -> Tensor:
        """The sound from `start` to `stop` seconds of the window, at the model's rate: (B, S, 1).
        Raises InputError for times outside of it."""
        name, modality = self._media("audio")
        end = float(modality.seconds or 0) if stop is None else stop
        points, part = samples_of(modality, start, end)
        return self.decode(latents, {name: points})[name].flatten(1)[:, part, None]

    def reconstruct(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """decode(encode(inputs)): every modality, whole."""
        return self.decode(self.encode(inputs))

    def classify(self, inputs: Mapping[str, Tensor], top: int = 5) -> list[list[Prediction]]:
        """The `top` most probable classes of each example, the label masked: B lists."""
        name = self._classes(None)[0]
        latents = self.encode({key: value for key, value in inputs.items() if key != name})
        return [self.predictions(row, top) for row in self.probabilities(latents)]

    def probabilities(self, latents: Tensor, name: str | None = None) -> Tensor:
        """Latents (B, N, D) -> probabilities of the classes (B, classes), float32

        name  of another set of classes than the clips' own
        """
        name = self._classes(name)[0]
        return self.decode(latents, {name: None})[name].float().softmax(-1)

    def predictions(
        self, probabilities: Tensor, top: int = 5, name: str | None = None
    ) -> list[Prediction]:
        """Probabilities (classes,) -> the `top` most probable classes, best first."""
        modality = self._classes(name)[1]
        best = probabilities.topk(min(top, modality.channels))
        names = modality.names or tuple(map(str, range(modality.channels)))
        pairs = zip(best.values.tolist(), best.indices.tolist(), strict=True)
        return [Prediction(names[index], value) for value, index in pairs]

    def save(self, folder: str | Path, overwrite: bool = False) -> Path:
        """Write a folder (config.json, model.safetensors) that `load` reads. Raises WeightsError
        where it is there and `overwrite` is not set."""
        return weights.save_module(self.module, folder, overwrite=overwrite)

    def _own(self, values: Tensor) -> Tensor:
        return values.to(self.device, self.dtype)

    def _known(self, name: str) -> tuple[str, Modality]:
        return name, self.config.modalities[name]

    def _media(self, kind: Literal["video", "audio"]) -> tuple[str, Modality]:
        found = self.config.media(kind)
        if found is None:
            raise InputError(f"this model has no {'picture' if kind == 'video' else 'sound'}")
        return found

    def _classes(self, name: str | None) -> tuple[str, Modality]:
        if name is not None:
            return self._known(name)
        classes = self.config.classes()
        if classes is None:
            raise InputError("this model has no classes")
        return classes


def load(
    source: str | Path = "small",
    device: str | torch.device | None = None,
    dtype: torch.dtype | None = None,
    revision: str | None = None,
) -> Autoencoder:
    """A ready model.

    source    "small" (ships with the package), a Hugging Face hub id such as
              "deepmind/multimodal-perceiver", a folder (ours or Hugging Face's), or the file of
              DeepMind's pickle
    device    "cpu", "cuda", ...; None: a GPU where there is one
    dtype     of the weights and of what is computed; None: float32
    revision  branch, tag or commit of a hub id

    Raises PerceivioError, in one line, for anything that cannot be loaded.
    """
    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    module = weights.load_module(source, revision)
    try:
        return Autoencoder(module.to(device, dtype), str(source))
    except (RuntimeError, AssertionError) as error:
        raise PerceivioError(f"device {device!r} cannot be used: {first_line(error)}") from error


def first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
