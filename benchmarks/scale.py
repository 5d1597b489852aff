"""`python -m benchmarks.scale [--quick] [--output FILE]`: clips a second of real training runs in
one and in two processes, and from what was measured and counted the paper's run on many GPUs.

Runs are `perceivio train`, started as a user starts them, on H.264 clips that are made here: ten
seconds of a film, short side 256, packed with a keyframe every 25 frames. A step's time is that
between two points on its board: reading, forward, backward, bringing gradients together, optimiser,
averaged weights and journal. The first steps do not count. Processes of two go through gloo.
docs/scale.md says what it means. Some seven minutes.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from perceivio.config import preset
from perceivio.data.catalogue import Index
from perceivio.data.dataset import ClipDataset
from perceivio.data.packing import Encoding, pack
from perceivio.data.store import Place
from perceivio.model import MultimodalAutoencoder
from perceivio.training.settings import read_settings

from . import data, flop, plan, roofline, training
from .measure import Timing, line, machine, plain

RESULTS = Path(__file__).with_name("scale.json")
CONFIGURATIONS = {"kinetics-88x": (8, 6), "small": (32, 20)}  # clips a step, steps that count
WARM = 3  # steps before them
WAYS = ((1, 2), (1, 1), (2, 1))  # processes, threads of each


@dataclass(frozen=True)
class Pace:
    """Of a run's steps: seconds of each, clips a second of all, share of the time in which the
    first process waited for clips."""

    step: Timing
    clips_a_second: float
    waiting: float


def launch(processes: int, threads: int, *arguments: str) -> str:
    """`python -m ...` in so many processes; what it printed."""
    several = ["torch.distributed.run", "--standalone", f"--nproc-per-node={processes}", "-m"]
    done = subprocess.run(
        [sys.executable, "-m", *(several if processes > 1 else []), *arguments],
        env={**os.environ, "OMP_NUM_THREADS": str(threads)},
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise SystemExit(f"{' '.join(arguments)}: {done.stderr}")
    return done.stdout


def trained(index: Path, configuration: str, batch: int, steps: int, way: tuple[int, int]) -> Pace:
    settings = {
        "run.batch": batch, "run.at_once": batch, "schedule.steps": WARM + steps, "watch.every": 1,
        "watch.validate": 10**9, "watch.clips": 1, "watch.shown": 0, "keep.every": 10**9,
    }  # fmt: skip
    changes = [word for name, value in settings.items() for word in ("--set", f"{name}={value}")]
    with tempfile.TemporaryDirectory() as folder:
        launch(*way, "perceivio.cli", "train", str(index), "-o", folder + "/run",
               "-c", configuration, *changes, "--device", "cpu")  # fmt: skip
        board = EventAccumulator(folder + "/run/board", size_guidance={"scalars": 0})
        board.Reload()
        points = board.Scalars("run/waiting for data")[WARM - 1 :]
    seconds = np.diff([point.wall_time for point in points])
    waited = float(seconds @ np.array([point.value for point in points[1:]]))
    rate = batch * len(seconds) / seconds.sum()
    return Pace(Timing.of(seconds.tolist()), float(rate), waited / float(seconds.sum()))


def measured(folder: Path, quick: bool) -> dict[str, Any]:
    """Clips are made, read, trained on; gradients are brought together alone."""
    index = data.make_clips(folder / "clips")
    pack(index, Place.of(folder / "pack"), encoding=Encoding(256, 25, quality=23))
    place = folder / "pack" / "index.parquet"
    packed = Index.read(place)
    size = statistics.mean(clip.size for clip in packed)
    examples = ClipDataset(packed, data.FORMAT)
    keys = [(epoch, row) for epoch in range(10 if quick else 30) for row in range(len(packed))]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    spent = data.core_seconds(lambda: [examples[key] for key in keys]) / len(keys)
    torch.set_num_threads(threads)
    line("reading for base", f"{1 / spent:.1f} clips/s a core", f"{size / 1e6:.2f} MB a clip")

    runs: dict[str, dict[str, Pace]] = {}
    for configuration, (batch, steps) in CONFIGURATIONS.items():
        print(f"\nperceivio train -c {configuration}, {batch} clips a step, float32")
        runs[configuration] = {}
        for way in WAYS:
            name = f"{way[0]} x {way[1]} threads" if way[1] > 1 else f"{way[0]} x 1 thread"
            pace = trained(place, configuration, batch, 2 if quick else steps, way)
            runs[configuration][name] = pace
            line(f"processes x threads: {name}", f"{pace.clips_a_second:.2f} clips/s",
                 f"a step {pace.step}", f"waiting {pace.waiting:.0%}")  # fmt: skip

    print()
    reduced = {}
    for name in ("base", "small"):
        values = sum(p.numel() for p in MultimodalAutoencoder(preset(name)).parameters())
        out = launch(2, 1, "benchmarks.all_reduce", str(values))
        median, fastest, slowest = map(float, out.split("seconds")[1].split())
        reduced[name] = {"bytes": 4 * values, "alone": Timing(median, fastest, slowest, 15)}
        line(f"all-reduce of {name} alone, 2 processes", f"{4 * values / 1e6:.1f} MB a step",
             reduced[name]["alone"])  # fmt: skip
    return {
        "reading": {"clips_a_second_and_core": 1 / spent, "clip_bytes": size},
        "runs": {k: {n: asdict(p) for n, p in of.items()} for k, of in runs.items()},
        "all_reduce": reduced,
    }


def counted() -> tuple[roofline.Step, dict[str, Any]]:
    """FLOP of a clip, by formula and by torch's counter; what a step asks of a GPU."""
    config, settings = preset("base"), read_settings("kinetics-88x")
    points = training.some_points(config)
    asked = {name: 1 if chosen is None else len(chosen) for name, chosen in points.items()}
    step = roofline.of_step(config, settings, [plan.CARD])
    found: dict[str, Any] = {}
    print(f"\nforward and backward of base, {asked} outputs: GFLOP a clip")
    for form, seen in (
        ("factored", step.flop[1]),
        ("plain", roofline.of_plain_module(config, points)),
    ):
        parts = flop.training(config, asked, form == "plain")
        whole = sum(parts.values())
        told = ", ".join(f"{part} {count / 1e9:.1f}" for part, count in parts.items())
        line(f"{form} form", f"{whole / 1e9:.1f}", told,
             f"torch's counter sees {seen / whole:.4f} of it")  # fmt: skip
        found[form] = {"by_formula": parts, "by_counter": seen}
    once, each = step.seconds[plan.CARD.name]
    line("kernels", f"{step.launches[0]:,} a step, {step.launches[1]} a clip")
    moved = [count / 1e9 for count in step.bytes]
    line("read and written", f"{moved[0]:.1f} GB a step, {moved[1]:.1f} a clip")
    floor = f"{1e3 * once:.1f} ms a step, {1e3 * each:.2f} a clip"
    line(f"roofline of one {plan.CARD.name}", floor)
    return step, {"flop": found, "step": asdict(step)}


def main() -> None:
    parser = argparse.ArgumentParser("python -m benchmarks.scale", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="two steps of each run")
    parser.add_argument("--output", type=Path, default=RESULTS, help="where the JSON goes")
    options = parser.parse_args()
    results: dict[str, Any] = {"machine": machine(), "quick": options.quick}
    for key, value in results["machine"].items():
        line(key, value)
    with tempfile.TemporaryDirectory() as folder:
        results |= measured(Path(folder), options.quick)
    step, results["counted"] = counted()
    inputs = plan.Inputs()
    rate = results["reading"]["clips_a_second_and_core"]
    rows = plan.rows(inputs, step, results["all_reduce"]["base"]["bytes"], rate)
    plan.show(inputs, rows)
    here = max(run["clips_a_second"] for run in results["runs"]["kinetics-88x"].values())
    years = inputs.batch * inputs.steps / here / 86_400 / 365
    print(f"this machine, at {here:.2f} clips/s: {years:.1f} years. No GPU was measured.")
    results["plan"] = {"inputs": asdict(inputs), "card": asdict(plan.CARD),
                       "rows": plan.plain(rows), "years_here": years}  # fmt: skip
    options.output.write_text(json.dumps(plain(results), indent=1) + "\n")
    print(f"\nwritten to {options.output.name}")


if __name__ == "__main__":
    main()
