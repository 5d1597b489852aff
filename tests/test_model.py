"""The plain module: positions, tokens, queries, masks, points. Oracles are written out here in
NumPy or plain loops, from the paper's formulas."""

import copy
import json
import math
import pickle

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from perceivio.config import Attend, Config, ConfigError, Modality, kinetics_classes, preset
from perceivio.modalities import patches, unpatch
from perceivio.model import InputError, MultimodalAutoencoder
from perceivio.position import axis_features, grid_features, input_positions, query_positions


def tiny(**changes) -> Config:
    """A model with video, sound, classes and a fourth, made-up modality: two-channel depth."""
    core = {
        "modalities": {
            "image": Modality((2, 4, 6), 3, (1, 2, 2), (1, 1, 1), 3, (2, 2, 3), channel_axis=1),
            "audio": Modality((12,), 1, (4,), (2,), 5, (12,)),
            "label": Modality((), 5, query=9),
            "depth": Modality((4, 4), 2, (2, 4), (2, 2), 2, (4, 2), embed=7, mean=0.3, std=2.0),
        },
        "latents": 6,
        "latent_channels": 8,
        "process": Attend(heads=2),
        "self_attends": 2,
        "output_channels": 10,
        "name": "tiny",
    }
    return Config(**{**core, **changes})


def build(config: Config, seed: int = 0) -> MultimodalAutoencoder:
    """A model whose every parameter matters: no zero bias, no small random start."""
    torch.manual_seed(seed)
    module = MultimodalAutoencoder(config)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_(0.1, 0.5)
    return module.eval()


def random_inputs(config: Config, batch: int = 3) -> dict[str, torch.Tensor]:
    return {name: torch.rand(batch, *m.value_shape) for name, m in config.modalities.items()}


def test_presets_have_the_papers_numbers():
    base = preset("base")
    assert (base.tokens, base.input_channels, base.query_channels) == (52_097, 704, 1_026)
    assert (base.latents, base.latent_channels, base.self_attends) == (784, 512, 8)
    assert sum(m.queries for m in base.modalities.values()) == 16 * 224 * 224 + 1_920 + 1
    with torch.device("meta"):
        count = sum(p.numel() for p in MultimodalAutoencoder(base).parameters())
    assert round(count / 1e6, 2) == 19.86
    for name, ratio in (("base", 88), ("base-176x", 176), ("base-352x", 352)):
        assert preset(name).compression()["paper"] == ratio
    assert base.compression()["values"] == pytest.approx(6.08, abs=0.005)


def test_kinetics_has_seven_hundred_different_classes():
    names = kinetics_classes()
    assert len(set(names)) == 700
    assert all(name and name == name.strip() for name in names)


def test_a_configuration_survives_json_pickle_and_copy():
    for config in (preset("base"), preset("small"), tiny()):
        assert Config.from_dict(json.loads(json.dumps(config.to_dict()))) == config
        assert pickle.loads(pickle.dumps(config)) == config
        assert copy.deepcopy(config) == config


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"patch": (3, 2, 2)}, "does not divide"),
        ({"patch": (1, 2)}, "same number of dimensions"),
        ({"bands": 0}, "at least 1"),
        ({"std": 0.0}, "std must be positive"),
        ({"names": ("a",)}, "class names"),
        ({"media": "video"}, "needs its rate"),
        ({"media": "audio"}, "1 dimension"),
    ],
)
def test_a_modality_that_cannot_be_says_why(change, words):
    good = {"shape": (2, 4, 6), "channels": 3, "patch": (1, 2, 2), "output_patch": (1, 1, 1)}
    good |= {"bands": 3, "resolution": (2, 2, 3)}
    with pytest.raises(ConfigError, match=words):
        Modality(**{**good, **change})


def test_the_two_position_grids():
    np.testing.assert_allclose(input_positions(5), [-1, -0.5, 0, 0.5, 1])
    np.testing.assert_allclose(query_positions(4), [-1, -0.5, 0, 0.5])


def test_fourier_features_by_the_formula():
    shape, bands, resolution = (3, 4), 5, (6, 8)
    axes = [
        axis_features(input_positions(n), bands, r) for n, r in zip(shape, resolution, strict=True)
    ]
    got = grid_features(axes)
    assert got.shape == (12, 2 + 2 * 2 * bands)
    for i in range(3):
        for j in range(4):
            place = (-1 + 2 * i / 2, -1 + 2 * j / 3)
            angles = [
                math.pi * (1 + (r / 2 - 1) * k / (bands - 1)) * p
                for p, r in zip(place, resolution, strict=True)
                for k in range(bands)
            ]
            want = [*place, *map(math.sin, angles), *map(math.cos, angles)]
            np.testing.assert_allclose(got[4 * i + j], want, atol=2e-6)
    points = torch.tensor([7, 0, 11])
    assert torch.equal(grid_features(axes, points), got[points])


def test_a_grid_without_dimensions_has_one_point_without_position():
    assert grid_features([]).shape == (1, 0)
    assert grid_features([], torch.tensor([0, 0])).shape == (2, 0)


def test_patches_are_in_row_major_order_with_channels_fastest():
    image = tiny().modalities["image"]
    values = torch.rand(2, *image.value_shape)
    got = patches(values, image, (1, 2, 2))
    row = 0
    for t in range(2):
        for y in range(2):
            for x in range(3):
                block = values[:, t, :, 2 * y : 2 * y + 2, 2 * x : 2 * x + 2]  # B C dy dx
                want = torch.stack(
                    [block[:, c, dy, dx] for dy in range(2) for dx in range(2) for c in range(3)], 1
                )
                assert torch.equal(got[:, row], want)
                row += 1
    assert row == got.shape[1]


@given(
    grid=st.lists(st.tuples(st.integers(1, 3), st.integers(1, 3)), min_size=1, max_size=4),
    channels=st.integers(1, 3),
    axis=st.integers(-1, 1),
)
@settings(max_examples=40, deadline=None)
def test_unpatch_undoes_patches_on_any_grid(grid, channels, axis):
    shape = tuple(n * p for n, p in grid)
    patch = tuple(p for _, p in grid)
    modality = Modality(shape, channels, patch, patch, 1, shape, channel_axis=axis)
    values = torch.rand(2, *modality.value_shape)
    cut = patches(values, modality, patch)
    assert cut.shape == (2, modality.tokens, modality.patch_values)
    assert torch.equal(unpatch(cut, modality, patch), values)


def test_tokens_are_content_position_padding():
    config = tiny()
    module = build(config)
    io = module.io("depth")
    values = torch.rand(2, 4, 4, 2)
    tokens = io.tokens(values)
    modality = config.modalities["depth"]
    assert tokens.shape == (2, 2, config.input_channels)
    flat = (patches(values, modality, modality.patch) - 0.3) / 2.0
    torch.testing.assert_close(tokens[..., :7], flat @ io.embed.weight.T + io.embed.bias)
    position = grid_features(io.token_axes())
    assert torch.equal(tokens[0, :, 7 : 7 + position.shape[1]], position)
    assert torch.equal(tokens[1, 0, 7 + position.shape[1] :], io.padding)


def test_the_input_array_is_sorted_by_name_whatever_the_order_given():
    config = tiny()
    module, inputs = build(config), random_inputs(config)
    backwards = dict(reversed(list(inputs.items())))
    assert torch.equal(module.input_array(inputs), module.input_array(backwards))
    parts = [module.io(name).tokens(inputs[name]) for name in ("audio", "depth", "image", "label")]
    assert torch.equal(module.input_array(inputs), torch.cat(parts, 1))


def test_masking_an_example_is_leaving_the_modality_out():
    config = tiny()
    module, inputs = build(config), random_inputs(config)
    chosen = torch.tensor([True, False, True])
    array = module.input_array(inputs, {"image": chosen})
    without = module.input_array({k: v for k, v in inputs.items() if k != "image"})
    assert torch.equal(array[chosen], without[chosen])
    assert torch.equal(array[1], module.input_array(inputs)[1])


def test_classify_masks_the_label():
    config = tiny()
    module, inputs = build(config), random_inputs(config)
    logits = module.classify(inputs)
    inputs["label"] = 1 - inputs["label"]
    assert torch.equal(module.classify(inputs), logits)
    del inputs["label"]
    torch.testing.assert_close(module.reconstruct(inputs)["label"], logits)


def test_any_partition_of_the_points_gives_the_whole():
    config = tiny()
    module = build(config)
    latents = module.encode(random_inputs(config))
    whole = module.decode(latents)
    for name, modality in config.modalities.items():
        assert whole[name].shape == (3, *modality.value_shape)
        if modality.is_classes:
            continue
        order = torch.randperm(modality.queries)
        parts = [module.decode(latents, {name: part})[name] for part in order.split(3)]
        values = torch.cat(parts, 1)[:, order.argsort()]
        assembled = unpatch(values, modality, modality.output_patch)
        torch.testing.assert_close(assembled, whole[name], atol=1e-5, rtol=1e-5)


def test_only_what_is_asked_for_is_answered():
    config = tiny()
    module = build(config)
    latents = module.encode(random_inputs(config))
    assert set(module.decode(latents, {"audio": None})) == {"audio"}
    assert module.decode(latents, {}) == {}
    mixed = module.decode(latents, {"image": torch.tensor([5, 5]), "label": None})
    assert mixed["image"].shape == (3, 2, 3)
    torch.testing.assert_close(mixed["image"][:, 0], mixed["image"][:, 1])
    nothing = module.decode(latents, {"audio": torch.tensor([], dtype=torch.long)})
    assert nothing["audio"].shape == (3, 0, 2)


def test_a_batch_is_its_examples():
    config = tiny()
    module, inputs = build(config), random_inputs(config)
    together = module.reconstruct(inputs)
    for i in range(3):
        alone = module.reconstruct({k: v[i : i + 1] for k, v in inputs.items()})
        for name in together:
            torch.testing.assert_close(together[name][i], alone[name][0], atol=1e-5, rtol=1e-5)


def test_blocks_repeat_the_same_weights():
    one, two = build(tiny()), build(tiny(blocks=2))
    assert {n: p.shape for n, p in one.named_parameters()} == {
        n: p.shape for n, p in two.named_parameters()
    }
    two.load_state_dict(one.state_dict())
    inputs = random_inputs(one.config)
    torch.testing.assert_close(two.encode(inputs), one.encoder.process(one.encode(inputs)))


@pytest.mark.parametrize(
    "change",
    [
        {"encode": Attend(heads=2, qk_channels=6, v_channels=10, widening=3)},
        {"encode": Attend(query_residual=False)},
        {"process": Attend(heads=4, qk_channels=4, v_channels=16, widening=2)},
        {"decode": Attend(heads=2, qk_channels=12, v_channels=6, widening=2)},
        {"activation": "gelu_tanh"},
    ],
)
def test_every_setting_of_the_core_changes_the_function_and_trains(change):
    config = tiny(**change)
    module, inputs = build(config), random_inputs(config)
    outputs = module(inputs)
    plain = build(tiny())
    plain.load_state_dict(module.state_dict(), strict=False) if "activation" in change else None
    assert not torch.allclose(plain(inputs)["image"], outputs["image"], atol=1e-5)
    torch.stack([v.square().mean() for v in outputs.values()]).sum().backward()
    given = {n for n, p in module.named_parameters() if p.grad is not None}
    tokens = {f"modalities.{name}.mask_token" for name in config.modalities}
    unused = {f"modalities.{n}.query" for n in ("audio", "depth", "image")}
    assert set(dict(module.named_parameters())) - given <= tokens | unused


def test_attention_by_plain_loops():
    """Two heads with their own channels, a residual and an MLP: written out in NumPy float64."""
    config = tiny(encode=Attend(heads=2, qk_channels=6, v_channels=10, widening=3))
    layer = build(config).encoder.cross_attend.double()
    q, kv = torch.randn(1, 6, 8).double(), torch.randn(1, 9, config.input_channels).double()
    weights = {n: p.detach().numpy() for n, p in layer.named_parameters()}

    def norm(x, name):
        centred = x - x.mean(-1, keepdims=True)
        scaled = centred / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
        return scaled * weights[f"{name}.weight"] + weights[f"{name}.bias"]

    def linear(x, name):
        return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]

    a, b = norm(q[0].numpy(), "query_norm"), norm(kv[0].numpy(), "attended_norm")
    query, key, value = (
        linear(x, f"attention.{n}") for x, n in ((a, "query"), (b, "key"), (b, "value"))
    )
    gathered = np.zeros((6, 10))
    for head in range(2):
        for i in range(6):
            scores = np.array(
                [query[i, 3 * head : 3 * head + 3] @ k[3 * head : 3 * head + 3] for k in key]
            ) / math.sqrt(3)
            share = np.exp(scores - scores.max())
            share /= share.sum()
            gathered[i, 5 * head : 5 * head + 5] = share @ value[:, 5 * head : 5 * head + 5]
    x = q[0].numpy() + linear(gathered, "attention.output")
    hidden = linear(norm(x, "mlp_norm"), "mlp.widen")
    hidden = np.vectorize(lambda h: h * 0.5 * (1 + math.erf(h / math.sqrt(2))))(hidden)
    want = x + linear(hidden, "mlp.narrow")
    np.testing.assert_allclose(layer(q, kv)[0].detach().numpy(), want, atol=1e-10)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda x: {}, "no input given"),
        (lambda x: {"video": x["image"]}, "no modality is called 'video'"),
        (lambda x: {"image": x["image"][:, :1]}, r"not \(B, 2, 3, 4, 6\)"),
        (lambda x: {**x, "audio": x["audio"][:1]}, "different batch sizes"),
    ],
)
def test_inputs_that_do_not_fit_are_named(spoil, words):
    config = tiny()
    with pytest.raises(InputError, match=words):
        build(config).encode(spoil(random_inputs(config)))


@pytest.mark.parametrize(
    ("points", "words"),
    [
        ({"sound": None}, "no modality is called 'sound'"),
        ({"image": torch.tensor([48])}, r"must lie in 0 \.\. 47"),
        ({"image": torch.tensor([-1])}, r"must lie in 0 \.\. 47"),
        ({"image": torch.tensor([0.5])}, "whole numbers"),
        ({"image": torch.zeros(2, 2).long()}, "1-D"),
    ],
)
def test_points_that_do_not_fit_are_named(points, words):
    config = tiny()
    module = build(config)
    with pytest.raises(InputError, match=words):
        module.decode(torch.zeros(1, 6, 8), points)
