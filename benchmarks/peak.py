"""Peak memory of one piece of work, in a process of its own: `python -m benchmarks.peak WORK WHOSE
FOLDER` prints MB held after loading and MB at the peak. WORK is reconstruct, attention or train; or
embed, for which WHOSE is a media file."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import perceivio
from perceivio.config import preset

from . import subjects, training


def memory(what: str) -> float:
    """MB, of this program alone; getrusage would say what the one that started it held."""
    status = Path("/proc/self/status").read_text()
    return int(status.split(f"{what}:")[1].split()[0]) / 1024


def reconstruction(whose: str, folder: Path) -> Callable[[], Any]:
    inputs = subjects.clip(preset("base"))
    if whose == "ours":
        model = subjects.ours(folder)
        return lambda: model.reconstruct(inputs)
    theirs = subjects.HuggingFace(folder)
    return lambda: theirs(inputs, theirs.chunk())  # each of the 128 chunks needs the same


def attending(_: str, folder: Path) -> Callable[[], Any]:
    model, inputs = subjects.ours(folder), subjects.clip(preset("base"))
    return lambda: perceivio.attention(model, inputs)


def embedding(film: str, folder: Path) -> Callable[[], Any]:
    model = perceivio.load("small")
    return lambda: perceivio.embed([film], folder / "table.parquet", model, overwrite=True)


kinds = {
    "reconstruct": reconstruction,
    "attention": attending,
    "embed": embedding,
    "train": training.one_step,
}
work = kinds[sys.argv[1]](sys.argv[2], Path(sys.argv[3]))
loaded = memory("VmRSS")
work()
print(loaded, memory("VmHWM"))
