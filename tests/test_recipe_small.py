"""The recipe of the shipped weights, on a bank of sixty made-up clips: its start already codes,
a run that is killed and started again comes to the same weights, and what it writes loads."""

import json
import re
import signal
import subprocess
import sys
import time
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
    (folder / "media/digits").mkdir(parents=True)
    images = np.zeros((10, 104, 28, 28), np.uint8)  # 4 of each digit are left for training
    for digit in range(10):
        images[digit, :, 4:24, 4 + digit * 2 : 6 + digit * 2] = 255  # a bar, further right each
    np.savez(
        folder / "media/digits/mnist_images.npz",
        images=images.reshape(-1, 28, 28),
        labels=np.repeat(np.arange(10, dtype=np.uint8), 104),
    )
    tones = [
        np.int16(8000 * np.sin(2 * np.pi * 200 * (1 + digit) * clock[: 3000 + 300 * digit]))
        for digit in range(10)
    ]
    about = {"split": "train", "group": "flite"}
    write_pack(folder / "spoken", tones, [{**about, "digit": digit} for digit in range(10)])
    write_pack(folder / "sounds", tones, [{"split": "test", "sort": "music"}] * 10)
    write_pack(folder / "sentences", tones, [{"split": "test"}] * 10)
    return folder


def write_pack(path: Path, arrays: list[np.ndarray], notes: list[dict]) -> None:
    np.save(path.with_suffix(".npy"), np.concatenate(arrays))
    pairs = zip(arrays, notes, strict=True)
    table = [{"shape": list(array.shape), **note} for array, note in pairs]
    path.with_suffix(".json").write_text(json.dumps(table))


@pytest.fixture
def recipe(monkeypatch):
    """The recipe's modules are scripts beside the package, not part of it."""
    monkeypatch.syspath_prepend(str(ROOT))


def command(work: Path) -> list[str]:
    settings = {"pieces": 4, "whole": 4, "batch": 6, "start-clips": 40}
    settings["checkpoint-every"] = 2
    told = [word for name, value in settings.items() for word in (f"--{name}", str(value))]
    return [sys.executable, "-m", "recipes.small.train", "--work", str(work), *told]


def test_the_start_codes_before_any_training(work, recipe):
    from recipes.small.bank import Bank
    from recipes.small.start import start_at_positions

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


def test_a_piece_reads_the_tokens_that_the_model_would(work, recipe):
    from recipes.small.pieces import WHOLE, choose, tokens_of

    torch.manual_seed(0)
    module = MultimodalAutoencoder(perceivio.preset("small"))
    audio = module.io("audio").modality.tokens
    inputs = {"image": torch.rand(2, 16, 3, 64, 64), "audio": torch.randn(2, 10_240, 1)}
    whole = module.input_array(inputs)
    pieces = {piece.name: piece for piece in map(choose, range(60))}
    assert set(pieces) == {"4", "5", "6", "8", "8+sound", "sound"}
    for piece in (*pieces.values(), WHOLE):
        first = {"audio": 0, "image": audio}
        rows = torch.cat([first[name] + rows for name, rows in piece.tokens.items()])
        cut = {**inputs, "image": inputs["image"][:, slice(*piece.frames)]}
        torch.testing.assert_close(tokens_of(module, cut, piece), whole[:, rows])


def test_drawn_digits_show_what_they_are_called(work, recipe):
    from recipes.small.draw import Drawn

    drawn = Drawn(work / "media/digits/mnist_images.npz")
    labels = torch.arange(10).repeat(30)
    nothing = torch.zeros(0, 3, 64, 64)
    video = drawn.clips(labels, nothing, 4, seed=1)
    assert video.shape == (300, 4, 3, 64, 64)
    assert video.min() >= 0
    assert video.max() <= 1
    assert torch.equal(video, drawn.clips(labels, nothing, 4, seed=1))
    assert not torch.equal(video, drawn.clips(labels, nothing, 4, seed=2))
    assert set(drawn.images[7].flatten(1).amax(1).tolist()) == {1.0}
    # All of it stays in the square that is named.
    for area in ((8, 24, 32), (0, 16, 48)):
        frames = drawn.clips(labels, nothing, 8, seed=4, area=area)
        inked = (frames - frames[:, :1, :, :1, :1]).abs().amax((1, 2)) > 0.5
        top, left, side = area
        inside = inked[:, top : top + side, left : left + side].sum((1, 2))
        assert inside.sum() > 0.97 * inked.sum()
    # A bar that stands off centre is off centre where the same motion is drawn with another bar.
    first, last = torch.zeros(64, dtype=torch.int64), torch.full((64,), 9)
    centres = []
    for same in (first, last):
        frames = drawn.clips(same, nothing, 1, seed=3)[:, 0]
        contrast = (frames - frames[:, :, :1, :1]).abs().sum(1)
        across = contrast.sum(1) / contrast.sum((1, 2), keepdim=True)[..., 0]
        centres.append((across * torch.arange(64)).sum(1))
    assert ((centres[1] - centres[0]) > 0).float().mean() > 0.8


def test_said_digits_are_the_words_of_their_label(work, recipe):
    """Told by the tone: the highest peak of a spectrum is at the word's pitch times its pace."""
    from recipes.small.say import FASTEST, SLOWEST, Said

    said = Said(work / "spoken")
    labels = torch.arange(10).repeat(20)
    sounds = said.clips(labels, torch.zeros(0, 10_240, 1), seed=1)
    assert sounds.shape == (200, 10_240, 1)
    assert sounds.abs().max() <= 1
    assert torch.equal(sounds, said.clips(labels, torch.zeros(0, 10_240, 1), seed=1))
    assert not torch.equal(sounds, said.clips(labels, torch.zeros(0, 10_240, 1), seed=2))
    peaks = np.abs(np.fft.rfft(sounds[..., 0].numpy())).argmax(1) / 0.64
    pace = peaks / (200 * (1 + labels.numpy()))
    assert (pace > 0.98 * SLOWEST).all()
    assert (pace < 1.02 * FASTEST).all()
    assert pace.std() > 0.05


def test_the_start_hears_bands_and_sees_edges(work, recipe):
    """Features before any training: a louder tone in its own band, whatever its phase; an edge's
    direction, whatever its place; and nothing of a picture in the latents of the sound."""
    from recipes.small.bank import Bank
    from recipes.small.layout import taken
    from recipes.small.notice import BANDS
    from recipes.small.start import start_at_positions

    torch.manual_seed(0)
    module = MultimodalAutoencoder(perceivio.preset("small"))
    batch = Bank(work / "train").batch(np.arange(CLIPS))
    start_at_positions(module, {"image": batch.image, "audio": batch.audio})
    edges = 40
    clock = torch.arange(10_240) / 16_000

    def heard(hertz: float, phase: float) -> torch.Tensor:
        tone = 0.1 * torch.sin(2 * torch.pi * hertz * clock + phase)
        with torch.no_grad():
            latents = module.encode({"image": batch.image[:1], "audio": tone[None, :, None]})
        features = latents[0, 128:160, taken(module) + edges : taken(module) + edges + 2 * BANDS]
        return features.unflatten(1, (2, BANDS)).mean((0, 1))

    low, high = heard(300, 0.0), heard(2000, 0.0)
    assert low.argmax() < high.argmax() - 3
    torch.testing.assert_close(heard(300, 1.5).argmax(), low.argmax(), atol=1, rtol=0)


def test_a_run_that_is_killed_goes_on_to_the_same_weights(work, tmp_path):
    straight, killed = tmp_path / "straight", tmp_path / "killed"
    for folder in (straight, killed):
        folder.mkdir()
        for part in ("train", "test", "media", "spoken.npy", "spoken.json"):
            (folder / part).symlink_to(work / part)
    ran = subprocess.run(command(straight), cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert ran.returncode == 0, ran.stderr

    process = subprocess.Popen(command(killed), cwd=ROOT, stdout=subprocess.DEVNULL)
    checkpoint, until = killed / "checkpoint.pt", time.monotonic() + 240
    while not checkpoint.exists() and process.poll() is None and time.monotonic() < until:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait(60) == -signal.SIGKILL
    assert 0 < torch.load(checkpoint, weights_only=True)["step"] < 8
    ran = subprocess.run(command(killed), cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert ran.returncode == 0, ran.stderr

    ends = [torch.load(f / "checkpoint.pt", weights_only=True) for f in (straight, killed)]
    assert [end["step"] for end in ends] == [8, 8]
    for name, values in ends[0]["module"].items():
        torch.testing.assert_close(ends[1]["module"][name], values, rtol=1e-3, atol=1e-5)
    model = perceivio.load(killed / "small")
    assert model.config == perceivio.preset("small")
    torch.testing.assert_close(
        model.module.get_parameter("encoder.latents").data,
        ends[1]["module"]["encoder.latents"].half().float(),
    )


def test_scoring_prints_a_line_a_source(work):
    scoring = [sys.executable, "-m", "recipes.small.score", "small", "--work", str(work)]
    ran = subprocess.run(scoring, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert ran.returncode == 0, ran.stderr
    assert re.search(r"made up\s+40 ", ran.stdout)
    assert re.search(r"digits\s+20 ", ran.stdout)
    assert re.search(r"^\d+ of 60 clips gain less than 3 dB$", ran.stdout, re.MULTILINE)
    assert "label masked: top-1" in ran.stdout
    assert re.search(r"^music +10 files  SNR", ran.stdout, re.MULTILINE)
