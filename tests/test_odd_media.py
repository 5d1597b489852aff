"""Hundreds of damaged and odd media files: each ends in a right result or in one clear line.

The files and what must come of them are in odd_media.py; odd_media_run.py puts them through.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import odd_media
import odd_media_run
import pytest

# Of the random damage every second file; `make test-long` does all of it, in many ways.
NAMES = [
    name
    for index, (name, odd) in enumerate(odd_media.table().items())
    if odd.kind not in odd_media.DAMAGES or index % 2
]
# Through the command too: name, and a part of what it says where it must refuse.
THROUGH_THE_COMMAND = {
    "film_mp4.mp3": "",
    "1_frames.mkv": "",
    "jumps_ten_hours.mkv": "",
    "empty.mp4": "is empty",
    "noise_0.mp4": "not a media file",
    "pipe.mp4": "is no file but",
    "full.ffconcat": "a list of other files",
    "65535.png": "more than 67 million pixels",
    "sparse.ts": "",
}


@pytest.fixture(scope="module")
def outcomes():
    return odd_media_run.run(1, NAMES)


def test_each_ends_in_a_right_result_or_one_line(outcomes):
    print(f"\n{odd_media_run.table_of(outcomes)}")  # seen with pytest -s
    bad = [o for o in outcomes if o.outcome not in ("right", "refused")]
    assert not bad, "\n".join(f"{o.outcome}: {o.name}: {o.told}" for o in bad)
    assert sorted(o.name for o in outcomes) == sorted(NAMES)
    assert len(outcomes) > 500


def test_damage_is_neither_all_refused_nor_all_read(outcomes):
    """Or the damage would be none, or the reader would give up too early."""
    for kind in odd_media.DAMAGES:
        of_kind = [o.outcome for o in outcomes if o.kind == kind]
        assert {"right", "refused"} <= set(of_kind), kind


def test_nothing_is_kept_behind_a_file(outcomes):
    assert len({o.files for o in outcomes}) == 1
    assert {o.threads for o in outcomes} == {1}
    # Two processes, of which each has seen every kind of file by the middle.
    for part in (outcomes[: len(outcomes) // 2], outcomes[len(outcomes) // 2 :]):
        quarter = len(part) // 4
        assert (
            min(o.memory for o in part[-quarter:])
            < max(o.memory for o in part[quarter : 2 * quarter]) + 50
        )


def test_memory_is_bounded_whatever_a_header_claims(outcomes):
    for each in outcomes:
        assert each.peak < 1500, each.name


@pytest.mark.parametrize("name", THROUGH_THE_COMMAND)
def test_through_the_command(name, tmp_path):
    source, bases, output = (tmp_path / part for part in ("in", "bases", "out"))
    for folder in (source, bases, output):
        folder.mkdir()
    path = source / name
    odd_media.table()[name].make(bases, path)
    root = Path(__file__).parent.parent
    done = subprocess.run(
        [sys.executable, "-m", "perceivio.cli", "reconstruct", path, "-o", output / "out.png"
         if name.endswith("png") else output / "out.mp4"],
        capture_output=True, text=True, check=False, timeout=120,
        env={**os.environ, "PYTHONPATH": str(root / "src")},
    )  # fmt: skip
    line = THROUGH_THE_COMMAND[name]
    assert "Traceback" not in done.stderr
    if line:
        assert done.returncode == 2
        assert len(done.stderr.splitlines()) == 1
        assert done.stderr.startswith("perceivio: ")
        assert line in done.stderr
        assert list(output.iterdir()) == []
    else:
        assert done.returncode == 0
        assert [p.name for p in output.iterdir()] == ["out.mp4"]
