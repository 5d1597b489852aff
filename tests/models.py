"""Models with random weights for the tests, as transformers and as DeepMind would hold them.

No public weights are needed: random ones of the scale of trained weights, with norms and biases
that are not ones and zeros, tell every mistake that published ones would.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from perceivio.config import Attend, Config, Modality

# The published model, as its config.json on the hub says it.
BASE = {
    "num_latents": 784,
    "d_latents": 512,
    "num_self_attends_per_block": 8,
    "num_self_attention_heads": 8,
    "num_cross_attention_heads": 1,
    "image_size": 56,
    "num_labels": 700,
}

# Small and crooked: no two sizes alike, so that no two axes can be mistaken for each other.
SMALL = {
    "num_latents": 6,
    "d_latents": 32,
    "num_self_attends_per_block": 2,
    "num_self_attention_heads": 4,
    "num_cross_attention_heads": 1,
    "num_frames": 3,
    "image_size": 5,
    "output_shape": [1, 3, 8, 12],
    "audio_samples_per_frame": 40,
    "samples_per_patch": 8,
    "output_num_channels": 24,
    "num_labels": 7,
    "_label_trainable_num_channels": 20,
}

# One of each setting that Hugging Face's configuration has.
VARIANTS: dict[str, dict[str, Any]] = {
    "as published": {},
    "blocks and widening": {
        "num_blocks": 3,
        "self_attention_widening_factor": 2,
        "cross_attention_widening_factor": 3,
    },
    "no residual, channels of the query": {
        "use_query_residual": False,
        "cross_attention_shape_for_attention": "q",
        "num_cross_attention_heads": 2,
    },
    "channels, heads, tanh": {
        "qk_channels": 48,
        "v_channels": 32,
        "num_cross_attention_heads": 8,
        "hidden_act": "gelu_new",
    },
}

SCALES = {"bias": 0.2, "norm_weight": 0.3, "token": 0.5}
OUTPUT_GAIN = 4.0  # on the last maps, so that outputs have a standard deviation of about 4


def huggingface_model(attention_gain: float = 1.0, **settings: Any):
    """A PerceiverForMultimodalAutoencoding with random weights, in eval mode.

    attention_gain  on the maps to queries and keys: with plain random ones, attention averages
                    over all it sees, and outputs hardly depend on the point and the input
    """
    from transformers import PerceiverConfig, PerceiverForMultimodalAutoencoding

    model = PerceiverForMultimodalAutoencoding(PerceiverConfig(**settings)).eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            values = torch.randn(parameter.shape, generator=generator)
            if name.endswith("bias"):
                parameter.copy_(SCALES["bias"] * values)
            elif "layernorm" in name:
                parameter.copy_(1 + SCALES["norm_weight"] * values)
            elif name.endswith("weight"):
                gain = OUTPUT_GAIN if "postprocessor" in name else 1.0
                if name.endswith(("query.weight", "key.weight")):
                    gain = attention_gain
                parameter.copy_(gain * parameter.shape[1] ** -0.5 * values)
            else:
                parameter.copy_(SCALES["token"] * values)
    return model


def deepmind_shapes() -> dict[str, dict[str, tuple[int, ...]]]:
    """Every parameter of DeepMind's published video autoencoder: module, name, shape."""
    path = Path(__file__).with_name("deepmind_parameter_names.json")
    return {
        module: {name: tuple(shape) for name, shape in parameters.items()}
        for module, parameters in json.loads(path.read_text()).items()
    }


def deepmind_parameters(
    shapes: dict[str, dict[str, tuple[int, ...]]] | None = None, attention_gain: float = 1.0
) -> dict[str, dict[str, np.ndarray]]:
    """Random float32 parameters in Haiku's nesting; by default those of the published model."""
    generator = np.random.default_rng(2)
    tree: dict[str, dict[str, np.ndarray]] = {}
    for module, parameters in (shapes or deepmind_shapes()).items():
        tree[module] = {}
        for name, shape in parameters.items():
            values = generator.standard_normal(shape, np.float32)
            if name in ("b", "offset"):
                values *= SCALES["bias"]
            elif name == "scale":
                values = 1 + SCALES["norm_weight"] * values
            elif name == "w":
                gain = OUTPUT_GAIN if "postprocessor" in module else 1.0
                if module.endswith(("attention/linear", "attention/linear_1")):
                    gain = attention_gain
                values *= gain * shape[0] ** -0.5
            else:
                values *= SCALES["token"]
            tree[module][name] = values.astype(np.float32)
    return tree


def random_inputs(config: Config, batch: int, label: bool = False) -> dict[str, Tensor]:
    """A clip of noise: pictures in [0, 1], sound in [-1, 1], and a class where asked for."""
    generator = torch.Generator().manual_seed(3)
    image, audio = (config.modalities[name].value_shape for name in ("image", "audio"))
    inputs = {
        "image": torch.rand(batch, *image, generator=generator),
        "audio": torch.rand(batch, *audio, generator=generator) * 2 - 1,
    }
    if label:
        classes = config.modalities["label"].channels
        inputs["label"] = torch.eye(classes)[torch.arange(batch) % classes]
    return inputs


def tiny_config(**changes: Any) -> Config:
    """A model of our own kind that neither public code can be: embedding, two heads, depth."""
    config = Config(
        modalities={
            "depth": Modality(
                shape=(4, 6), channels=2, patch=(2, 3), output_patch=(2, 2), bands=3,
                resolution=(4, 6), embed=5, mean=0.5, std=2.0,
            ),
            "kind": Modality(shape=(), channels=3, query=4, names=("a", "b", "c")),
        },
        latents=5,
        latent_channels=8,
        process=Attend(heads=2),
        self_attends=2,
        output_channels=6,
        name="tiny",
    )  # fmt: skip
    return config.replace(**changes)
