"""Runs of a tiny model on a few tiny clips, for the tests of `perceivio train`."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from data_files import make_clip

from perceivio.data.indexing import build
from perceivio.data.store import Place

TINY = """
[model]
preset = "small"
[model.config]
latents = 8
latent_channels = 16
self_attends = 2
output_channels = 16
input_padding = 4
query_padding = 4
encode = { heads = 1 }
process = { heads = 2 }
decode = { query_residual = false }
[model.config.modalities]
image = { shape = [4, 16, 24], patch = [2, 8, 8], output_patch = [2, 4, 4], bands = 3, embed = 8 }
audio = { shape = [2560], patch = [160], output_patch = [80], bands = 3, embed = 8 }
label = { query = 4 }

[modalities]
image = { weight = 1.0, mask = 0.2, points = 10 }
audio = { weight = 1.0, mask = 0.2, points = 12 }
label = { weight = 0.1, mask = 0.5 }

[optimiser]
rate = 0.01
[schedule]
steps = 20
[run]
batch = 4
at_once = 2
ema = 0.9
[data]
workers = 0
[keep]
every = 3
[watch]
every = 2
validate = 7
shown = 1
"""


def make_data(folder: Path, classes: tuple[str, ...] = ("a", "b"), each: int = 3) -> Path:
    """Clips of 20 numbered frames with a hum, some in each class; returns their index."""
    for n in range(each * len(classes)):
        name = classes[n % len(classes)]
        make_clip(folder / "videos" / name / f"{n}.mp4", 20, first=50 * n)
    index = folder / "videos.parquet"
    build(str(folder / "videos"))[0].write(Place.of(index))
    return index


def make_config(folder: Path, text: str = TINY) -> Path:
    path = folder / "tiny.toml"
    path.write_text(text)
    return path


def options(changes: Iterable[str]) -> list[str]:
    return [word for change in changes for word in ("--set", change)]


def command(
    data: Path | str,
    run: Path,
    config: Path,
    *changes: str,
    more: tuple[str, ...] = (),
    processes: int = 1,
    threads: int = 1,
    program: tuple[str, ...] = ("-m", "perceivio.cli"),
) -> subprocess.Popen[str]:
    """`perceivio train` in processes of its own, in a group of their own."""
    launch = [sys.executable]
    if processes > 1:
        launch += ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    launch += [*program, "train", str(data), "-o", str(run), "-c", str(config)]
    environment = {"OMP_NUM_THREADS": str(threads), "COLUMNS": "300", "HF_HUB_OFFLINE": "1"}
    return subprocess.Popen(
        [*launch, *options(changes), *more],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, **environment},
        start_new_session=True,
    )


def finish(process: subprocess.Popen[str], code: int = 0, within: float = 90) -> str:
    """Wait for its end; returns what it printed."""
    try:
        out = process.communicate(timeout=within)[0]
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == code, out
    return out


def losses(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "losses.jsonl").read_text().splitlines()]
