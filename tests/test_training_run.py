"""Real runs, killed and stopped: nothing is lost, and what comes out can be used."""

import os
import random
import re
import signal
import time

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from training_runs import TINY, command, finish, losses, make_config, make_data

import perceivio
from perceivio.data.catalogue import Index
from perceivio.data.dataset import ClipDataset
from perceivio.pipeline import clip_format
from perceivio.training.loop import train
from perceivio.training.settings import read_settings

STEPS = 20


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    return make_config(tmp_path_factory.mktemp("config"))


@pytest.fixture(scope="module")
def whole(data, config, tmp_path_factory):
    """A run that nothing disturbed."""
    run = tmp_path_factory.mktemp("whole") / "run"
    out = finish(command(data, run, config, "data.workers=1"))
    return run, out


def end_at_random(process, run, how, others=True, within=0.6):
    """Send a signal at any moment in so many seconds after the first step."""
    lines = run / "losses.jsonl"
    before = len(lines.read_bytes()) if lines.exists() else 0
    deadline = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < deadline:
        if lines.exists() and len(lines.read_bytes()) not in (0, before):
            break
        time.sleep(0.002)
    time.sleep(random.uniform(0, within))
    if process.poll() is None:
        (os.killpg if others else os.kill)(process.pid, how)
    process.communicate(timeout=120)
    return process.returncode


def same_weights(one, other):
    ours, theirs = (load_file(run / "model" / "model.safetensors") for run in (one, other))
    assert ours.keys() == theirs.keys()
    return all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_a_run_that_is_killed_loses_nothing(data, config, whole, tmp_path):
    run = tmp_path / "run"
    for _ in range(2):
        assert end_at_random(command(data, run, config), run, signal.SIGKILL) in (-9, 0)
    finish(command(data, run, config))
    assert (run / "losses.jsonl").read_bytes() == (whole[0] / "losses.jsonl").read_bytes()
    assert [line["step"] for line in losses(run)] == list(range(1, STEPS + 1))
    assert same_weights(run, whole[0])
    # The board tells each point once, although steps were done twice.
    board = EventAccumulator(str(run / "board"))
    board.Reload()
    points = [event.step for event in board.Scalars("loss/image")]
    assert points == list(range(2, STEPS + 1, 2))


def test_two_processes_that_are_killed_lose_nothing(data, tmp_path):
    text = re.sub(r"points = \d+", "points = 0", TINY).replace("steps = 20", "steps = 10")
    config = make_config(tmp_path, text)
    runs = [tmp_path / name for name in ("whole", "killed", "alone")]
    finish(command(data, runs[0], config, processes=2))
    end_at_random(command(data, runs[1], config, processes=2), runs[1], signal.SIGKILL)
    finish(command(data, runs[1], config, processes=2))
    assert (runs[1] / "losses.jsonl").read_bytes() == (runs[0] / "losses.jsonl").read_bytes()
    assert same_weights(*runs[:2])
    # And two processes learn what one does, up to rounding.
    train(data, runs[2], read_settings(config))
    for two, one in zip(losses(runs[0]), losses(runs[2]), strict=True):
        assert two == pytest.approx(one, rel=2e-3)


def test_sigterm_ends_with_a_checkpoint(data, config, whole, tmp_path):
    run = tmp_path / "run"
    process = command(data, run, config, "keep.every=1000", "watch.validate=1000")
    code = end_at_random(process, run, signal.SIGTERM, others=False, within=0.05)
    assert code == 128 + signal.SIGTERM
    done = len(losses(run))
    assert [int(path.stem) for path in (run / "checkpoints").iterdir()] == [done]
    assert 0 < done < STEPS
    finish(command(data, run, config))
    assert losses(run) == losses(whole[0])


def test_what_comes_out_is_a_model(data, whole, tmp_path):
    run, out = whole
    for folder in ("model", "best"):
        model = perceivio.load(run / folder)
        assert model.config.modalities["label"].names == ("a", "b")
    clip = sorted(data.parent.glob("videos/*/*.mp4"))[0]
    report = perceivio.reconstruct(clip, tmp_path / "out.mp4", str(run / "model"))
    assert report.video.psnr > 0
    assert (tmp_path / "out.mp4").exists()
    assert "clips/s" in out
    assert "left" in out
    assert "validation at step 7" in out
    kept = sorted(int(path.stem) for path in (run / "checkpoints").iterdir())
    assert kept[-2:] == [18, 20]
    assert len(kept) <= 3


def test_the_board_shows_the_run(whole):
    run = whole[0]
    board = EventAccumulator(str(run / "board"), size_guidance={"images": 0, "audio": 0})
    board.Reload()
    tags = board.Tags()
    for name in ("loss/loss", "loss/image", "loss/audio", "loss/label", "run/rate",
                 "run/gradient norm", "run/waiting for data", "validation/image_psnr",
                 "validation/audio_psnr", "validation/label_top1"):  # fmt: skip
        assert name in tags["scalars"]
    told = {event.step: event.value for event in board.Scalars("loss/image")}
    for line in losses(run):
        if line["step"] % 2 == 0:
            assert told[line["step"]] == pytest.approx(line["image"])
    waited = [event.value for event in board.Scalars("run/waiting for data")]
    assert all(0 <= share <= 1 for share in waited)
    assert [event.step for event in board.Images("clip 0/picture")] == [7, 14, 20]
    image = board.Images("clip 0/picture")[0]
    assert (image.width, image.height) == (4 * 24, 2 * 16)
    for word in ("original", "reconstruction"):
        assert board.Audio(f"clip 0/sound {word}")[0].sample_rate == 16_000


def test_validation_is_of_whole_clips_with_the_label_masked(data, tmp_path):
    changes = (f"data.validation={data}", "schedule.steps=2", "run.ema=0.5")
    result = train(data, tmp_path / "run", read_settings(make_config(tmp_path), changes))
    model = perceivio.load(result.model)
    clips = ClipDataset(Index.read(data), clip_format(model.config), augment=None)
    psnr, right = {"image": [], "audio": []}, []
    for row in range(len(clips)):
        example = clips[row]
        inputs = {"image": example["image"][None] / 255, "audio": example["audio"][None]}
        outputs = model.module.reconstruct(inputs)
        for name in psnr:
            wanted, got = (v[name].detach().double().numpy() for v in (inputs, outputs))
            psnr[name].append(-10 * np.log10(((wanted - got) ** 2).mean()))
        right.append(int(outputs["label"].argmax()) == example["label"])
    figures = result.scores.figures
    assert figures["image_psnr"] == pytest.approx(np.mean(psnr["image"]), abs=1e-3)
    assert figures["audio_psnr"] == pytest.approx(np.mean(psnr["audio"]), abs=1e-3)
    assert figures["label_top1"] == pytest.approx(np.mean(right))


@pytest.mark.parametrize("at_once", [4, 1])
def test_turns_add_up_to_one_batch(data, tmp_path, at_once):
    config = make_config(tmp_path)
    runs = []
    for clips in (2, at_once):
        runs.append(tmp_path / str(clips))
        changes = (f"run.at_once={clips}", "schedule.steps=5", "run.recompute=true")
        train(data, runs[-1], read_settings(config, changes))
    for one, other in zip(*map(losses, runs), strict=True):
        assert one == pytest.approx(other, rel=2e-3)


def test_a_model_learns(data, tmp_path):
    changes = ("schedule.steps=60", "optimiser.name=adamw", "watch.validate=1000", "keep.every=99")
    run = tmp_path / "run"
    train(data, run, read_settings(make_config(tmp_path), changes))
    told = losses(run)
    first, last = (np.mean([line["image"] for line in part]) for part in (told[:10], told[-10:]))
    assert last < 0.9 * first
