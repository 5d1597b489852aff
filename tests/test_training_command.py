"""`perceivio train` and everything that can be wrong: one clear line, nothing lost."""

import json
import resource
import shutil
import subprocess
import sys
from collections import namedtuple
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from data_files import command as perceivio
from training_runs import TINY, command, finish, losses, make_config, make_data, options

from perceivio.data.dataset import ClipDataset
from perceivio.errors import PerceivioError
from perceivio.training.checkpoints import Checkpoints
from perceivio.training.loop import train
from perceivio.training.settings import read_settings

SHORT = ("schedule.steps=4", "keep.every=2", "watch.validate=100")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_data(tmp_path_factory.mktemp("data"))


@pytest.fixture
def config(tmp_path):
    return make_config(tmp_path)


def fails_in_one_line(result, *words):
    assert result.returncode == 2, result.stderr
    lines = result.stderr.strip().splitlines()
    assert lines[-1].startswith("perceivio: ")
    assert "Traceback" not in result.stderr
    for word in words:
        assert word in lines[-1], lines[-1]


def whole(run):
    """Every checkpoint that bears its name can be read."""
    kept = Checkpoints(run / "checkpoints", read_settings(None).keep)
    return [kept.read(step)["step"] for step in kept.steps()]


def test_help_has_an_example_and_loads_nothing_heavy(capsys):
    result = perceivio(capsys, "train", "--help")
    assert "Example: perceivio train" in result.stdout
    code = (
        "import sys; from perceivio.cli import app\n"
        "app(['train', '--help'], result_action='return_value')\n"
        "heavy = {'torch', 'numpy', 'accelerate', 'pyarrow', 'tensorboard', 'av'}\n"
        "print('HEAVY', sorted(heavy & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "HEAVY []" in result.stdout


def test_it_trains_and_says_what_it_wrote(capsys, data, config, tmp_path):
    run = tmp_path / "run"
    result = perceivio(capsys, "train", data, "-o", run, "-c", config, "--json", *options(SHORT))
    assert result.returncode == 0, result.stderr
    told = json.loads(result.stdout)
    assert told["step"] == 4
    assert told["written"] == str(run / "model")
    assert told["validation"]["image_psnr"] > 0
    # The same command again has nothing left to do, and changes nothing.
    before = (run / "losses.jsonl").read_bytes()
    result = perceivio(capsys, "train", data, "-o", run, "-c", config, *options(SHORT))
    assert result.returncode == 0
    assert (run / "losses.jsonl").read_bytes() == before


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("optimiser.ratee=1", ("optimiser.ratee", "weight_decay")),
        ("optimiser.name=sgd", ("lamb", "adamw")),
        ("modalities.smell.weight=1", ("smell", "audio, image, label")),
        ("model.config.latents=0", ("latents",)),
    ],
)
def test_a_wrong_setting_is_told_before_data_is_read(capsys, config, tmp_path, change, words):
    run = tmp_path / "run"
    result = perceivio(capsys, "train", "no/such.parquet", "-o", run, "-c", config, "--set", change)
    fails_in_one_line(result, *words)
    assert not run.exists()


def test_an_unknown_configuration_is_told_with_those_there_are(capsys, tmp_path):
    result = perceivio(capsys, "train", "x", "-o", tmp_path / "run", "-c", "kinetics")
    fails_in_one_line(result, "kinetics-88x", "finetune")


def test_an_index_that_is_not_there_or_whose_clips_moved(capsys, data, config, tmp_path):
    run = tmp_path / "run"
    result = perceivio(capsys, "train", tmp_path / "no.parquet", "-o", run, "-c", config)
    fails_in_one_line(result, "no.parquet", "no such index")
    alone = tmp_path / "moved" / "videos.parquet"
    alone.parent.mkdir()
    shutil.copy(data, alone)
    result = perceivio(capsys, "train", alone, "-o", run, "-c", config)
    fails_in_one_line(result, ".mp4 is not there", "--root")
    there = ("--root", data.parent / "videos", *options(SHORT))
    assert perceivio(capsys, "train", alone, "-o", run, "-c", config, *there).returncode == 0


def test_labels_that_the_model_does_not_have(capsys, data, config, tmp_path):
    result = perceivio(
        capsys, "train", data, "-o", tmp_path / "run", "-c", config, "--set", "model.classes=model"
    )
    fails_in_one_line(result, "2 labels", "'a'", "model.classes=index")


def test_a_run_of_other_settings_or_clips_is_not_gone_on_with(capsys, data, config, tmp_path):
    run = tmp_path / "run"
    arguments = ("train", data, "-o", run, "-c", config)
    assert perceivio(capsys, *arguments, *options(SHORT)).returncode == 0
    before = (run / "losses.jsonl").read_bytes()
    other = options([*SHORT, "optimiser.rate=0.5"])
    fails_in_one_line(perceivio(capsys, *arguments, *other), "optimiser.rate = 0.01, now 0.5")
    others = make_data(tmp_path / "others", ("a", "b"), 2)
    result = perceivio(capsys, "train", others, *arguments[2:], *options(SHORT))
    fails_in_one_line(result, "other clips", "--other-settings")
    assert (run / "losses.jsonl").read_bytes() == before
    more = options([*SHORT, "schedule.steps=6"])
    assert perceivio(capsys, *arguments, *more, "--other-settings").returncode == 0
    assert len(losses(run)) == 6


def test_a_folder_that_is_no_run(capsys, data, config, tmp_path):
    folder = tmp_path / "holidays"
    folder.mkdir()
    (folder / "a.txt").write_text("mine")
    result = perceivio(capsys, "train", data, "-o", folder, "-c", config)
    fails_in_one_line(result, "holidays", "no run")
    assert [path.name for path in folder.iterdir()] == ["a.txt"]
    fails_in_one_line(perceivio(capsys, "train", data, "-o", data, "-c", config), "is a file")
    below, long = data / "run", tmp_path / ("x" * 300)
    for run, word in ((below, "cannot be written"), (long, "name too long")):
        fails_in_one_line(perceivio(capsys, "train", data, "-o", run, "-c", config), word)


def test_no_free_space_is_told_at_once(capsys, monkeypatch, data, config, tmp_path):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10**9, 10**9, 1000))
    result = perceivio(capsys, "train", data, "-o", tmp_path / "run", "-c", config)
    fails_in_one_line(result, "MB are free")


def test_a_full_disk_leaves_the_last_checkpoint_whole(monkeypatch, data, config, tmp_path):
    """The file system refuses to let a file grow, in the middle of the second checkpoint."""
    run = tmp_path / "run"
    settings = read_settings(config, ["schedule.steps=6", "keep.every=2", "watch.validate=100"])
    write, limits = Checkpoints.write, resource.getrlimit(resource.RLIMIT_FSIZE)

    def write_in_little_space(self, state):
        if state["step"] == 4:
            resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, limits[1]))
        try:
            return write(self, state)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "write", write_in_little_space)
        with pytest.raises(PerceivioError, match=r"cannot write .*000000004.*too large.*step 2"):
            train(data, run, settings)
    assert whole(run) == [2]
    assert not list((run / "checkpoints").glob("*.part"))
    train(data, run, settings)
    assert [line["step"] for line in losses(run)] == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("what", ["losses", "board"])
def test_a_full_disk_is_told_whatever_is_written(monkeypatch, data, config, tmp_path, what):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    run = tmp_path / "run"
    if what == "board":
        monkeypatch.setattr("torch.utils.tensorboard.SummaryWriter.add_scalar", full)
    else:
        of_the_journal = SimpleNamespace(dumps=full, loads=json.loads)
        monkeypatch.setattr("perceivio.training.journal.json", of_the_journal)
    with pytest.raises(PerceivioError, match=f"cannot write .*{what}.*no space left"):
        train(data, run, read_settings(config, SHORT))


def test_a_loss_that_is_not_finite_names_its_clip(monkeypatch, data, config, tmp_path):
    """One clip, from some epoch on, is poison; the weights must not be touched by it."""
    run = tmp_path / "run"
    example = ClipDataset.__getitem__

    def poisoned(self, key):
        found = example(self, key)
        if self.augment is not None and key[0] >= 2 and key[1] == 3:
            found["audio"] = found["audio"] * float("nan")
        return found

    monkeypatch.setattr(ClipDataset, "__getitem__", poisoned)
    changes = ["schedule.steps=20", "keep.every=1", "watch.validate=100", "modalities.audio.mask=0"]
    with pytest.raises(PerceivioError) as caught:
        train(data, run, read_settings(config, changes))
    told = str(caught.value)
    assert "(row 3)" in told
    assert "not finite" in told
    steps = len(losses(run))
    assert f"step {steps + 1}:" in told
    assert whole(run)[-1] == steps >= 2  # after two epochs of five clips
    stopped = json.loads((run / "stopped.json").read_text())
    assert stopped["not_finite"] == [3]
    assert 3 in stopped["rows"]
    assert len(stopped["rows"]) > 1
    state = torch.load(run / "checkpoints" / f"{steps:09d}.pt", weights_only=True)
    assert all(bool(value.isfinite().all()) for value in state["module"].values())


def test_weights_that_fly_apart_stop_the_run(capsys, data, config, tmp_path):
    run = tmp_path / "run"
    changes = ("optimiser.name=adamw", "optimiser.rate=1e30", "keep.every=1")
    result = perceivio(capsys, "train", data, "-o", run, "-c", config, *options(changes))
    fails_in_one_line(result, "not finite", "last good checkpoint")
    assert whole(run)


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (("--set", "run.batch=3"), ("run.batch = 3", "multiple of 2")),
        (("--set", "run.batchh=3"), ("no setting run.batchh",)),
        (("--device", "abacus"), ("cpu or cuda", "abacus")),
    ],
)
def test_two_processes_tell_a_mistake_once(data, config, tmp_path, more, words):
    out = finish(command(data, tmp_path / "run", config, more=more, processes=2), code=1)
    (ours,) = [line for line in out.splitlines() if line.startswith("perceivio: ")]
    assert all(word in ours for word in words)


def test_what_only_one_process_misses_is_told(data, config, tmp_path):
    """As on a node that does not see the clips."""
    elsewhere, program = tmp_path / "elsewhere", tmp_path / "program.py"
    elsewhere.mkdir()
    program.write_text(
        "import os, sys\n"
        "from perceivio.cli import main\n"
        f"os.chdir([{str(data.parent)!r}, {str(elsewhere)!r}][int(os.environ['RANK'])])\n"
        "main(sys.argv[1:])\n"
    )
    process = command(data.name, tmp_path / "r", config, processes=2, program=(str(program),))
    out = finish(process, code=1)
    (ours,) = [line for line in out.splitlines() if line.startswith("perceivio: ")]
    assert "no such index" in ours
    assert "perceivio/" not in out  # no traceback through our files


def test_a_model_without_classes_learns_from_labelled_clips(capsys, data, config, tmp_path):
    changes = options([*SHORT, "model.config.modalities.label=false"])
    result = perceivio(capsys, "train", data, "-o", tmp_path / "run", "-c", config, *changes)
    assert result.returncode == 0, result.stderr
    assert "label" not in losses(tmp_path / "run")[0]


def test_one_clip_at_least_is_trained_on(data, config, tmp_path):
    few = make_data(tmp_path / "few", ("a",), 2)
    train(few, tmp_path / "run", read_settings(config, [*SHORT, "data.held_out=0.9"]))
    assert len(losses(tmp_path / "run")) == 4


def test_fine_tuning_on_other_classes(capsys, data, config, tmp_path):
    """A run, then another from its weights on clips of other classes; both load."""
    first, second = tmp_path / "first", tmp_path / "second"
    train(data, first, read_settings(config, SHORT))
    others = make_data(tmp_path / "others", ("x", "y", "z"), 2)
    text = TINY[: TINY.index("[model.config]")].replace('preset = "small"', "")
    text += f'start = "{first / "model"}"\n' + TINY[TINY.index("[modalities]") :]
    tuned = tmp_path / "tuned.toml"
    tuned.write_text(text)
    result = perceivio(capsys, "train", others, "-o", second, "-c", tuned, *options(SHORT))
    assert result.returncode == 0, result.stderr
    assert "begins anew: modalities.label.output.weight: other classes: 2 then, 3 now" in (
        " ".join(result.stderr.split())
    )
    config = json.loads((second / "model" / "config.json").read_text())["config"]
    assert config["modalities"]["label"]["names"] == ["x", "y", "z"]


def test_all_settings_can_be_shown(capsys):
    result = perceivio(capsys, "train", "x", "-o", "y", "-c", "small", "--show", "--json")
    assert json.loads(result.stdout) == read_settings("small").to_dict()
    assert not Path("y").exists()
