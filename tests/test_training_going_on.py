"""A run that goes on: with other settings, on another machine, after a kill at the worst moment."""

import os
import signal

import pytest
import torch
from data_files import command as perceivio
from safetensors.torch import load_file
from training_runs import command, finish, losses, make_config, make_data, options

from perceivio import weights
from perceivio.data.dataset import ClipDataset
from perceivio.training.loop import train
from perceivio.training.settings import read_settings

SHORT = ("schedule.steps=4", "keep.every=2", "watch.validate=100")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_data(tmp_path_factory.mktemp("data"))


@pytest.fixture
def config(tmp_path):
    return make_config(tmp_path)


def newest(run):
    return torch.load(sorted((run / "checkpoints").iterdir())[-1], weights_only=True)


def test_a_kill_between_checkpoint_and_model_leaves_the_model_of_the_run(
    monkeypatch, data, config, tmp_path
):
    """At whichever of the files that a save writes the run ends, going on makes all of them."""
    settings = read_settings(config, SHORT)
    whole = tmp_path / "whole"
    train(data, whole, settings)
    wanted = load_file(whole / "model" / "model.safetensors")
    save = weights.save_module
    for last in range(5):  # model at step 2; model and best at step 4
        run, calls = tmp_path / str(last), iter(range(9))

        def save_or_end(*a, last=last, calls=calls, **k):
            if next(calls) == last:
                raise KeyboardInterrupt
            return save(*a, **k)

        with monkeypatch.context() as patch:
            patch.setattr(weights, "save_module", save_or_end)
            try:
                train(data, run, settings)
            except KeyboardInterrupt:
                train(data, run, settings)
        for folder in ("model", "best"):
            found = load_file(run / folder / "model.safetensors")
            assert all(torch.equal(found[name], wanted[name]) for name in wanted), (last, folder)


def test_what_a_kill_left_half_written_is_removed(data, config, tmp_path):
    run = tmp_path / "run"
    train(data, run, read_settings(config, SHORT))
    for name in (".model.x1.part", ".best.x2.part"):
        (run / name).mkdir()
        (run / name / "model.safetensors").write_bytes(b"half")
    train(data, run, read_settings(config, SHORT))
    assert not list(run.glob(".*"))


def test_new_settings_of_the_optimiser_have_an_effect(data, config, tmp_path):
    run = tmp_path / "run"
    train(data, run, read_settings(config, SHORT))
    changes = (*SHORT[1:], "schedule.steps=6", "optimiser.weight_decay=0.5",
               "optimiser.betas=[0.5, 0.6]")  # fmt: skip
    train(data, run, read_settings(config, changes), other_settings=True)
    state = newest(run)
    assert state["step"] == 6
    for group in state["optimiser"]["param_groups"]:
        assert group["weight_decay"] == 0.5
        assert tuple(group["betas"]) == (0.5, 0.6)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("model.config.latents=12", ("model.config.latents = 8, now 12", "model.start")),
        ("optimiser.name=adamw", ('optimiser.name = "lamb", now "adamw"', "model.start")),
        ("schedule.steps=3", ("schedule.steps = 3", "4 steps")),
    ],
)
def test_what_cannot_change_in_a_run_is_told(capsys, data, config, tmp_path, change, words):
    run = tmp_path / "run"
    train(data, run, read_settings(config, SHORT))
    before = (run / "losses.jsonl").read_bytes()
    arguments = ("train", data, "-o", run, "-c", config, *options([*SHORT, change]))
    result = perceivio(capsys, *arguments, "--other-settings")
    assert result.returncode == 2, result.stderr
    assert "Traceback" not in result.stderr
    for word in words:
        assert word in result.stderr
    assert (run / "losses.jsonl").read_bytes() == before


def test_other_threads_and_processes_are_told(data, config, tmp_path):
    """Losses will differ in the last digits; that is told, in one line, and no more."""
    run = tmp_path / "run"
    finish(command(data, run, config, *SHORT))
    assert "differ" not in finish(command(data, run, config, *SHORT))
    for threads, processes, words in (
        (2, 1, "1 process of 2 threads on cpu"),
        (1, 2, "2 processes of 1 thread on cpu"),
    ):
        out = finish(command(data, run, config, *SHORT, processes=processes, threads=threads))
        (note,) = [line for line in out.splitlines() if "differ" in line]
        assert "1 process of 1 thread on cpu until here" in note
        assert words in note
        assert ("points" in note) == (processes == 2)
    assert len(losses(run)) == 4


def test_a_signal_while_validating_ends_with_a_checkpoint(monkeypatch, data, config, tmp_path):
    """It is sent to all processes of a terminal or job; those that read must not end before the
    one that they read for."""
    example = ClipDataset.__getitem__

    def signalled(self, key):
        if self.augment is None and torch.utils.data.get_worker_info():
            os.kill(os.getpid(), signal.SIGTERM)
            os.kill(os.getpid(), signal.SIGINT)
        return example(self, key)

    monkeypatch.setattr(ClipDataset, "__getitem__", signalled)
    settings = read_settings(config, [*SHORT, "data.workers=1"])
    assert train(data, tmp_path / "run", settings).step == 4


BROKEN = """
from perceivio.cli import main
from perceivio.data.dataset import ClipDataset
from perceivio.errors import PerceivioError

example = ClipDataset.__getitem__

def broken(self, key):
    if self.augment is None:
        raise PerceivioError("ten clips in a row cannot be read")
    return example(self, key)

ClipDataset.__getitem__ = broken
main()
"""


def test_validation_that_cannot_read_is_one_line_and_an_end(data, config, tmp_path):
    """Processes that read clips to train on are alive then, and must not be waited for."""
    program = tmp_path / "broken.py"
    program.write_text(BROKEN)
    changes = ("data.workers=1", "schedule.steps=20", "watch.validate=2")
    out = finish(command(data, tmp_path / "r", config, *changes, program=(str(program),)), code=2)
    assert out.splitlines()[-1] == "perceivio: ten clips in a row cannot be read"
    assert "Traceback" not in out
