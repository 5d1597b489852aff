"""Puts odd media files through the program, one after the other in one process, and counts.

    python tests/odd_media_run.py                 all of the table; prints kind by outcome
    python tests/odd_media_run.py --docs PAGE     the same, and writes it into the page

A file may take LIMIT seconds. Where the process hangs or dies, it is said at which file, and
another one goes on behind it.
"""

from __future__ import annotations

import argparse
import dataclasses
import faulthandler
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import numpy as np
import odd_media
from media_files import read_number
from odd_media import Odd, Wanted

LIMIT = 30  # seconds a file may take: a watchdog, not a measurement
OUTCOMES = ("right", "refused", "wrong", "crashed", "hung")
RATE = 8_000
BEGIN, END = "<!-- odd media -->", "<!-- end of odd media -->"  # in the page, around the table


@dataclass(frozen=True)
class Outcome:
    """What came of one file.

    outcome  "right", "refused" in one line, "wrong", "crashed" (the process died), "hung"
    told     what is wrong, or the line of the refusal
    memory   resident MB of the process behind it, `peak` the most so far
    files    file descriptors that are open behind it, `threads` that run
    """

    name: str
    kind: str
    outcome: str
    told: str = ""
    seconds: float = 0.0
    memory: float = 0.0
    peak: float = 0.0
    files: int = 0
    threads: int = 0


# ---- in the process that reads


def small_model():
    """A real model, small enough for a thousand files: 16 frames of 32 x 32, 8 kHz sound."""
    import torch

    from perceivio.autoencoder import Autoencoder
    from perceivio.config import Attend, preset
    from perceivio.model import MultimodalAutoencoder

    torch.manual_seed(0)
    config = preset("small")
    image, audio = config.modalities["image"], config.modalities["audio"]
    frames, _, _ = image.shape
    modalities = {
        **config.modalities,
        "image": dataclasses.replace(image, shape=(frames, 32, 32)),
        "audio": dataclasses.replace(audio, shape=(5120,), rate=RATE),
    }
    config = config.replace(
        modalities=modalities, latents=8, latent_channels=16, process=Attend(heads=2),
        self_attends=1, name="tiny",
    )  # fmt: skip
    return Autoencoder(MultimodalAutoencoder(config))


def examine(odd: Odd, path: Path, output: Path, model) -> tuple[str, str]:
    """("right", ""), ("refused", its line) or ("wrong", why) of a file that was made."""
    from perceivio.errors import PerceivioError
    from perceivio.pipeline import reconstruct

    try:
        report = reconstruct(path, output, model, size=32)
    except PerceivioError as error:
        left = list(output.iterdir())
        if left:
            return "wrong", f"left behind: {[p.name for p in left]}"
        line = str(error)
        if "\n" in line or not line.strip():
            return "wrong", f"not one line: {line!r}"
        if odd.wanted.refused is None and not odd.wanted.may_fail:
            return "wrong", f"refused: {line}"
        if not re.search(odd.wanted.refused or "", line.replace(str(path), "")):
            return "wrong", f"another reason: {line}"
        return "refused", line
    except Exception as error:  # what users would see as a traceback
        return "wrong", f"{type(error).__name__}: {error}"
    if odd.wanted.refused is not None:
        return "wrong", "was not refused"
    wrong = list(faults(odd.wanted, path, report))
    left = sorted(p.name for p in output.iterdir())
    if left != [report.written.name]:
        wrong.append(f"the folder holds {left}")
    wrong += written_faults(report)
    return ("wrong", "; ".join(wrong)) if wrong else ("right", "")


def faults(wanted: Wanted, path: Path, report) -> Iterable[str]:
    """What differs from what is wanted, of the figures and of the file read once more."""
    from perceivio.media import MediaReader

    info = report.info
    if wanted.kind and info.kind != wanted.kind:
        yield f"kind is {info.kind}"
    if report.media_seconds > wanted.most:
        yield f"lasts {report.media_seconds:.2f} s"
    if wanted.seconds is not None and abs(report.media_seconds - wanted.seconds) > 0.1:
        yield f"lasts {report.media_seconds:.2f} s"
    if wanted.size and (info.video is None or (info.video.width, info.video.height) != wanted.size):
        yield f"size is {info.video}"
    if wanted.rotation is not None and (
        info.video is None or info.video.rotation != wanted.rotation
    ):
        yield f"rotation is {info.video}"
    if wanted.note and not any(re.search(wanted.note, note) for note in report.notes):
        yield f"notes are {report.notes}"
    if report.media_seconds > 300 or (wanted.shows is wanted.frames is wanted.tone is None):
        return
    frames, sound = [], []
    with MediaReader(path, 25, RATE) as reader:
        while True:
            pictures, samples = reader.read(16, 16 * RATE // 25)
            if not pictures and not len(samples):
                break
            frames += pictures
            sound.append(samples)
    if wanted.frames is not None and len(frames) != wanted.frames:
        yield f"{len(frames)} frames"
    if wanted.shows is not None:
        numbers = [read_number(frame) for frame in frames]
        if numbers != list(wanted.shows):
            yield f"shows {numbers}"
    if wanted.tone is not None:
        yield from sound_faults(wanted.tone, np.concatenate(sound))


def sound_faults(wanted: float, sound: np.ndarray) -> Iterable[str]:
    if not wanted:
        if np.abs(sound).max(initial=0) > 1e-4:
            yield "is not silent"
        return
    spectrum = np.abs(np.fft.rfft(sound * np.hanning(len(sound))))
    loudest = spectrum.argmax() * RATE / len(sound)
    if abs(loudest - wanted) > max(8, 2 * RATE / len(sound)) or np.abs(sound).max() < 0.2:
        yield f"loudest at {loudest:.1f} Hz, {np.abs(sound).max():.2f}"


def written_faults(report) -> list[str]:
    """Whether what was written is whole, by FFmpeg alone."""
    import av

    path, info = report.written, report.info
    with av.open(str(path)) as container:
        pictures = sum(1 for _ in container.decode(video=0)) if container.streams.video else 0
    with av.open(str(path)) as container:
        streams = container.streams.audio
        heard = sum(f.samples / f.sample_rate for f in container.decode(audio=0)) if streams else 0
    seconds = report.media_seconds
    wrong = []
    if info.kind == "image":
        return [] if pictures == 1 else [f"{pictures} pictures written"]
    if info.kind == "video" and not pictures:
        wrong.append("no picture written")
    if pictures and pictures / 25 > seconds + 0.05:
        wrong.append(f"{pictures} frames written of {seconds:.2f} s")
    if info.kind == "sound" and abs(heard - seconds) > 0.1:
        wrong.append(f"{heard:.2f} s written of {seconds:.2f} s")
    return wrong


def work(table: Sequence[Odd], name_of_model: str) -> None:
    """In a process of its own: every file, and a line of JSON for each before and behind it."""
    import torch

    from perceivio.autoencoder import load

    torch.set_num_threads(1)
    model = load(name_of_model) if name_of_model else small_model()
    with tempfile.TemporaryDirectory() as name:
        (Path(name) / "bases").mkdir()
        for odd in table:
            print(json.dumps({"begins": odd.name}), flush=True)
            print(json.dumps(dataclasses.asdict(one(odd, Path(name), model))), flush=True)


def one(odd: Odd, folder: Path, model) -> Outcome:
    inside, output = folder / "in", folder / "out"
    inside.mkdir()
    output.mkdir()
    path = inside / odd.name
    odd.make(folder / "bases", path)
    began = time.perf_counter()
    faulthandler.dump_traceback_later(LIMIT, exit=True)
    outcome, told = examine(odd, path, output, model)
    faulthandler.cancel_dump_traceback_later()
    seconds = time.perf_counter() - began
    shutil.rmtree(inside)
    shutil.rmtree(output)
    # getrusage would count what the process was that started this one.
    status = Path("/proc/self/status").read_text()
    peak = int(status.split("VmHWM:")[1].split()[0]) / 1024
    files = sum(1 for _ in Path("/proc/self/fd").iterdir()) - 1
    return Outcome(
        odd.name,
        odd.kind,
        outcome,
        told,
        seconds,
        resident(),
        peak,
        files,
        threading.active_count(),
    )


def resident() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


# ---- in the process that watches


def run(rounds: int, names: Sequence[str], model: str = "", processes: int = 2) -> list[Outcome]:
    """Outcomes of the named files of the table with so many rounds, several processes at a time.

    model  whose name is given, else one that is small enough for tests
    """
    parts = [names[first::processes] for first in range(processes)]
    with ThreadPoolExecutor(processes) as pool:
        found = list(pool.map(lambda part: _watched(rounds, part, model), parts))
    return [outcome for part in found for outcome in part]


def _watched(rounds: int, names: Sequence[str], model: str) -> list[Outcome]:
    """Outcomes of the files, from a process that may hang or die at any of them."""
    outcomes: list[Outcome] = []
    left = list(names)
    while left:
        command = [sys.executable, __file__, "--work", "--rounds", str(rounds), "--model", model]
        with tempfile.TemporaryDirectory() as folder:
            asked, errors = Path(folder) / "names", Path(folder) / "errors"
            asked.write_text("\n".join(left))
            with asked.open() as given, errors.open("w") as told:
                process = subprocess.Popen(
                    command, stdin=given, stdout=subprocess.PIPE, stderr=told, text=True
                )
                with process:
                    assert process.stdout is not None
                    lines = [json.loads(line) for line in process.stdout]
            words = errors.read_text()
        done = [Outcome(**line) for line in lines if "begins" not in line]
        outcomes += done
        if process.returncode == 0:
            return outcomes
        if not lines or "begins" not in lines[-1]:
            raise RuntimeError(f"the process ended with {process.returncode}:\n{words}")
        name = lines[-1]["begins"]
        outcome = "hung" if "Timeout" in words else "crashed"
        told_last = f"exit code {process.returncode}: {words[-2000:]}"
        outcomes.append(Outcome(name, odd_media.table(rounds)[name].kind, outcome, told_last))
        left = left[len(done) + 1 :]
    return outcomes


def table_of(outcomes: Iterable[Outcome]) -> str:
    """Kind by outcome, as Markdown."""
    outcomes = list(outcomes)
    shown = [
        o for o in OUTCOMES if o in ("right", "refused") or any(x.outcome == o for x in outcomes)
    ]
    counts = Counter((x.kind, x.outcome) for x in outcomes)
    kinds = list(dict.fromkeys(x.kind for x in outcomes))
    lines = [
        "| what is odd | files | " + " | ".join(shown) + " |",
        "|---|---|" + "---|" * len(shown),
    ]
    for kind in [*kinds, None]:
        row = [sum(counts[k, o] for k in kinds if kind in (k, None)) for o in shown]
        name = f"**{len(kinds)} kinds**" if kind is None else kind
        lines.append(f"| {name} | {sum(row)} | " + " | ".join(map(str, row)) + " |")
    return "\n".join(lines)


def leaks(outcomes: Sequence[Outcome]) -> str:
    """Memory, file descriptors and threads of the first process, as one sentence."""
    files, threads = ({getattr(o, what) for o in outcomes} for what in ("files", "threads"))
    third = len(outcomes) // 3
    return (
        f"Behind a third of the files, two thirds and all of them the process held"
        f" {outcomes[third].memory:.0f}, {outcomes[2 * third].memory:.0f} and"
        f" {outcomes[-1].memory:.0f} MB, {max(o.peak for o in outcomes):.0f} MB at most;"
        f" files open behind each: {', '.join(map(str, sorted(files)))};"
        f" threads: {', '.join(map(str, sorted(threads)))}."
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=1, help="of every random damage")
    parser.add_argument("--only", default="", help="a pattern of names")
    parser.add_argument("--model", default="", help="name of a model; else a very small one")
    parser.add_argument("--docs", type=Path, help="page whose table is written anew")
    parser.add_argument("--work", action="store_true", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    table = odd_media.table(chosen.rounds)
    if chosen.work:
        work([table[line.rstrip("\n")] for line in sys.stdin], chosen.model)
        return
    names = [name for name in table if re.search(chosen.only, name)]
    outcomes = run(chosen.rounds, names, chosen.model, processes=1)
    told = f"{table_of(outcomes)}\n\n{leaks(outcomes)}\n"
    print(told)
    for each in outcomes:
        if each.outcome not in ("right", "refused"):
            print(f"{each.outcome}: {each.kind}: {each.name}: {each.told}")
    slow = sorted(outcomes, key=lambda o: -o.seconds)[:8]
    print("slowest:", ", ".join(f"{o.name} {o.seconds:.1f} s" for o in slow))
    if chosen.docs:
        page = chosen.docs.read_text()
        begin, end = page.index(BEGIN) + len(BEGIN), page.index(END)
        chosen.docs.write_text(f"{page[:begin]}\n{told}{page[end:]}")


if __name__ == "__main__":
    main()
