"""What is measured: the published model with random weights, ours and transformers'.

Speed hardly depends on the values of weights (very large scores cost the engine one more pass,
see powers.py); both get the same ones, through a folder that both load.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import perceivio
from perceivio.autoencoder import Autoencoder
from perceivio.config import Config, preset
from perceivio.model import MultimodalAutoencoder
from perceivio.weights import save_huggingface

CHUNKS = 128  # of the loop in transformers' documentation


def write_weights(folder: Path) -> None:
    torch.manual_seed(0)
    save_huggingface(MultimodalAutoencoder(preset("base")), folder)


def ours(folder: Path) -> Autoencoder:
    return perceivio.load(folder, device="cpu")


def untrained(config: Config) -> Autoencoder:
    torch.manual_seed(0)
    return Autoencoder(MultimodalAutoencoder(config))


def clip(config: Config, batch: int = 1) -> dict[str, Tensor]:
    """Noise; the label is not given."""
    generator = torch.Generator().manual_seed(1)
    return {
        name: torch.rand(batch, *modality.value_shape, generator=generator)
        for name, modality in config.modalities.items()
        if not modality.is_classes
    }


class HuggingFace:
    """transformers' model, whole as documented and in parts."""

    def __init__(self, folder: Path) -> None:
        from transformers import PerceiverForMultimodalAutoencoding

        self.model: Any = PerceiverForMultimodalAutoencoding.from_pretrained(folder).eval()

    @staticmethod
    def chunk(index: int = 0) -> dict[str, Tensor | None]:
        """Points of one chunk of the documented loop."""
        image, audio = 16 * 224 * 224 // CHUNKS, 1920 // CHUNKS
        return {
            "image": torch.arange(image * index, image * (index + 1)),
            "audio": torch.arange(audio * index, audio * (index + 1)),
            "label": None,
        }

    @torch.inference_mode()
    def __call__(self, inputs: dict[str, Tensor], points: dict[str, Tensor | None]):
        """As documented: encodes, then answers at the points."""
        return self.forward(inputs, points)

    def forward(self, inputs: dict[str, Tensor], points: dict[str, Tensor | None]):
        """The same, with gradients."""
        return self.model(inputs=self._all(inputs), subsampled_output_points=points).logits

    @torch.inference_mode()
    def encode(self, inputs: dict[str, Tensor]) -> Tensor:
        core = self.model.perceiver
        array = core.input_preprocessor(self._all(inputs))[0]
        return core.encoder(core.embeddings(batch_size=len(array)), inputs=array)[0]

    @torch.inference_mode()
    def decode(self, inputs: dict[str, Tensor], latents: Tensor, points: dict[str, Any]):
        """Answers at points; the inputs' array is made outside, though its query needs it."""
        core = self.model.perceiver
        array, sizes, bare = self._prepared(inputs)
        query = core.decoder.decoder_query(array, sizes, bare, subsampled_points=points)
        logits = core.decoder(query, z=latents).logits
        counts = {k: 1 if v is None else len(v) for k, v in points.items()}
        return core.output_postprocessor(logits, modality_sizes=counts)

    def _prepared(self, inputs: dict[str, Tensor]):
        if not hasattr(self, "_cache"):
            self._cache = self.model.perceiver.input_preprocessor(self._all(inputs))
        return self._cache

    @staticmethod
    def _all(inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        return {**inputs, "label": torch.zeros(len(inputs["image"]), 700)}
