"""The parts of training, each against something that does not share its code."""

import dataclasses
import errno
import itertools
import math
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from models import random_inputs
from training_runs import TINY, make_config

from perceivio.config import preset
from perceivio.data.catalogue import Clip, Index
from perceivio.data.dataset import Epochs
from perceivio.data.store import Place
from perceivio.errors import PerceivioError
from perceivio.model import MultimodalAutoencoder
from perceivio.training.averages import Average
from perceivio.training.batches import Share, Turns, draw_masks, draw_points
from perceivio.training.checkpoints import CheckpointError, Checkpoints, best
from perceivio.training.folder import lock
from perceivio.training.journal import Journal
from perceivio.training.lamb import Lamb
from perceivio.training.losses import Learner, grid_error
from perceivio.training.optimisers import rate_at
from perceivio.training.settings import (
    Data,
    Keep,
    Objective,
    Schedule,
    differences,
    read_settings,
    shipped,
)
from perceivio.training.split import Split
from perceivio.training.start import Declared, objectives_of
from perceivio.weights import save_module


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    return read_settings(make_config(tmp_path_factory.mktemp("config")))


@pytest.fixture(scope="module")
def config(settings):
    return Declared.by(settings).begin(("a", "b", "c")).module.config


def tiny(config, seed=0):
    torch.manual_seed(seed)
    return MultimodalAutoencoder(config)


# ---- losses


def test_losses_are_those_of_the_whole_output(config):
    """The points that are asked for, out of everything; sums written out by hand."""
    module = tiny(config)
    inputs = random_inputs(config, 3, label=True)
    image, audio = config.modalities["image"], config.modalities["audio"]
    points = {"image": torch.tensor([0, 5, 17]), "audio": torch.tensor([2, 31])}
    objectives = {"image": Objective(), "audio": Objective(loss="l2"), "label": Objective()}
    known = torch.tensor([True, False, True])
    wrong = Learner(module, objectives)(inputs, {}, points, {"label": known, "audio": ~known})
    outputs = {k: v.detach().double().numpy() for k, v in module.reconstruct(inputs).items()}
    wanted = {k: v.double().numpy() for k, v in inputs.items()}
    for n in range(3):
        error = (outputs["image"] - wanted["image"])[n]  # (T, 3, H, W)
        found = []
        for point in points["image"].tolist():
            t, y, x = np.unravel_index(point, image.query_grid)
            dt, dy, dx = image.output_patch
            block = (slice(t * dt, (t + 1) * dt), slice(None),
                     slice(y * dy, (y + 1) * dy), slice(x * dx, (x + 1) * dx))  # fmt: skip
            found.append(np.abs(error[block]).mean())
        assert wrong["image"].loss[n].item() == pytest.approx(np.mean(found), rel=1e-4)
        size = audio.output_patch[0]
        said = (outputs["audio"] - wanted["audio"])[n, :, 0].reshape(-1, size)[[2, 31]]
        expected = 0 if known[n] else (said**2).mean()
        assert wrong["audio"].loss[n].item() == pytest.approx(expected, rel=1e-4)
        assert wrong["audio"].square[n].item() == pytest.approx((said**2).mean(), rel=1e-4)
        logits = outputs["label"][n]
        right = wanted["label"][n].argmax()
        expected = math.log(np.exp(logits - logits[right]).sum()) if known[n] else 0
        assert wrong["label"].loss[n].item() == pytest.approx(expected, rel=1e-4, abs=1e-6)


def test_the_log_loss_treats_quiet_and_loud_alike(config):
    audio = config.modalities["audio"]
    for scale in (1.0, 0.1):
        sound = random_inputs(config, 1)["audio"] * scale
        silence = grid_error(0 * sound, sound, audio, "log").loss
        assert silence.item() == pytest.approx(math.log(1.01), abs=1e-3)


def test_a_masked_input_is_not_seen(config):
    module = tiny(config)
    learner = Learner(module, {"image": Objective(), "audio": Objective(), "label": Objective()})
    inputs = random_inputs(config, 2, label=True)
    other = {**inputs, "image": 1 - inputs["image"]}
    masked = {"image": torch.tensor([True, False])}
    none = {"image": torch.tensor([False, False])}
    ours, theirs = (learner(x, masked, {}, {})["audio"].loss for x in (inputs, other))
    assert ours[0] == theirs[0]
    assert ours[1] != theirs[1]
    assert learner(inputs, none, {}, {})["audio"].loss[0] != ours[0]


# ---- what is drawn at random


def test_masks_come_with_their_probabilities(config):
    shares = {"image": 0.3, "audio": 0.5, "label": 0.4}
    objectives = {name: Objective(mask=share) for name, share in shares.items()}
    many = 20_000
    known = {"label": torch.ones(many, dtype=torch.bool)}
    masked = draw_masks(7, torch.arange(many), known, objectives, config)
    seen = Counter(zip(*(masked[name].tolist() for name in shares), strict=True))
    for masks in itertools.product([False, True], repeat=3):
        chance = math.prod(
            p if m else 1 - p for m, p in zip(masks, shares.values(), strict=True)
        )
        # Never both grids; what is left keeps its proportions.
        chance = 0 if masks[0] and masks[1] else chance / (1 - 0.3 * 0.5)
        spread = math.sqrt(many * chance * (1 - chance))
        assert abs(seen[masks] - many * chance) <= 4.5 * spread


def test_masks_belong_to_the_clip_and_not_to_who_asks(config):
    objectives = {name: Objective(mask=0.5) for name in config.modalities}
    known = {"label": torch.ones(64, dtype=torch.bool)}
    every = draw_masks(1, torch.arange(64), known, objectives, config)
    order = torch.randperm(64)[:10]
    some = draw_masks(1, order, {"label": known["label"][:10]}, objectives, config)
    assert all(torch.equal(some[name], every[name][order]) for name in some)
    other = draw_masks(2, torch.arange(64), known, objectives, config)
    assert any(not torch.equal(other[name], every[name]) for name in every)


def test_a_clip_without_a_label_has_it_masked(config):
    objectives = {"image": Objective(), "audio": Objective(), "label": Objective()}
    known = {"label": torch.tensor([True, False, True])}
    masked = draw_masks(0, torch.arange(3), known, objectives, config)
    assert {name: m.tolist() for name, m in masked.items()} == {"label": [False, True, False]}


def test_points_are_distinct_and_all_are_drawn_alike(config):
    queries = config.modalities["image"].queries
    objectives = {"image": Objective(points=10), "audio": Objective(points=0)}
    seen, steps = Counter(), 2000
    for step in range(steps):
        points = draw_points(0, step, 0, objectives, config)
        assert points["audio"] is None
        assert len(set(points["image"].tolist())) == 10
        seen.update(points["image"].tolist())
    expected = steps * 10 / queries
    assert set(seen) == set(range(queries))
    assert max(abs(n - expected) for n in seen.values()) < 5 * math.sqrt(expected)
    again, later, beside = (
        draw_points(0, *where, objectives, config)["image"].tolist()
        for where in ((1999, 0), (0, 0), (1999, 1))
    )
    assert again == points["image"].tolist()
    assert again != later
    assert again != beside


@given(st.integers(1, 12), st.integers(1, 4), st.integers(1, 5), st.integers(1, 9))
def test_every_clip_of_a_step_is_taken_once(rows, ranks, part, at_once):
    batch, steps = ranks * part, 5
    shares = [Share.of(batch, at_once, rank, ranks) for rank in range(ranks)]
    assert all(share.clips <= at_once for share in shares)
    epochs = (key for epoch in itertools.count() for key in Epochs(rows, 3, epoch))
    wanted = list(itertools.islice(epochs, batch * steps))
    found = {}
    for share in shares:
        for first in (0, 2):  # one that goes on after two steps sees the same
            for keys in Turns(rows, 3, share, first, steps):
                for epoch, row, number in keys:
                    assert found.setdefault(number, (epoch, row)) == (epoch, row)
    assert [found[number] for number in range(batch * steps)] == wanted


# ---- what is learned with


def lamb_by_hand(w, gradients, lr, beta1, beta2, eps, decay, correct, clamp):
    """Algorithm 2 of arXiv 1904.00962, a parameter, in float64."""
    m = v = np.zeros_like(w)
    for t, g in enumerate(gradients, 1):
        m = beta1 * m + (1 - beta1) * g
        v = beta2 * v + (1 - beta2) * g * g
        mh, vh = (m / (1 - beta1**t), v / (1 - beta2**t)) if correct else (m, v)
        u = mh / (np.sqrt(vh) + eps) + decay * w
        phi = np.linalg.norm(w)
        phi = min(phi, clamp) if clamp else phi
        ratio = phi / np.linalg.norm(u) if phi and np.linalg.norm(u) else 1.0
        w = w - lr * ratio * u
    return w


@pytest.mark.parametrize(("correct", "clamp"), [(True, 0.0), (False, 10.0), (True, 0.5)])
def test_lamb_is_the_papers(correct, clamp):
    rng = np.random.default_rng(0)
    begin = [rng.normal(size=(4, 3)), np.zeros(5)]
    gradients = [[rng.normal(size=w.shape) for w in begin] for _ in range(6)]
    parameters = [torch.nn.Parameter(torch.tensor(w)) for w in begin]
    optimiser = Lamb(parameters, 0.05, (0.8, 0.95), 1e-6, 0.1, correct, clamp)
    for each in gradients:
        for p, g in zip(parameters, each, strict=True):
            p.grad = torch.tensor(g)
        optimiser.step()
    for n, p in enumerate(parameters):
        wanted = lamb_by_hand(
            begin[n], [g[n] for g in gradients], 0.05, 0.8, 0.95, 1e-6, 0.1, correct, clamp
        )
        assert p.detach().numpy() == pytest.approx(wanted, rel=1e-9)


def test_the_average_is_the_weighted_sum_of_all_weights(config):
    module = tiny(config)
    average = Average(module, 0.6)
    name = "encoder.latents"
    weights = [module.state_dict()[name].double().clone()]
    for step in range(1, 9):
        with torch.no_grad():
            for parameter in module.parameters():
                parameter.add_(torch.randn_like(parameter))
        weights.append(module.state_dict()[name].double().clone())
        average.follow(module, step)
    decays = [min(0.6, (1 + t) / (10 + t)) for t in range(1, 9)]
    wanted = weights[0] * math.prod(decays)
    for t, decay in enumerate(decays):
        wanted = wanted + weights[t + 1] * (1 - decay) * math.prod(decays[t + 1 :])
    assert torch.allclose(average.module.encoder.latents.double(), wanted, atol=1e-5)


def test_the_rate_rises_stays_and_falls():
    schedule = Schedule(steps=1000, warm_up=100, flat=0.5)
    rates = [rate_at(step, schedule) for step in range(1000)]
    assert rates[0] == pytest.approx(0.01)
    assert rates[99:501] == [1.0] * 402
    assert rates[750] == pytest.approx(0.5)
    assert rates[999] < 1e-4
    assert all(a >= b for a, b in itertools.pairwise(rates[500:]))


def test_recomputed_activations_give_the_same_gradients(config):
    inputs = random_inputs(config, 2)
    gradients = []
    for recompute in (False, True):
        module = tiny(config)
        calls = Counter()
        module.encoder.self_attends[0].attention_norm.register_forward_hook(
            lambda *_, calls=calls: calls.update(["forward"])
        )
        learner = Learner(module, {"image": Objective(loss="l2", points=0)}, recompute)
        wrong = learner(inputs, {}, {}, {})
        wrong["image"].loss.sum().backward()
        gradients.append([p.grad for p in module.parameters() if p.grad is not None])
        assert calls["forward"] == 1 + recompute
    assert all(map(torch.equal, *gradients))


# ---- what is kept


def test_the_last_and_the_best_are_kept(tmp_path):
    kept = Checkpoints(tmp_path / "c", Keep(last=2, best=1))
    scores = {}
    for step, score in ((1, 5.0), (2, 3.0), (3, 4.0), (4, None), (5, 9.0), (6, 8.0)):
        if score is not None:
            scores[step] = score
        kept.write({"step": step, "scores": scores, "value": torch.tensor([step])})
    assert kept.steps() == [2, 5, 6]
    state, notes = kept.newest()
    assert (state["step"], notes) == (6, [])


def test_a_score_that_is_no_number_is_never_the_best():
    assert best([1, 2, 3], {1: math.nan, 2: 5.0, 3: 4.0}, 2) == [3, 2]


def test_a_damaged_checkpoint_is_passed_over(tmp_path):
    kept = Checkpoints(tmp_path, Keep(last=3))
    for step in (1, 2):
        kept.write({"step": step, "scores": {}})
    kept.path(2).write_bytes(kept.path(2).read_bytes()[:100])
    state, notes = kept.newest()
    assert state["step"] == 1
    assert "damaged" in notes[0]
    kept.path(1).write_bytes(b"")
    with pytest.raises(CheckpointError, match="damaged"):
        kept.newest()


def test_the_journal_is_cut_back_to_the_checkpoint(tmp_path):
    path = tmp_path / "losses.jsonl"
    journal = Journal(path, 0)
    for step in range(1, 6):
        journal.write({"step": step})
    journal.close()
    path.write_bytes(path.read_bytes() + b'{"step": 6, "lo')  # torn by a kill
    journal = Journal(path, 3)
    journal.write({"step": 4})
    journal.close()
    assert path.read_text() == '{"step": 1}\n{"step": 2}\n{"step": 3}\n{"step": 4}\n'


def test_a_run_is_locked_against_others(tmp_path):
    code = "import fcntl, sys; f = open(sys.argv[1], 'a'); fcntl.lockf(f, fcntl.LOCK_EX); "
    code += "print('locked', flush=True); input()"
    command = [sys.executable, "-c", code, tmp_path / "lock"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout.readline() == b"locked\n"
        assert lock(tmp_path / "lock") is None
        other.communicate(b"\n")
    file = lock(tmp_path / "lock")
    assert file is not None
    file.close()


def test_where_there_are_no_locks_one_does_without(monkeypatch, tmp_path):
    def not_implemented(*_):
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr("fcntl.lockf", not_implemented)
    file = lock(tmp_path / "lock")
    assert file is not None
    file.close()


# ---- clips to train and to validate on


@pytest.fixture
def catalogue(tmp_path):
    """An index of 40 clips in four classes, sorted by class, as a folder of folders is."""
    (tmp_path / "clip.mp4").touch()
    clips = [
        Clip("clip.mp4", name, None, None, 2.0, 25.0, 32, 32, True, 16_000, n, None, None)
        for n, name in enumerate(sorted("abcd" * 10))
    ]
    place = Place.of(tmp_path / "index.parquet")
    Index.of(Place.of(tmp_path), clips).write(place)
    return str(place)


def test_clips_are_trained_on_or_held_out(settings, catalogue):
    split = Split.of(catalogue, None, replace(settings, data=Data(held_out=0.25)))
    sizes = [set(index.table.column("size").to_pylist()) for index in (split.train, split.held)]
    assert list(map(len, sizes)) == [30, 10]
    assert set.union(*sizes) == set(range(40))
    other = Split.of(catalogue, None, replace(settings, data=Data(held_out=0.5)))
    assert other.identity != split.identity


def test_the_first_clips_to_validate_on_stand_for_all(settings, catalogue):
    """Only so many are looked at, and an index is mostly sorted by class."""
    split = Split.of(catalogue, None, replace(settings, data=Data(validation=catalogue)))
    assert len(split.train) == len(split.held) == 40
    assert len(set(split.held.table.column("label").to_pylist()[:12])) == 4


# ---- the model to begin with


def test_fine_tuning_keeps_what_fits(settings, config, tmp_path):
    """Other classes, half the frames, another size and rate: only what is about classes is new."""
    given = tiny(config, seed=5)
    save_module(given, tmp_path / "given")
    changes = {
        "modalities": {
            "image": {"shape": [2, 32, 24]},
            "audio": {"shape": [2560], "rate": 32_000},
        }
    }
    model = replace(settings.model, start=str(tmp_path / "given"), config=changes)
    start = Declared.by(replace(settings, model=model)).begin(("x", "y", "z", "u"))
    ours, theirs = start.module.config, config
    assert ours.modalities["image"].shape == (2, 32, 24)
    assert ours.modalities["label"].names == ("x", "y", "z", "u")
    assert ours.input_channels == theirs.input_channels
    assert ours.query_channels == theirs.query_channels
    before = dict(given.named_parameters())
    anew = {each.name for each in start.anew}
    for name, parameter in start.module.named_parameters():
        if name not in anew:
            assert torch.equal(parameter, before[name]), name
    assert anew == {
        "modalities.label.output.weight", "modalities.label.output.bias",
        "modalities.label.padding", "modalities.label.mask_token",
    }  # fmt: skip
    assert start.kept + len(anew) == len(before)
    outputs = start.module.reconstruct(random_inputs(ours, 1))
    assert outputs["label"].shape == (1, 4)


def test_a_new_modality_begins_anew_and_one_can_be_left_out(settings, config, tmp_path):
    save_module(tiny(config), tmp_path / "given")
    depth = {
        "shape": [4, 16, 24], "channels": 1, "patch": [2, 8, 8], "output_patch": [2, 4, 4],
        "bands": 3, "resolution": [2, 2, 3], "embed": 8, "channel_axis": 1,
        "media": "video", "rate": 25, "beside": "{stem}.depth.mp4",
    }  # fmt: skip
    changes = {"modalities": {"audio": False, "depth": depth}}
    model = replace(settings.model, start=str(tmp_path / "given"), config=changes)
    start = Declared.by(replace(settings, model=model)).begin(())
    assert list(start.module.config.modalities) == ["depth", "image", "label"]
    assert {each.name.split(".")[1] for each in start.anew} == {"depth"}
    assert all("new modality" in each.why for each in start.anew)
    objectives = objectives_of(replace(settings, model=model), start.module.config)
    assert set(objectives) == {"depth", "image", "label"}


def test_classes_of_the_data_do_not_widen_the_published_model(settings):
    base = read_settings("kinetics-88x", ["model.classes=index"])
    with torch.device("meta"):
        config = Declared.by(base).begin(("a", "b")).module.config
    assert config.modalities["label"].channels == 2
    assert (config.input_channels, config.query_channels) == (704, 1026)
    assert config.compression()["paper"] == pytest.approx(88.0)


# ---- settings


def test_shipped_configurations_say_what_the_paper_says():
    assert shipped() == ["finetune", "kinetics-176x", "kinetics-352x", "kinetics-88x",
                         "kinetics-classify", "small"]  # fmt: skip
    for name, latents in (("88x", 784), ("176x", 392), ("352x", 196), ("classify", 784)):
        found = read_settings(f"kinetics-{name}")
        assert preset(found.model.preset).latents == latents
        assert found.run.batch == 1024
        assert (found.optimiser.name, found.optimiser.rate) == ("lamb", 1e-3)
        objectives = found.modalities
        assert [objectives[m].weight for m in ("image", "audio")] == [0.03, 1.0]
        assert objectives["label"].weight == (1.0 if name == "classify" else 1e-4)
        assert objectives["label"].mask == 0.5
        assert [objectives[m].points for m in ("image", "audio")] == [512, 512]
        assert [objectives[m].loss for m in ("image", "audio")] == ["l1", "l1"]


def test_the_example_in_the_docs_is_a_model(tmp_path):
    page = (Path(__file__).parent.parent / "docs" / "training.md").read_text()
    (tmp_path / "mine.toml").write_text(page.split("```toml\n")[1].split("```")[0])
    found = Declared.by(read_settings(tmp_path / "mine.toml")).config
    assert list(found.modalities) == ["image", "label"]
    assert (found.latents, found.modalities["image"].shape) == (64, (8, 32, 32))
    for group in dataclasses.fields(read_settings(None)):  # and the page names every setting
        if dataclasses.is_dataclass(getattr(read_settings(None), group.name)):
            for field in dataclasses.fields(getattr(read_settings(None), group.name)):
                assert f"`{field.name}`" in page or f"{group.name}.{field.name}" in page


def test_changes_are_told_and_free_ones_are_not(settings):
    before = settings.to_dict()
    after = read_settings(None).to_dict()
    assert differences(before, before) == []
    changed = replace(settings, run=replace(settings.run, seed=1, at_once=1)).to_dict()
    assert differences(before, changed) == ["run.seed = 0, now 1"]
    assert any("model.preset" in told for told in differences(before, after))


def test_a_setting_on_the_command_line_is_over_the_files(tmp_path):
    found = read_settings(
        make_config(tmp_path, TINY),
        ["optimiser.betas=[0.5, 0.6]", "model.start=some/where", "modalities.image.weight=2"],
    )
    assert found.optimiser.betas == (0.5, 0.6)
    assert found.model.start == "some/where"
    assert found.modalities["image"] == Objective(weight=2.0, mask=0.2, points=10)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("optimiser.ratee=1", ("optimiser.ratee", "optimiser.rate", "weight_decay")),
        ("optimiser.rate=0", ("optimiser.rate", "above 0")),
        ("optimiser.rate=fast", ("optimiser.rate", "a number", "fast")),
        ("optimiser.name=sgd", ('"lamb" or "adamw"', "sgd")),
        ("run.batch=1.5", ("run.batch", "whole number")),
        ("run.compile=1", ("run.compile", "true or false")),
        ("run.ema=nan", ("run.ema", "below 1")),
        ("data.area=[0.5]", ("data.area", "a list of 2")),
        ("data.area=[0.9, 0.1]", ("data.area", "low <= high")),
        ("model.preset=bass", ("model.preset", "base, base-176x", "small")),
        ("modalities.image.mask=2", ("modalities.image.mask", "at most 1")),
        ("modalities.image.los=l1", ("modalities.image.los", "modalities.image.loss")),
        ("optimiser=3", ("optimiser", "table of settings")),
        ("rate", ("NAME=VALUE",)),
    ],
)
def test_a_wrong_setting_is_named_with_what_is_allowed(change, words):
    with pytest.raises(PerceivioError) as caught:
        read_settings("small", [change])
    assert all(word in str(caught.value) for word in words), str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("model.config.latentss=3", ("model.config.latentss", "latents")),
        ("model.config.modalities.image.bands=-1", ("model",)),
        ("modalities.smell.weight=1", ("smell", "audio, image, label")),
        ("modalities={image={mask=1.0}, audio={mask=1.0}}", ("mask = 1", "below 1")),
        ("model.start=no/such", ("no/such",)),
    ],
)
def test_settings_that_do_not_fit_the_model_are_named(settings, change, words):
    with pytest.raises(PerceivioError) as caught:
        Declared.by(read_settings("small", [change]))
    assert all(word in str(caught.value) for word in words), str(caught.value)
