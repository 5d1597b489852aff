"""What `make test` shows of a few accidents of a training run, for many of them: `make test-long`.

Prints what happened (`pytest -s`); docs/reliability.md has the last figures.
"""

import os
import random
import re
import signal
import subprocess
import time
from collections import Counter
from pathlib import Path

import pytest
from training_runs import TINY, command, finish, losses, make_config, make_data

KILLS, IN_A_CHECKPOINT = 20, 2
STEPS = 200  # so many kills do not reach its end: between two, a few steps get done
LONG = (f"schedule.steps={STEPS}", "keep.every=5", "watch.validate=100", "watch.every=50")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    return make_config(tmp_path_factory.mktemp("config"))


@pytest.fixture(scope="module")
def whole(data, config, tmp_path_factory):
    """The losses of the run that nothing disturbed."""
    run = tmp_path_factory.mktemp("whole") / "run"
    finish(command(data, run, config, *LONG), within=600)
    return (run / "losses.jsonl").read_bytes()


def size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def written(lines: Path) -> int:
    return lines.read_bytes().count(b"\n") if lines.exists() else 0


def wait(process: subprocess.Popen[str], happened, within: float = 120) -> None:
    """Until it has happened, looked at as often as can be."""
    deadline = time.monotonic() + within
    while not happened():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.0002)


def kill(process: subprocess.Popen[str]) -> None:
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate(timeout=120)
    assert process.returncode == -signal.SIGKILL


def test_many_kills_lose_nothing(data, config, whole, tmp_path):
    run, seed = tmp_path / "run", random.randrange(10**6)
    print(f"\nseed {seed}")
    draw = random.Random(seed)
    lines, checkpoints = run / "losses.jsonl", run / "checkpoints"
    found: Counter[str] = Counter()
    while found.total() < KILLS or found["in a checkpoint"] < IN_A_CHECKPOINT:
        assert found.total() < 3 * KILLS, found
        process = command(data, run, config, *LONG)
        if found.total() > 4 and found["in a checkpoint"] < IN_A_CHECKPOINT:
            wait(process, lambda: any(checkpoints.glob("*.part")))
        elif draw.random() < 0.25:
            time.sleep(draw.uniform(0, 4))  # also before it has begun
        else:
            further = written(lines) + draw.randint(1, 7)
            wait(process, lambda n=further: written(lines) >= n)
            time.sleep(draw.uniform(0, 0.2))
        kill(process)
        left = any(checkpoints.glob("*.part"))
        found["in a checkpoint" if left else "elsewhere"] += 1
    done = len(losses(run))
    assert 20 < done < STEPS
    finish(command(data, run, config, *LONG), within=600)
    print(f"{found.total()} kills {dict(found)}, the last after {done} of {STEPS} steps")
    assert lines.read_bytes() == whole
    assert not list(checkpoints.glob("*.part"))


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 12 MB. Needs to be root, as in a container."""
    place = tmp_path / "disk"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=12m", "tmpfs", str(place)], check=True)
    yield place
    subprocess.run(["umount", str(place)], check=True)


def test_a_disk_that_fills_up(data, config, whole, small_disk):
    run = small_disk / "run"
    process = command(data, run, config, *LONG)
    checkpoints = run / "checkpoints"
    wait(process, lambda: any(checkpoints.glob("*.pt")))
    # Another program takes what is left, also what the run frees, until the run has ended.
    filler, out = small_disk / "filler", ""
    with filler.open("wb", buffering=0) as file:
        while process.poll() is None:
            try:
                file.write(bytes(4096))
            except OSError:
                time.sleep(0.001)
    out = process.communicate()[0]
    assert process.returncode == 2, out
    assert "Traceback" not in out
    told = [line for line in out.splitlines() if line.startswith("perceivio: ")]
    assert len(told) == 1, out
    assert re.search(r"cannot write .*no space left", told[0], re.IGNORECASE)
    print(f"\n{told[0]}")
    assert list(checkpoints.glob("*.pt"))
    assert not list(run.rglob("*.part"))
    filler.unlink()
    finish(command(data, run, config, *LONG), within=600)
    assert (run / "losses.jsonl").read_bytes() == whole


def readers(process: int) -> list[int]:
    """The processes that it has started to read clips."""
    found: list[int] = []
    for children in Path(f"/proc/{process}/task").glob("*/children"):
        found += map(int, children.read_text().split())
    return [number for number in found if b"train" in Path(f"/proc/{number}/cmdline").read_bytes()]


def test_a_process_that_reads_clips_is_killed(data, config, whole, tmp_path):
    run = tmp_path / "run"
    for _ in range(3):
        process = command(data, run, config, *LONG, "data.workers=2")
        before = size(run / "losses.jsonl")
        wait(process, lambda before=before: size(run / "losses.jsonl") > before)
        os.kill(random.choice(readers(process.pid)), signal.SIGKILL)
        out = finish(process, code=2)
        assert "Traceback" not in out
        assert out.splitlines()[-1].startswith("perceivio: a process that reads clips has died")
    print(f"\n{out.splitlines()[-1]}")
    finish(command(data, run, config, *LONG), within=600)
    assert (run / "losses.jsonl").read_bytes() == whole


def test_a_clip_that_vanishes_is_left_out_and_counted(tmp_path):
    """Of many clips: the window that would show it shows another, and the run goes on."""
    data = make_data(tmp_path, each=6)
    config = make_config(tmp_path, re.sub("every = 2", "every = 1", TINY))
    run, gone = tmp_path / "run", sorted((tmp_path / "videos").glob("*/*.mp4"))[4]
    process = command(data, run, config, "schedule.steps=60", "watch.validate=1000")
    wait(process, lambda: size(run / "losses.jsonl"))
    gone.unlink()
    out = finish(process, within=600)
    told = [line for line in out.splitlines() if "clip left out" in line]
    assert told
    assert all(gone.name in line for line in told)
    counted = sum(line["failures"] for line in losses(run))
    print(f"\n{counted} times counted, {len(told)} times told")
    assert 0 < counted <= len(told)  # the last validation tells of it too
    assert [line["step"] for line in losses(run)] == list(range(1, 61))
