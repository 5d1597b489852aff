"""Evaluations in processes of their own: killed with SIGKILL they go on, and end the same."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
from evaluations import make, model

FILES = 12


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("killed")
    for number in range(FILES):
        make(folder / "clips" / "ant" / f"{number:02}.mkv", 12, 50 * number)
    model().save(folder / "weights")
    return folder


def begin(place, output) -> subprocess.Popen:
    command = [sys.executable, "-m", "perceivio.cli", "evaluate", "weights", "clips", "-o", output]
    return subprocess.Popen(command, cwd=place, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                            env={**os.environ, "OMP_NUM_THREADS": "1"})  # fmt: skip


def lines(path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


def test_killed_and_run_again_it_ends_with_the_same_bytes(place):
    whole = begin(place, "whole")
    assert whole.communicate()[1] == b""
    assert whole.returncode == 0
    killed = begin(place, "killed")
    journal = place / "killed" / "journal.jsonl"
    while lines(journal) < 4:
        assert killed.poll() is None
        time.sleep(0.002)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    assert killed.returncode == -signal.SIGKILL
    done = lines(journal) - 1
    assert 3 <= done < FILES
    assert not (place / "killed" / "evaluation.json").exists()
    with journal.open("ab") as file:  # what a kill in the middle of a line leaves
        file.write(b'{"name": "clips/ant/')
    again = begin(place, "killed")
    assert again.communicate()[1] == b""
    assert again.returncode == 0
    for name in ("evaluation.json", "files.csv", "report.html", "journal.jsonl"):
        found, wanted = (place / each / name for each in ("killed", "whole"))
        assert found.read_bytes() == wanted.read_bytes(), name
    told = json.loads((place / "killed" / "evaluation.json").read_text())
    assert told["files"] == FILES
    assert told["figures"]["H.264 + Opus"]["audio_snr"]["files"] == FILES
