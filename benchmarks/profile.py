"""`python -m benchmarks.profile`: what the time of `base` is spent on, and what bounds it.

Encoding, and decoding of two frames, on one thread: the operators that torch's profiler saw, in
kinds, beside what the counted products take at the rate that one thread reaches on large matrices.
Then the same on all threads: what sharing them loses. `--rows` lists operators. Before that, how
fast torch's exponentials are, of which the engine uses the fastest.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from perceivio.config import preset

from . import floor, subjects
from .__main__ import frames_of
from .measure import interleaved, product_rates, show

KINDS = {
    "products": ("mkldnn::_linear", "aten::mm", "aten::addmm", "aten::bmm", "aten::linear"),
    "exponentials": ("aten::exp", "softmax"),
    "norms": ("layer_norm", "vector_norm", "aten::rsqrt"),
    "sums": ("aten::sum", "aten::index_add", "aten::amax"),
    "copies": ("aten::copy_", "aten::cat", "aten::index_select", "aten::clone"),
}


def kind_of(operator: str) -> str:
    for kind, starts in KINDS.items():
        if any(start in operator for start in starts):
            return kind
    return "other elementwise"


def by_kind(work: Callable[[], Any], rows: int) -> dict[str, float]:
    """Seconds that operators themselves took, on one thread."""
    with profile(activities=[ProfilerActivity.CPU]) as seen:
        work()
    kinds: dict[str, float] = defaultdict(float)
    events = sorted(seen.key_averages(), key=lambda event: -event.self_cpu_time_total)
    for event in events:
        kinds[kind_of(event.key)] += event.self_cpu_time_total / 1e6
    for event in events[:rows]:
        print(f"    {event.key:<36} {event.count:>6} x {event.self_cpu_time_total / 1e3:8.1f} ms")
    return dict(sorted(kinds.items(), key=lambda pair: -pair[1]))


def exponentials(runs: int) -> None:
    """Of as many numbers as a tile of the encoder has, on one thread."""
    x = -10 * torch.rand(334, 784)
    out = torch.empty_like(x)
    timings = interleaved(
        {
            "exp": lambda: torch.exp(x, out=out),
            "softmax": lambda: x.softmax(1),
            "exp2": lambda: torch.exp2(x, out=out),
        },
        20 * runs,
    )
    for name, timing in timings.items():
        print(f"{name} of {x.numel():,} numbers: {1e6 * timing.median:.0f} microseconds")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=0, help="operators to list")
    parser.add_argument("--runs", type=int, default=9)
    arguments = parser.parse_args()
    config, threads = preset("base"), torch.get_num_threads()
    short = frames_of(config, 2)
    model, writer = subjects.untrained(config), subjects.untrained(short)
    inputs = subjects.clip(config)
    latents = model.encode(inputs)
    points = {"image": short.modalities["image"].queries}
    subject = {
        "encode": (lambda: model.encode(inputs), floor.encode(config)),
        "decode": (lambda: writer.decode(latents, {"image": None}), floor.decode(short, points)),
    }
    torch.set_num_threads(1)
    exponentials(arguments.runs)
    for name, (work, flop) in subject.items():
        took = {}
        for count in (1, threads):
            torch.set_num_threads(count)
            rate = product_rates(arguments.runs)["engine"]
            took[count] = interleaved({name: work}, arguments.runs)[name].median
            print(f"{name}, {count} threads: {show(took[count])}; the floor is"
                  f" {show(flop / rate)} at {rate / 1e9:.0f} GFLOP/s")  # fmt: skip
        print(f"  all threads are {took[1] / took[threads]:.2f} times as fast as one")
        torch.set_num_threads(1)
        kinds = by_kind(work, arguments.rows)
        whole = sum(kinds.values())
        for kind, seconds in kinds.items():
            print(f"  {kind:<20} {show(seconds):>10} {seconds / whole:6.1%}")
        torch.set_num_threads(threads)


if __name__ == "__main__":
    main()
