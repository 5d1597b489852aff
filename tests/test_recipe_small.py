"""The recipe of the shipped weights, on a bank of sixty made-up clips: its start already codes,
a run can be stopped and gone on with, and what it writes loads."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import perceivio
from perceivio.model import MultimodalAutoencoder

ROOT = Path(__file__).parent.parent
CLIPS = 60


@pytest.fixture(scope="module")
def work(tmp_path_factory) -> Path:
    """Smooth colours that drift, tones, and every third clip called a digit."""
    folder = tmp_path_factory.mktemp("small")
    rng = np.random.default_rng(0)
    t, y, x = np.meshgrid(*(np.linspace(0, 1, n) for n in (16, 64, 64)), indexing="ij")
    video = np.zeros((CLIPS, 16, 64, 64, 3), np.uint8)
    audio = np.zeros((CLIPS, 10_240), np.int16)
    clock = np.arange(10_240) / 16_000
    for i in range(CLIPS):
        for channel in range(3):
            a, b, c, d = rng.normal(0, 3, 4)
            video[i, ..., channel] = 127 + 120 * np.sin(a * t + b * y + c * x + d)
        audio[i] = 8000 * np.sin(2 * np.pi * rng.uniform(100, 1500) * clock + rng.uniform(0, 6))
    label = np.where(np.arange(CLIPS) % 3 == 0, np.arange(CLIPS) // 3 % 10, -1).astype(np.int8)
    for side in ("train", "test"):
        (folder / side).mkdir()
        np.save(folder / side / "video.npy", video)
        np.save(folder / side / "audio.npy", audio)
        np.save(folder / side / "label.npy", label)
        np.save(folder / side / "source.npy", np.zeros(CLIPS, np.int16))
        (folder / side / "sources.json").write_text(json.dumps({"0": {"name": "made up"}}))
    return folder


def train(work: Path, minutes: float) -> str:
    command = [sys.executable, "-m", "recipes.small.train", "--work", str(work)]
    command += ["--minutes", str(minutes), "--batch", "6", "--start-clips", "40"]
    command += ["--checkpoint-every", "2"]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


def test_the_start_codes_before_any_training(work):
    sys.path.insert(0, str(ROOT))
    try:
        from recipes.small.bank import Bank
        from recipes.small.start import start_at_positions
    finally:
        sys.path.remove(str(ROOT))
    torch.manual_seed(0)
    module = MultimodalAutoencoder(perceivio.preset("small"))
    batch = Bank(work / "train").batch(np.arange(CLIPS))
    clips = {"image": batch.image, "audio": batch.audio}
    start_at_positions(module, clips)
    with torch.no_grad():
        outputs = module.reconstruct(clips)
    for name, values in clips.items():
        error = (outputs[name] - values).square().mean()
        spread = (values - values.flatten(1).mean(1).view(-1, *[1] * (values.dim() - 1))).square()
        assert error < 0.05 * spread.mean()


def test_a_run_goes_on_where_it_was_stopped_and_its_weights_load(work):
    train(work, 0.02)
    first = torch.load(work / "checkpoint.pt", weights_only=True)
    assert first["step"] > 0
    train(work, 0.02 + first["used"] / 60)
    second = torch.load(work / "checkpoint.pt", weights_only=True)
    assert second["step"] > first["step"]
    model = perceivio.load(work / "small")
    assert model.config == perceivio.preset("small")
    name = "encoder.latents"
    torch.testing.assert_close(
        model.module.get_parameter(name).data, second["average"][name].half().float()
    )


def test_scoring_prints_a_line_a_source(work):
    command = [sys.executable, "-m", "recipes.small.score", "small", "--work", str(work)]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert ran.returncode == 0, ran.stderr
    assert re.search(r"made up\s+40 ", ran.stdout)
    assert re.search(r"digits\s+20 ", ran.stdout)
    assert "label masked: top-1" in ran.stdout
