"""`python -m benchmarks [--quick] [--output FILE]`: a table on the terminal, and JSON.

Everything is one process run on the CPU with as many threads as torch takes by itself, except
peak memory, which is measured in processes of their own.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

import perceivio
from perceivio.attention_maps import attention_of_latents
from perceivio.config import Config, preset
from perceivio.pictures import resize
from perceivio.pipeline import clip_format, shown_shape
from perceivio.writer import MediaWriter

from . import floor, subjects
from .measure import Timing, interleaved, line, machine, peak_memory, plain, product_rates, show
from .training import training

RESULTS = Path(__file__).with_name("results.json")
CLIP = Path(__file__).parent.parent / "assets" / "band.3gp"
CLIP_SECONDS = 10.0


def against_huggingface(folder: Path, runs: int, rate: float) -> dict[str, Any]:
    """(a) to (d) and (g): `base`, ours and theirs in turn."""
    model, theirs = subjects.ours(folder), subjects.HuggingFace(folder)
    config, inputs = model.config, subjects.clip(model.config)
    latents, their_latents = model.encode(inputs), theirs.encode(inputs)
    image = config.modalities["image"].queries
    some = {"image": torch.randint(image, (1000,)), "label": None}
    # transformers wants a point of each; one of sound costs next to nothing.
    label = {"image": torch.arange(1), "audio": torch.arange(1), "label": None}
    theirs_some = {**label, "image": some["image"]}
    chunk = theirs.chunk()
    timings = interleaved(
        {
            "whole": lambda: model.reconstruct(inputs),
            "chunk with encode": lambda: theirs(inputs, chunk),
            "chunk": lambda: theirs.decode(inputs, their_latents, chunk),
            "encode": lambda: model.encode(inputs),
            "their encode": lambda: theirs.encode(inputs),
            "classify": lambda: model.classify(inputs),
            "their classify": lambda: theirs(inputs, label),
            "some": lambda: model.decode(model.encode(inputs), some),
            "their some": lambda: theirs(inputs, theirs_some),
            "decode": lambda: model.decode(latents),
        },
        runs,
    )
    loop = timings["chunk with encode"].times(subjects.CHUNKS)
    chunks, encoding = timings["chunk"].times(subjects.CHUNKS), timings["their encode"]
    once = Timing(
        encoding.median + chunks.median,
        encoding.fastest + chunks.fastest,
        encoding.slowest + chunks.slowest,
        runs,
    )
    pairs = {
        "whole clip, their loop of 128 chunks *": (timings["whole"], loop),
        "whole clip, theirs encoding once *": (timings["whole"], once),
        "encode": (timings["encode"], timings["their encode"]),
        "classify": (timings["classify"], timings["their classify"]),
        "label and 1,000 random pixels": (timings["some"], timings["their some"]),
    }
    found = {
        what: {"ours": mine, "theirs": other, "times": other.median / mine.median}
        for what, (mine, other) in pairs.items()
    }
    print(
        "\nbase, float32, batch 1                       ours                           transformers"
    )
    for what, row in found.items():
        line(what, row["ours"], row["theirs"], f"{row['times']:.1f} x")
    print(f"* their chunks: one of {subjects.CHUNKS} timed {runs} times and multiplied")
    every = {name: modality.queries for name, modality in config.modalities.items()}
    floors = {
        "whole clip": (floor.whole(config), timings["whole"]),
        "encode": (floor.encode(config), timings["encode"]),
        "decode": (floor.decode(config, every), timings["decode"]),
    }
    return {"against_huggingface": found, "floor_base": over_floor("base", floors, rate)}


def parts(folder: Path, runs: int) -> dict[str, Any]:
    """What is asked of kept latents of `base`, beside the whole clip from the same."""
    model = subjects.ours(folder)
    latents = model.encode(subjects.clip(model.config))
    video = model.config.modalities["image"]
    height, width = video.shape[1:]
    subject = {
        "whole clip": lambda: model.decode(latents),
        f"one frame of {height} x {width}": lambda: model.frame(latents, 0.2),
        "one frame between two": lambda: model.frame(latents, 0.21),
        "a quarter of a frame": lambda: model.frame(latents, 0.2, crop=(0.25, 0.25, 0.5, 0.5)),
        "a preview of a frame, one pixel in 4 x 4": lambda: model.frame(latents, 0.2, coarse=4),
        "sound alone": lambda: model.audio(latents),
        "classes alone": lambda: model.probabilities(latents),
    }
    timings = interleaved(subject, runs)
    whole = timings["whole clip"].median
    print(f"\nbase: from kept latents, a clip of {video.shape[0]} frames")
    for what, timing in timings.items():
        line(what, timing, f"1/{whole / timing.median:.1f} of the whole clip")
    found = {k: {"ours": t, "of_whole": t.median / whole} for k, t in timings.items()}
    return {"asked_of_latents": found}


def inside(folder: Path, runs: int) -> dict[str, Any]:
    """Looking inside `base`: the maps of the two strongest latents of each modality."""
    model = subjects.ours(folder)
    inputs = subjects.clip(model.config)
    latents = model.encode(inputs)
    subject = {
        "what latents read and write": lambda: perceivio.attention(model, inputs),
        "what they write, from kept latents": lambda: attention_of_latents(model, latents),
    }
    timings = interleaved(subject, runs)
    peak = peak_memory("attention", "ours", folder)
    print("\nbase: attention")
    for what, timing in timings.items():
        line(what, timing)
    line("peak memory, in a process of its own", f"{peak['peak']:.0f} MB",
         f"{peak['loaded']:.0f} MB after loading")  # fmt: skip
    return {"attention": {**timings, "peak_memory_mb": peak}}


def over_floor(
    what: str, counted: dict[str, tuple[int, Timing]], rate: float
) -> dict[str, dict[str, Any]]:
    found = {}
    print(f"\n{what}: over the floor, products at {rate / 1e9:.0f} GFLOP/s")
    for name, (flop, timing) in counted.items():
        least = flop / rate
        found[name] = {
            "flop": float(flop), "floor": least, "ours": timing, "times": timing.median / least,
        }  # fmt: skip
        line(name, timing, f"floor {show(least)}", f"{timing.median / least:.2f} x")
    return found


def growth(folder: Path, runs: int) -> dict[str, Any]:
    """(f): cost against points, tokens and batch, ours."""
    model = subjects.ours(folder)
    inputs = subjects.clip(model.config)
    latents = model.encode(inputs)
    image = model.config.modalities["image"].queries
    found: dict[str, Any] = {"points": {}, "frames": {}, "batch": {}}
    print("\nbase: what it costs to decode pixels, encode frames, encode examples")
    points = {n: torch.randint(image, (n,)) for n in (1, 100, 1000, 10_000, 100_000)}
    timings = interleaved(
        {str(n): lambda p=p: model.decode(latents, {"image": p}) for n, p in points.items()}, runs
    )
    found["points"] = timings
    frames = {n: subjects.untrained(frames_of(model.config, n)) for n in (4, 8, 16, 32)}
    clips = {n: (m, subjects.clip(m.config)) for n, m in frames.items()}
    found["frames"] = interleaved(
        {str(n): lambda m=m, x=x: m.encode(x) for n, (m, x) in clips.items()}, runs
    )
    batches = {n: subjects.clip(model.config, n) for n in (1, 2, 4)}
    found["batch"] = interleaved(
        {str(n): lambda x=x: model.encode(x) for n, x in batches.items()}, runs
    )
    for kind, row in found.items():
        for n, timing in row.items():
            line(f"{n} {kind}", timing)
    return {"growth": found}


def frames_of(config: Config, frames: int) -> Config:
    """`base` with pictures of so many frames."""
    image = config.modalities["image"]
    image = replace(image, shape=(frames, *image.shape[1:]))
    return config.replace(modalities={**config.modalities, "image": image})


def small(runs: int, rate: float) -> dict[str, Any]:
    """Preset `small`: clips a second, times real time, over the floor, a file end to end."""
    model = subjects.untrained(preset("small"))
    config = model.config
    seconds = config.modalities["image"].seconds or 0.0
    found: dict[str, Any] = {}
    floors = {}
    print("\nsmall, float32")
    for batch in (1, 16):
        inputs = subjects.clip(config, batch)
        subject = {
            "engine": lambda x=inputs: model.reconstruct(x),
            "module": lambda x=inputs: plainly(model, x),
        }
        timing = interleaved(subject, 10 * runs)
        clips = batch / timing["engine"].median
        line(f"batch {batch}: reconstruct", timing["engine"], f"{clips:.0f} clips/s",
             f"{clips * seconds:.0f} x real time", f"plain module {timing['module']}")  # fmt: skip
        found[f"batch {batch}"] = {**timing, "clips_a_second": clips, "real_time": clips * seconds}
        floors[f"batch {batch}"] = (floor.whole(config, batch), timing["engine"])
    found["floor"] = over_floor("small", floors, rate)
    found["file"] = file()
    return {"small": found}


@torch.inference_mode()
def plainly(model: perceivio.Autoencoder, inputs: dict[str, torch.Tensor]) -> None:
    model.module.reconstruct(inputs)


def file() -> dict[str, Any]:
    """A stretch of a real file through the shipped weights, end to end, and its parts alone."""
    model = perceivio.load("small")

    def timed(work: Callable[[], Any]) -> tuple[float, Any]:
        began = time.perf_counter()
        result = work()
        return time.perf_counter() - began, result

    def write(outputs: list[dict[str, torch.Tensor]], path: Path) -> None:
        height, width = shown_shape(clip_format(model.config), None)
        with MediaWriter(path, 25, (height, width), 16_000) as writer:
            for values in outputs:
                writer.write(resize(values["image"][0, :14], height, width))
                writer.write(samples=values["audio"][0, :8960, 0])

    part = {"duration": CLIP_SECONDS, "overlap": 2}
    perceivio.reconstruct(CLIP, Path(tempfile.mkdtemp()) / "out.mp4", model, duration=1.0)
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out.mp4"
        reading, windows = timed(lambda: [w.inputs for w in perceivio.read(CLIP, model, **part)])
        computing, outputs = timed(lambda: [model.reconstruct(inputs) for inputs in windows])
        writing, _ = timed(lambda: write(outputs, out))
        whole, _ = timed(lambda: perceivio.reconstruct(CLIP, out, model, overwrite=True, **part))
    line(f"a file of {CLIP_SECONDS:.0f} seconds, end to end", show(whole))
    line("reading, model, writing alone", show(reading), show(computing), show(writing))
    return {"seconds": whole, "reading_alone": reading, "model_alone": computing,
            "writing_alone": writing}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser("python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one run of each, no spread")
    parser.add_argument("--output", type=Path, default=RESULTS, help="where the JSON goes")
    options = parser.parse_args()
    runs = 1 if options.quick else 5

    results: dict[str, Any] = {"machine": machine(), "runs": runs}
    for key, value in results["machine"].items():
        line(key, value)
    rates = product_rates(runs)
    rate = max(rates.values())
    results["product_flops"] = rates
    print("float32 products:", ", ".join(f"{k} {v / 1e9:.0f} GFLOP/s" for k, v in rates.items()))
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "base"
        subjects.write_weights(folder)
        names = {"perceivio": "ours", "huggingface": "theirs"}
        peaks = {name: peak_memory("reconstruct", who, folder) for name, who in names.items()}
        print("\npeak memory of a reconstruction, each in its own process")
        for whose, peak in peaks.items():
            line(whose, f"{peak['peak']:.0f} MB", f"{peak['loaded']:.0f} MB after loading")
        results["peak_memory_mb"] = peaks
        results |= against_huggingface(folder, runs, rate)
        results |= parts(folder, runs)
        results |= inside(folder, max(1, runs - 2))
        results |= growth(folder, max(1, runs - 2))
        results |= training(folder, max(1, runs - 2))
    results |= small(runs, rate)
    options.output.write_text(json.dumps(plain(results), indent=1) + "\n")
    print(f"\nwritten to {options.output.name}")


if __name__ == "__main__":
    main()
