"""`python -m benchmarks.training [--quick] [--output FILE]`: a step of training, ours and theirs.

A step is forward and backward of `base` in float32 for 512 pixels, 512 pieces of sound and the
label, the loss being the mean square of each output. transformers' class raises when it is given
labels; called without, its outputs have gradients.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from perceivio.config import Config, preset
from perceivio.training import fast

from . import subjects
from .measure import interleaved, line, machine, peak_memory, plain

BATCH = 8


def some_points(config: Config) -> dict[str, Tensor | None]:
    generator = torch.Generator().manual_seed(2)
    return {
        name: None if m.is_classes else torch.randint(m.queries, (512,), generator=generator)
        for name, m in config.modalities.items()
    }


class Ours:
    def __init__(self, folder: Path) -> None:
        self.module = subjects.ours(folder).module.train()

    def step(self, inputs: dict[str, Tensor], points: dict[str, Tensor | None]) -> None:
        self.module.zero_grad()
        _backward(fast.forward(self.module, inputs, points=points))


class Theirs:
    def __init__(self, folder: Path) -> None:
        self.subject = subjects.HuggingFace(folder)  # in eval mode, so without dropout's work

    def step(self, inputs: dict[str, Tensor], points: dict[str, Tensor | None]) -> None:
        self.subject.model.zero_grad()
        _backward(self.subject.forward(inputs, points))


def _backward(outputs: Mapping[str, Tensor]) -> None:
    torch.stack([values.square().mean() for values in outputs.values()]).sum().backward()


def one_step(whose: str, folder: Path) -> Any:
    """For peak.py: what makes a step, with the weights loaded."""
    subject = {"ours": Ours, "theirs": Theirs}[whose](folder)
    config = preset("base")
    inputs, points = subjects.clip(config), some_points(config)
    return lambda: subject.step(inputs, points)


def training(folder: Path, runs: int) -> dict[str, Any]:
    """Time of a step and its growth with the batch, interleaved; peak memory."""
    peaks = {whose: peak_memory("train", whose, folder) for whose in ("ours", "theirs")}
    ours, theirs = Ours(folder), Theirs(folder)
    config = preset("base")
    points = some_points(config)
    one, many = subjects.clip(config), subjects.clip(config, BATCH)
    timings = interleaved(
        {
            "ours": lambda: ours.step(one, points),
            "theirs": lambda: theirs.step(one, points),
            f"ours, batch {BATCH}": lambda: ours.step(many, points),
        },
        runs,
        twice=True,
    )
    mine, other, batch = timings.values()
    times = other.median / mine.median
    growth = batch.median / mine.median
    share = peaks["ours"]["peak"] / peaks["theirs"]["peak"]
    print(f"\n{'base, float32: a step of training':<45}{'ours':<31}transformers")
    line("forward and backward, batch 1", mine, other, f"{times:.1f} x")
    memory = [f"{peak['peak']:.0f} MB" for peak in peaks.values()]
    line("peak memory of its process", *memory, f"{share:.2f}")
    line(f"batch {BATCH}", batch, "", f"{growth:.1f} x batch 1")
    return {"training": {**timings, "times": times, "growth": growth, "peak_memory_mb": peaks,
                         "memory_share": share}}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser("python -m benchmarks.training", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one run of each, no spread")
    parser.add_argument("--output", type=Path, help="where JSON goes, if anywhere")
    options = parser.parse_args()
    here = machine()
    for key, value in here.items():
        line(key, value)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "base"
        subjects.write_weights(folder)
        results = {"machine": here} | training(folder, 1 if options.quick else 5)
    if options.output:
        options.output.write_text(json.dumps(plain(results), indent=1) + "\n")


if __name__ == "__main__":
    main()
