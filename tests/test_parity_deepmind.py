"""The model computes what DeepMind's code computes, by the NumPy float64 transcription of it.

Weights are random, in Haiku's names and layout, and go through a pickle as users' do.
"""

from __future__ import annotations

import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch
from deepmind_reference import Reference
from models import deepmind_parameters, deepmind_shapes, random_inputs

from perceivio import names
from perceivio.config import Attend, preset
from perceivio.model import MultimodalAutoencoder
from perceivio.weights import load_module


def differences(wanted, outputs):
    """Largest absolute difference by output."""
    assert {k: tuple(v.shape) for k, v in outputs.items()} == {
        k: v.shape for k, v in wanted.items()
    }
    for name, values in wanted.items():
        assert values.std() > 1, f"outputs of {name} are too small to tell anything"
    return {k: np.abs(outputs[k].numpy() - wanted[k]).max() for k in wanted}


def test_full_size(tmp_path):
    parameters = deepmind_parameters()
    path = tmp_path / "video_autoencoding_checkpoint.pystate"
    path.write_bytes(pickle.dumps({"params": parameters, "state": {}}))
    module = load_module(path)
    assert module.config.activation == "gelu_tanh"
    assert module.config == preset("base").replace(
        activation="gelu_tanh",
        encode=Attend(1, 704, 704),
        process=Attend(8, 512, 512),
        decode=Attend(1, 512, 512, query_residual=False),
    )

    inputs = random_inputs(module.config, batch=1)
    generator = np.random.default_rng(5)
    image_points = generator.integers(16 * 224 * 224, size=300)
    audio_points = generator.integers(1920, size=100)
    reference = Reference(parameters, heads=8, clip=(16, 224, 224))
    latents = reference.encode(
        inputs["image"].permute(0, 1, 3, 4, 2).double().numpy(), inputs["audio"].double().numpy()
    )
    wanted = reference.decode(latents, image_points, audio_points, samples=30720)
    points = {"image": torch.tensor(image_points), "audio": torch.tensor(audio_points)}
    with torch.no_grad():
        outputs = module.decode(module.encode(inputs), {**points, "label": None})
    assert 2.5 < np.concatenate([v.ravel() for v in wanted.values()]).std() < 6
    found = differences(wanted, outputs)
    print("largest differences at full size:", {k: f"{v:.1e}" for k, v in found.items()})
    assert max(found.values()) < 1e-3


@pytest.fixture(scope="module")
def small():
    """The published model with fewer latents and layers, and a crooked clip of 3 x 8 x 12."""
    base = preset("base")
    image, audio, label = (base.modalities[name] for name in ("image", "audio", "label"))
    config = base.replace(
        modalities={
            "image": replace(image, shape=(3, 8, 12)),
            "audio": replace(audio, shape=(240,), resolution=(240,), rate=2000),
            "label": label,
        },
        latents=6,
        latent_channels=32,
        self_attends=2,
        process=Attend(heads=4),
        activation="gelu_tanh",
    )
    module = MultimodalAutoencoder(config).eval()
    ours = dict(module.named_parameters())
    shapes: dict[str, dict[str, tuple[int, ...]]] = {}
    rows = names.deepmind(config.self_attends)
    for row in rows:
        part, name = row.theirs.rsplit("/", 1)
        shapes.setdefault(part, {})[name] = tuple(row.to_theirs(ours[row.ours]).shape)
    parameters = deepmind_parameters(shapes, attention_gain=1.7)
    with torch.no_grad():
        for row in rows:
            part, name = row.theirs.rsplit("/", 1)
            ours[row.ours].copy_(row.to_ours(torch.tensor(parameters[part][name])))
    return module, Reference(parameters, heads=4, clip=(3, 8, 12))


def test_batch_and_whole_outputs(small):
    module, reference = small
    inputs = random_inputs(module.config, batch=3)
    latents = reference.encode(
        inputs["image"].permute(0, 1, 3, 4, 2).double().numpy(), inputs["audio"].double().numpy()
    )
    wanted = reference.decode(latents, np.arange(3 * 8 * 12), np.arange(15), samples=240)
    wanted["image"] = wanted["image"].reshape(3, 3, 8, 12, 3).transpose(0, 1, 4, 2, 3)
    wanted["audio"] = wanted["audio"].reshape(3, 240, 1)
    with torch.no_grad():
        outputs = module.reconstruct(inputs)
    assert max(differences(wanted, outputs).values()) < 1e-3


def test_table_names_every_published_parameter():
    module_shapes = {
        f"{module}/{name}": shape
        for module, parameters in deepmind_shapes().items()
        for name, shape in parameters.items()
    }
    with torch.device("meta"):
        ours = dict(MultimodalAutoencoder(preset("base")).named_parameters())
    rows = names.deepmind(8)
    assert {r.theirs: tuple(r.to_theirs(ours[r.ours]).shape) for r in rows} == module_shapes
    assert sorted(r.ours for r in rows) == sorted(n for n, p in ours.items() if p.numel())
