"""Attention as arrays and as pictures: against softmax written out in NumPy, against transformers,
and on real clips through the real command."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from models import SMALL, huggingface_model, random_inputs, tiny_config
from PIL import Image

import perceivio
from perceivio import attention_maps, factored_decode
from perceivio import attention_pictures as drawn
from perceivio.attention_maps import attention, attention_of_latents, reads, strongest, writes
from perceivio.autoencoder import Autoencoder
from perceivio.config import Attend
from perceivio.model import InputError, MultimodalAutoencoder

ASSETS = Path(__file__).parent.parent / "assets"


@pytest.fixture(scope="module")
def crooked() -> Autoencoder:
    """Two heads each way, an odd grid and classes, sharp attention."""
    torch.manual_seed(0)
    config = tiny_config(
        encode=Attend(heads=2, qk_channels=6, v_channels=4),
        decode=Attend(heads=2, qk_channels=4, v_channels=6, query_residual=False),
    )
    module = MultimodalAutoencoder(config)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            parameter.add_(torch.randn_like(parameter) * (0.9 if "norm" not in name else 0.2))
    return Autoencoder(module)


@pytest.fixture(scope="module")
def clip(crooked) -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    return {"depth": torch.randn(1, *crooked.config.modalities["depth"].value_shape)}


def weights_written_out(layer, queries, attended) -> np.ndarray:
    """(H, Q, K) in float64, by the textbook: norm, maps, heads, softmax."""

    def exact(x) -> np.ndarray:
        return x.detach().double().numpy()

    def normed(norm, x):
        x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
        return x * exact(norm.weight) + exact(norm.bias)

    def mapped(linear, x):
        x = x @ exact(linear.weight).T + exact(linear.bias)
        return x.reshape(len(x), layer.attention.heads, -1).transpose(1, 0, 2)

    q = mapped(layer.attention.query, normed(layer.query_norm, exact(queries)))
    k = mapped(layer.attention.key, normed(layer.attended_norm, exact(attended)))
    weights = np.exp(q @ k.transpose(0, 2, 1) / np.sqrt(q.shape[2]))
    return weights / weights.sum(2, keepdims=True)


@pytest.mark.parametrize("tile", [1, 40, 2**22])
def test_reading_is_the_softmax_of_the_encoder_whatever_the_tiles(
    crooked, clip, tile, monkeypatch
):
    monkeypatch.setattr(attention_maps, "TILE", tile)
    module = crooked.module
    array = module.input_array(clip)[0]
    wanted = weights_written_out(module.encoder.cross_attend, module.encoder.latents, array)
    assert wanted.max() > 0.5  # attention that tells tokens apart
    maps = reads(module, clip, [3, 0])
    assert maps["depth"].shape == (2, 2, 2, 2)
    assert maps["kind"].shape == (2, 2)  # masked: the mask token is read
    for row, latent in enumerate((3, 0)):
        got = np.concatenate([maps["depth"][row].flatten(1), maps["kind"][row][:, None]], 1)
        np.testing.assert_allclose(got, wanted[:, latent], atol=1e-6)
        np.testing.assert_allclose(got.sum(1), 1, atol=1e-6)


@pytest.mark.parametrize("tile", [1, 40, 2**22])
def test_writing_is_the_softmax_of_the_decoder_whatever_the_tiles(
    crooked, clip, tile, monkeypatch
):
    monkeypatch.setattr(factored_decode, "TILE", tile)
    module, latents = crooked.module, crooked.encode(clip)[0]
    for name, modality in module.config.modalities.items():
        queries = module.io(name).queries()
        wanted = weights_written_out(module.decoder.cross_attend, queries, latents)  # H x O x N
        maps, share = writes(crooked, latents, name, [4, 1])
        assert maps.shape == (2, 2, *modality.query_grid)
        for row, latent in enumerate((4, 1)):
            got = maps[row].reshape(2, -1)
            np.testing.assert_allclose(got, wanted[:, :, latent], atol=1e-6)
        np.testing.assert_allclose(share, wanted.mean((0, 1)), atol=1e-6)
        every = writes(crooked, latents, name, range(5))[0]
        np.testing.assert_allclose(every.sum(0), 1, atol=1e-6)


def test_reading_is_what_transformers_gives_as_attentions(tmp_path):
    model = huggingface_model(attention_gain=1.7, **SMALL)
    model.save_pretrained(tmp_path)
    ours = perceivio.load(tmp_path)
    inputs = random_inputs(ours.config, batch=1, label=True)
    model.perceiver.input_preprocessor.mask_probs.update(image=0.0, audio=0.0, label=0.0)
    points = {"image": torch.arange(4), "audio": torch.arange(2), "label": None}
    with torch.no_grad():
        theirs = model(inputs, subsampled_output_points=points, output_attentions=True)
    wanted = theirs.cross_attentions[0][0, 0]  # N x M, modalities sorted by name
    found = attention(ours, inputs, latents=range(6)).reads
    got = torch.cat([found[name].reshape(6, -1) for name in ("audio", "image", "label")], 1)
    assert wanted.max() > 0.02
    torch.testing.assert_close(got, wanted, atol=1e-5, rtol=1e-4)


def test_the_strongest_are_those_that_are_given_most(crooked, clip):
    found = attention(crooked, clip, top=2)
    best = {k: share.argsort(descending=True)[:2].tolist() for k, share in found.shares.items()}
    assert found.latents == tuple(dict.fromkeys([*best["depth"], *best["kind"]]))
    assert list(strongest({"a": torch.tensor([0.2, 0.4, 0.4]), "b": torch.ones(3)}, 2)) == [1, 2, 0]
    for share in found.shares.values():
        assert share.sum().item() == pytest.approx(1, abs=1e-6)
    alone = attention_of_latents(crooked, crooked.encode(clip), found.latents)
    assert alone.reads is None
    torch.testing.assert_close(alone.writes, found.writes)
    total = sum(found.read_shares(name) for name in crooked.config.modalities)
    torch.testing.assert_close(total, torch.ones(len(found.latents)))


def test_what_does_not_fit_is_told(crooked, clip):
    with pytest.raises(InputError, match="no latent 5: they are 0 to 4"):
        attention(crooked, clip, latents=[0, 5])
    with pytest.raises(InputError, match="one window"):
        attention(crooked, {"depth": clip["depth"].expand(2, -1, -1, -1)})
    with pytest.raises(InputError, match="one window"):
        attention_of_latents(crooked, torch.zeros(2, 5, 8))


def redness(picture: Image.Image) -> np.ndarray:
    """How much more red than blue each pixel is: 0 for grey."""
    pixels = np.asarray(picture, np.float32)
    return pixels[..., 0] - pixels[..., 2]


def test_a_map_lies_over_the_frame_where_its_weight_is(command, tmp_path):
    out = tmp_path / "look"
    run = ("attention", ASSETS / "digit.mp4", "--at", "0.64", "-o", out, "--latents", "60,140")
    code, told, _ = command(*run, "--json")
    assert code == 0
    figures = json.loads(told)
    assert (figures["start"], figures["stop"]) == pytest.approx((0.64, 1.28))
    assert figures["written"] == [f"{out}_reads.png", f"{out}_writes.png"]
    window = next(iter(perceivio.read(ASSETS / "digit.mp4", start=0.64, duration=0.64)))
    found = perceivio.attention(perceivio.load("small"), window.inputs, latents=[60, 140])
    for number, row in enumerate(figures["latents"]):
        for name, share in row["reads"].items():
            whole = found.reads[name][number].reshape(2, -1).sum(1).mean()
            assert share == pytest.approx(whole.item(), abs=1e-5)
    cell, gap, margin = drawn.CELL, drawn.GAP, drawn.MARGIN
    for side, maps in (("reads", found.reads), ("writes", found.writes)):
        with Image.open(f"{out}_{side}.png") as picture:
            red = redness(picture)
        assert np.flatnonzero((red > 60).any(1))[0] > 40  # nothing of the head is coloured
        image = maps["image"][0].mean(0)  # T' x 8 x 8
        for frame, moment in enumerate((2, 6, 10, 14)):
            weights = image[moment * len(image) // 16]
            x = margin + drawn.FIGURES + frame * (cell + gap)
            y = margin + drawn.BIG + 5 * drawn.LINE // 2
            seen = red[y : y + cell, x : x + cell].reshape(8, 12, 8, 12).mean((1, 3))
            strong = weights / max(image.max().item(), 1 / 168)
            np.testing.assert_array_less(seen[strong.numpy() < 0.01], 8)
            if strong.max() > 0.3:
                assert seen.argmax() == weights.argmax()


def test_the_command_names_the_strongest_and_keeps_what_is_there(command, tmp_path):
    run = ("attention", ASSETS / "bbb_scene.mp4", "-o", tmp_path)
    code, told, _ = command(*run, "--top", "1")
    assert code == 0
    assert told.count("latent ") == len({line.split()[1] for line in told.splitlines()[1:-2]})
    assert "reads" in told
    assert "of label" in told
    paths = sorted(path.name for path in tmp_path.iterdir())
    assert paths == ["bbb_scene_reads.png", "bbb_scene_writes.png"]
    assert "--overwrite" in command.fails(*run)
    assert "no latent 168" in command.fails(*run, "--overwrite", "--latents", "168")
    assert "3,17,160" in command.fails(*run, "--overwrite", "--latents", "all")
    assert "no such folder" in command.fails(*run[:2], "-o", tmp_path / "no" / "name")
    assert "absent.mp4" in command.fails("attention", tmp_path / "absent.mp4", "-o", tmp_path)
    assert "99" in command.fails(*run, "--overwrite", "--at", "99")
    assert sorted(path.name for path in tmp_path.iterdir()) == paths


def test_a_modality_that_is_not_there_is_drawn_grey(tmp_path, command):
    picture = np.full((64, 64, 3), 128, np.uint8)
    Image.fromarray(picture).save(tmp_path / "still.png")
    code, _, _ = command("attention", tmp_path / "still.png", "-o", tmp_path)
    assert code == 0
    window = next(iter(perceivio.read(tmp_path / "still.png")))
    assert set(window.inputs) == {"image"}


def test_a_file_of_latents_says_what_is_written(tmp_path, command):
    kept = tmp_path / "digit.latents"
    perceivio.encode(ASSETS / "digit.mp4", kept, precision="float32", overlap=0)
    run = ("--at", "0.7", "--latents", "5,160", "--json")
    code, told, _ = command("attention", kept, "-o", tmp_path, *run)
    assert code == 0
    found = json.loads(told)
    assert found["written"] == [str(tmp_path / "digit_writes.png")]
    assert found["start"] == pytest.approx(0.64)
    window = next(iter(perceivio.read(ASSETS / "digit.mp4", start=0.64, duration=0.64)))
    wanted = perceivio.attention(perceivio.load("small"), window.inputs, [5, 160])
    for number, latent in enumerate((5, 160)):
        assert set(found["latents"][number]) == {"latent", "writes"}
        for name, share in found["latents"][number]["writes"].items():
            assert share == pytest.approx(wanted.shares[name][latent].item(), abs=1e-4)


def test_help_has_an_example(command):
    code, told, _ = command("attention", "--help")
    assert code == 0
    assert "Example: perceivio attention" in told


def test_a_process_of_its_own(tmp_path):
    run = [sys.executable, "-m", "perceivio.cli", "attention", str(ASSETS / "digit.mp4")]
    result = subprocess.run(run, cwd=tmp_path, capture_output=True, text=True, timeout=600)
    assert result.returncode == 0, result.stderr
    with Image.open(tmp_path / "digit_reads.png") as picture:
        assert picture.width > 800
