"""The model computes what transformers' PerceiverForMultimodalAutoencoding computes.

Weights are random and go through the import that users take: saved by transformers, loaded here.
"""

from __future__ import annotations

import pytest
import torch
from models import BASE, SMALL, VARIANTS, huggingface_model, random_inputs

from perceivio.weights import load_module, save_huggingface


def compare(theirs, outputs):
    """The largest absolute difference over three outputs at points."""
    assert set(theirs) == set(outputs)
    largest = 0.0
    for name, values in theirs.items():
        values = values.reshape(outputs[name].shape)  # theirs are flat for audio
        if name != "label":
            assert values.std(1).mean() > 0.1, f"{name} hardly depends on the point"
        largest = max(largest, (outputs[name] - values).abs().max().item())
    return largest


def ask_huggingface(model, inputs, points, masked):
    """transformers' answer at points; `masked` modalities are masked by its own masking."""
    config = model.config
    label = torch.zeros(len(inputs["image"]), config.num_labels)
    probs = model.perceiver.input_preprocessor.mask_probs
    probs.update({name: float(name in masked) for name in probs})
    with torch.no_grad():
        return model({"label": label, **inputs}, subsampled_output_points={**points, "label": None})


@pytest.fixture(scope="module", params=VARIANTS.values(), ids=VARIANTS.keys())
def small(request, tmp_path_factory):
    model = huggingface_model(attention_gain=1.7, **{**SMALL, **request.param})
    folder = tmp_path_factory.mktemp("small")
    model.save_pretrained(folder)
    return model, load_module(folder)


def every_point(module):
    return {n: torch.arange(module.config.modalities[n].queries) for n in ("audio", "image")}


@pytest.mark.parametrize(
    "masked",
    [{"label"}, set(), {"image", "label"}, {"audio", "label"}, {"image", "audio"}],
    ids=lambda masked: "without " + " and ".join(sorted(masked)) if masked else "all given",
)
def test_batch_with_modalities_missing(small, masked):
    model, module = small
    inputs = random_inputs(module.config, batch=3, label=True)
    points = every_point(module)
    theirs = ask_huggingface(model, inputs, points, masked)
    given = {name: values for name, values in inputs.items() if name not in masked}
    with torch.no_grad():
        outputs = module.decode(module.encode(given), {**points, "label": None})
    assert compare(theirs.logits, outputs) < 1e-4


def test_masked_in_some_examples_only(small):
    model, module = small
    inputs = random_inputs(module.config, batch=3, label=True)
    some = torch.tensor([True, False, True])
    points = every_point(module)
    with torch.no_grad():
        latents = module.encode(inputs, masked={"image": some})
        outputs = module.decode(latents, {**points, "label": None})
    for chosen, masked in ((some, {"image"}), (~some, set())):
        part = {name: values[chosen] for name, values in inputs.items()}
        theirs = ask_huggingface(model, part, points, masked)
        ours = {name: values[chosen] for name, values in outputs.items()}
        assert compare(theirs.logits, ours) < 1e-4


def test_subsets_of_points(small):
    model, module = small
    inputs = random_inputs(module.config, batch=2)
    points = {"image": torch.tensor([287, 5, 5, 100]), "audio": torch.tensor([14, 0, 3])}
    theirs = ask_huggingface(model, inputs, points, {"label"}).logits
    with torch.no_grad():
        latents = module.encode(inputs)
        outputs = module.decode(latents, {**points, "label": None})
        alone = module.decode(latents, {"image": points["image"]})
    assert compare(theirs, outputs) < 1e-4
    assert list(alone) == ["image"]
    assert (alone["image"] - theirs["image"]).abs().max() < 1e-4


def test_whole_outputs(small):
    """Whole outputs are all points on the grid of queries, put back in the inputs' layout."""
    model, module = small
    inputs = random_inputs(module.config, batch=2)
    theirs = ask_huggingface(model, inputs, every_point(module), {"label"}).logits
    with torch.no_grad():
        outputs = module.reconstruct(inputs)
    frames, height, width = 3, 8, 12
    image = theirs["image"].reshape(2, frames, height, width, 3).permute(0, 1, 4, 2, 3)
    assert outputs["image"].shape == inputs["image"].shape
    assert outputs["audio"].shape == inputs["audio"].shape
    assert (outputs["image"] - image).abs().max() < 1e-4
    assert (outputs["audio"] - theirs["audio"][..., None]).abs().max() < 1e-4
    assert (outputs["label"] - theirs["label"]).abs().max() < 1e-4


def test_classify_masks_the_label(small):
    model, module = small
    inputs = random_inputs(module.config, batch=2, label=True)
    theirs = ask_huggingface(model, inputs, every_point(module), {"label"}).logits
    with torch.no_grad():
        assert (module.classify(inputs) - theirs["label"]).abs().max() < 1e-4


def test_transformers_loads_what_we_save(small, tmp_path):
    from transformers import PerceiverForMultimodalAutoencoding

    model, module = small
    save_huggingface(module, tmp_path / "out")
    again, report = PerceiverForMultimodalAutoencoding.from_pretrained(
        tmp_path / "out", output_loading_info=True
    )
    assert not any(report[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert all(torch.equal(v, again.state_dict()[k]) for k, v in model.state_dict().items())
    inputs = random_inputs(module.config, batch=2)
    points = every_point(module)
    before = ask_huggingface(model, inputs, points, {"label"}).logits
    after = ask_huggingface(again.eval(), inputs, points, {"label"}).logits
    assert all((before[name] - after[name]).abs().max() < 1e-5 for name in before)


def test_full_size(tmp_path):
    """The published model's sizes, at random points of all three outputs."""
    model = huggingface_model(attention_gain=2.0, **BASE)
    model.save_pretrained(tmp_path)
    module = load_module(tmp_path)
    assert module.config.name == "base"
    assert len(module.config.modalities["label"].names) == 700
    inputs = random_inputs(module.config, batch=1)
    generator = torch.Generator().manual_seed(4)
    points = {
        "image": torch.randint(16 * 224 * 224, (300,), generator=generator),
        "audio": torch.randint(1920, (100,), generator=generator),
    }
    theirs = ask_huggingface(model, inputs, points, {"label"}).logits
    with torch.no_grad():
        outputs = module.decode(module.encode(inputs), {**points, "label": None})
    assert 2.5 < torch.cat([v.flatten() for v in theirs.values()]).std() < 6
    difference = compare(theirs, outputs)
    print(f"largest difference at full size: {difference:.1e}")
    assert difference < 1e-4
