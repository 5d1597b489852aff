"""Measuring: interleaved timings, the machine's state, its rate of matrix products, peak memory."""

from __future__ import annotations

import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from perceivio.linear import linear

REST = 0.02


@dataclass(frozen=True)
class Timing:
    """Seconds of several runs: the middle one, the fastest, the slowest, and how many."""

    median: float
    fastest: float
    slowest: float
    runs: int

    @classmethod
    def of(cls, seconds: list[float]) -> Timing:
        return cls(statistics.median(seconds), min(seconds), max(seconds), len(seconds))

    def times(self, factor: float) -> Timing:
        ends = (self.median * factor, self.fastest * factor, self.slowest * factor)
        return Timing(*ends, self.runs)

    def __str__(self) -> str:
        return f"{show(self.median)} ({show(self.fastest)} to {show(self.slowest)})"


def show(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds >= 1 else f"{1e3 * seconds:.1f} ms"


def line(what: str, *cells: object) -> None:
    print(f"{what:<44}", *(f"{cell!s:<30}" for cell in cells), flush=True)


def interleaved(
    subjects: Mapping[str, Callable[[], Any]], runs: int, twice: bool = False
) -> dict[str, Timing]:
    """Time all subjects in turn, `runs` times, after one turn that does not count. What disturbs
    the machine for a while so disturbs all of them. Each begins when the threads of the one before,
    which wait busily for some milliseconds, have come to rest.

    twice  the second of two in a row counts: for what a loop repeats, with the memory that it holds
    """
    seconds: dict[str, list[float]] = {name: [] for name in subjects}
    for run in range(runs + 1):
        for name, subject in subjects.items():
            if twice:
                subject()
            time.sleep(REST)
            began = time.perf_counter()
            subject()
            if run:
                seconds[name].append(time.perf_counter() - began)
    return {name: Timing.of(values) for name, values in seconds.items()}


def product_rates(runs: int) -> dict[str, float]:
    """FLOP a second of float32 products of large matrices, all threads, the fastest of `runs`:
    torch's own product and the engine's."""
    x, weight = torch.randn(4096, 1024), torch.randn(1024, 1024)
    subjects = {"torch": lambda: x @ weight.T, "engine": lambda: linear(x, weight)}
    timings = interleaved(subjects, max(10, 3 * runs))
    return {name: 2 * 4096 * 1024**2 / timing.fastest for name, timing in timings.items()}


def machine() -> dict[str, Any]:
    """What the figures depend on beside the code."""
    try:
        cpu = Path("/proc/cpuinfo").read_text()
        model = next(
            line.split(":")[1].strip() for line in cpu.splitlines() if "model name" in line
        )
    except (OSError, StopIteration):
        model = platform.processor()
    return {
        "date": datetime.now(UTC).isoformat(timespec="minutes"),
        "cpu": model,
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load_before": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
        **{name: version(name) for name in ("torch", "transformers", "perceivio")},
    }


def peak_memory(work: str, whose: str, folder: Path) -> dict[str, float]:
    """MB: at the peak of a process that loads a model and works once, and after loading."""
    command = [sys.executable, "-m", "benchmarks.peak", work, whose, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    loaded, peak = map(float, done.stdout.split())
    return {"loaded": loaded, "peak": peak}


def plain(value: Any) -> Any:
    """For JSON."""
    if isinstance(value, Timing):
        return {key: float(f"{v:.4g}") for key, v in asdict(value).items()}
    if isinstance(value, dict):
        return {str(key): plain(v) for key, v in value.items()}
    return float(f"{value:.4g}") if isinstance(value, float) else value
