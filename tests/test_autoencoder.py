"""The ready model that `load` returns: the fixed interface, on the shipped weights."""

import pytest
import torch
from test_model import build, random_inputs, tiny

import perceivio
from perceivio.autoencoder import Autoencoder
from perceivio.model import InputError


@pytest.fixture(scope="module")
def small() -> Autoencoder:
    return perceivio.load("small")


@pytest.fixture(scope="module")
def clip() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return {"image": torch.rand(2, 16, 3, 64, 64), "audio": 0.2 * torch.randn(2, 10_240, 1)}


def test_the_fixed_interface(small, clip):
    latents = small.encode(clip)
    assert latents.shape == (2, 168, 320)
    assert not latents.requires_grad
    outputs = small.decode(latents)
    shapes = {name: tuple(values.shape) for name, values in outputs.items()}
    assert shapes == {"image": (2, 16, 3, 64, 64), "audio": (2, 10_240, 1), "label": (2, 10)}
    points = torch.tensor([3, 60])
    some = small.decode(latents, {"image": points})
    assert set(some) == {"image"}
    assert some["image"].shape == (2, 2, 8 * 8 * 8 * 3)
    for name, values in small.reconstruct(clip).items():
        torch.testing.assert_close(values, outputs[name])


def test_it_computes_what_the_plain_module_says(small, clip):
    with torch.no_grad():
        wanted = small.module.reconstruct(clip)
    got = small.reconstruct(clip)
    for name, values in wanted.items():
        torch.testing.assert_close(got[name], values, atol=2e-4, rtol=1e-4)


def test_classes_come_with_names_and_probabilities(small, clip):
    rows = small.classify(clip, top=3)
    assert [len(row) for row in rows] == [3, 3]
    every = small.classify(clip, top=99)[0]
    assert sorted(p.name for p in every) == list("0123456789")
    assert sum(p.probability for p in every) == pytest.approx(1, abs=1e-5)
    assert every[0] == rows[0][0] == max(every, key=lambda p: p.probability)
    with torch.no_grad():
        logits = small.module.classify(clip)[0].double()
    want = (logits.exp() / logits.exp().sum())[int(every[0].name)].item()
    assert every[0].probability == pytest.approx(want, abs=1e-4)


def test_a_label_that_is_given_does_not_reach_classify(small, clip):
    given = {**clip, "label": torch.eye(10)[:2]}
    assert small.classify(given)[0][0].name == small.classify(clip)[0][0].name


def test_a_model_without_names_numbers_its_classes():
    model = Autoencoder(build(tiny()))
    predictions = model.classify(random_inputs(model.config))[0]
    assert {p.name for p in predictions} == set("01234")


def test_save_and_load_give_the_same_function(small, clip, tmp_path):
    small.save(tmp_path / "mine")
    again = perceivio.load(tmp_path / "mine")
    assert again.config == small.config
    for name, values in small.reconstruct(clip).items():
        assert torch.equal(again.reconstruct(clip)[name], values)
    with pytest.raises(perceivio.PerceivioError, match="overwrite"):
        small.save(tmp_path / "mine")


def test_bfloat16_keeps_positions_and_stays_near(clip):
    exact, rough = perceivio.load("small"), perceivio.load("small", dtype=torch.bfloat16)
    wanted, got = exact.reconstruct(clip)["image"], rough.reconstruct(clip)["image"]
    assert got.dtype == torch.bfloat16
    assert (got.float() - wanted).abs().mean() < 0.05 * wanted.std()


def test_the_module_trains(clip):
    model = perceivio.load("small")
    outputs = model.module(clip)
    loss = (outputs["image"] - clip["image"]).abs().mean() + outputs["audio"].abs().mean()
    loss.backward()
    assert model.module.encoder.latents.grad.abs().sum() > 0


def test_what_does_not_fit_is_said_in_one_line(small, clip):
    with pytest.raises(InputError, match=r"image has shape .* not \(B, 16, 3, 64, 64\)"):
        small.encode({"image": clip["image"].movedim(2, -1)})
    with pytest.raises(InputError, match=r"latents have shape \(1, 5, 5\), not \(B, 168, 320\)"):
        small.decode(torch.zeros(1, 5, 5))
    with pytest.raises(perceivio.PerceivioError, match="device 'nonsense' cannot be used"):
        perceivio.load("small", device="nonsense")


def test_the_shipped_weights_are_small_enough():
    from importlib import resources

    folder = resources.files("perceivio") / "weights_small"
    assert sum(len(file.read_bytes()) for file in folder.iterdir()) <= 16e6
