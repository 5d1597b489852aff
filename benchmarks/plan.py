"""The paper's run on 8, 64 and 512 GPUs: arithmetic on what was counted and measured.

    step      = max(kernels, launches, reading) + all-reduce
    kernels   = (a + b clips) / share     roofline.py counts a and b; share is what is reached of it
    launches  = (c + d clips) x launch    one after the other, by one thread of the processor
    reading   = batch / (GPUs x cores x clips/s of a core)
    all-reduce = 2 (GPUs - 1) / GPUs x bytes of the gradients / link
                                          a ring, hidden behind nothing
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from .measure import line
from .roofline import Card, Step

# Dense peaks and memory as the maker states them (H100 SXM, 80 GB).
CARD = Card("H100", half=989e12, single=67e12, memory=3.35e12)


@dataclass(frozen=True)
class Inputs:
    """What is neither counted nor measured here.

    batch, steps   of the paper's run; the steps are our reading
    clips          of Kinetics-700-2020's training list, all of them still to be had
    clip_bytes     of a clip as it is hosted: a copy of some 700 GB of 635,000 clips
    shares         of the roofline that kernels reach
    launch         seconds to start a kernel
    cores          of the processor for each GPU
    near, far      bytes/s between GPUs of one machine, and for each GPU between machines
    machine        GPUs of one machine
    """

    batch: int = 1024
    steps: int = 58_000
    clips: int = 542_352
    clip_bytes: float = 1.1e6
    shares: tuple[float, ...] = (0.8, 0.4, 0.2)
    launch: float = 5e-6
    cores: int = 16
    near: float = 450e9
    far: float = 12.5e9
    machine: int = 8
    gpus: tuple[int, ...] = (8, 64, 512)


@dataclass(frozen=True)
class Row:
    """Of one number of GPUs and one share. Parts of a step in seconds."""

    gpus: int
    share: float
    kernels: float
    launches: float
    reading: float
    all_reduce: float
    step: float
    hours: float
    gpu_hours: float
    clips_a_second: float
    bytes_a_second: float
    cores: float
    utilisation: float
    bound: str


def rows(inputs: Inputs, step: Step, gradient_bytes: int, clips_a_core: float) -> list[Row]:
    found = []
    for gpus in inputs.gpus:
        clips = inputs.batch / gpus
        once, each = step.seconds[CARD.name]
        launches = (step.launches[0] + step.launches[1] * clips) * inputs.launch
        reading = inputs.batch / (gpus * inputs.cores * clips_a_core)
        link = inputs.near if gpus <= inputs.machine else inputs.far
        all_reduce = 2 * (gpus - 1) / gpus * gradient_bytes / link
        for share in inputs.shares:
            parts = {
                "kernels": (once + each * clips) / share,
                "launches": launches,
                "reading": reading,
            }
            whole = max(parts.values()) + all_reduce
            parts["all-reduce"] = all_reduce
            rate = inputs.batch / whole
            hours = inputs.steps * whole / 3600
            flop = step.flop[0] + step.flop[1] * clips
            found.append(
                Row(
                    gpus,
                    share,
                    **{name.replace("-", "_"): seconds for name, seconds in parts.items()},
                    step=whole,
                    hours=hours,
                    gpu_hours=hours * gpus,
                    clips_a_second=rate,
                    bytes_a_second=rate * inputs.clip_bytes,
                    cores=rate / clips_a_core,
                    utilisation=flop / whole / CARD.half,
                    bound=max(parts, key=parts.__getitem__),
                )
            )
    return found


def show(inputs: Inputs, found: list[Row]) -> None:
    clips = inputs.batch * inputs.steps
    print(f"\nthe paper's run: {inputs.steps:,} steps of {inputs.batch:,} clips,")
    print(f"  {clips:,} clips, {clips / inputs.clips:.0f} times each of {inputs.clips:,}")
    print(f"  storage: {inputs.clips * inputs.clip_bytes / 1e9:,.0f} GB")
    print("assumed, not measured:")
    card = f"{CARD.half / 1e12:g} TFLOP/s of bfloat16, {CARD.single / 1e12:g} of float32"
    line(f"  one {CARD.name}", f"{card}, {CARD.memory / 1e12:g} TB/s of memory")
    line("  share of the roofline that kernels reach", ", ".join(f"{s:.0%}" for s in inputs.shares))
    line("  to start a kernel", f"{1e6 * inputs.launch:g} microseconds")
    line("  processor cores for each GPU", inputs.cores)
    line(f"  between the GPUs of a machine of {inputs.machine}", f"{inputs.near / 1e9:g} GB/s")
    line("  for each GPU between machines", f"{inputs.far / 1e9:g} GB/s")
    line("  a clip as it is hosted", f"{inputs.clip_bytes / 1e6:g} MB")
    print(
        f"\n{'GPUs':>4} {'share':>5} | {'ms a step: kernels':>18} {'launches':>8} {'reading':>7}"
        f" {'all-reduce':>10} {'whole':>7} | {'hours':>6} {'GPU-h':>6} {'clips/s':>8} {'MB/s':>7}"
        f" {'cores':>6} {'of peak':>7}  bound by"
    )
    for row in found:
        print(
            f"{row.gpus:4} {row.share:5.0%} | {1e3 * row.kernels:18.1f} {1e3 * row.launches:8.1f}"
            f" {1e3 * row.reading:7.1f} {1e3 * row.all_reduce:10.1f} {1e3 * row.step:7.1f} |"
            f" {row.hours:6.1f} {row.gpu_hours:6.0f} {row.clips_a_second:8,.0f}"
            f" {row.bytes_a_second / 1e6:7,.0f} {row.cores:6.0f} {row.utilisation:7.1%}"
            f"  {row.bound}"
        )


def plain(found: list[Row]) -> list[dict[str, Any]]:
    return [asdict(row) for row in found]
