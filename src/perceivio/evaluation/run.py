"""An evaluation: from a model and clips to a folder of figures, pictures and a report."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Generator, Sequence
from pathlib import Path

import av
import torch

from .. import __version__
from ..autoencoder import Autoencoder, load
from ..errors import PerceivioError
from ..identity import identity
from ..quantise import Precision
from .answers import Baseline
from .baselines import baselines as all_baselines
from .examine import Examiner
from .journal import Journal
from .report import write
from .result import Evaluation, concluded
from .sources import Sources
from .summary import MIDDLE, RESAMPLES, SEED

Progress = Callable[[float, float], None]  # files done, files in all


def evaluate(
    model: Autoencoder | str,
    data: str | Path | Sequence[str | Path],
    output: str | Path | None = None,
    *,
    precision: Precision = "float32",
    windows: int | None = None,
    limit: int | None = None,
    codecs: bool = True,
    root: str | Path | None = None,
    overwrite: bool = False,
    progress: Progress = lambda done, total: None,
    baselines: Sequence[Baseline] | None = None,
) -> Evaluation:
    """How well a model gives clips back, beside what trivial answers and codecs make of them.

    data       a folder, a media file or an index (.parquet), or several of them
    output     folder to write; None: nothing is written. If it holds an evaluation of the same
               settings that was interrupted, that goes on
    precision  in which latents are kept before they are decoded
    windows    of a file at most, spread evenly over it; None: all
    limit      the first so many files only
    codecs     whether H.264 and Opus are among the baselines
    root       folder in which the clips of an index are, where it is not the index's own
    overwrite  begin anew in a folder that holds something else
    baselines  others than `evaluation.baselines` gives

    Files that cannot be read are counted. Raises PerceivioError, in one line, where none can, and
    for settings that do not fit.
    """
    model = load(model) if isinstance(model, str) else model
    config = model.config
    if baselines is None:
        baselines = all_baselines(config, precision, codecs)
    named = [data] if isinstance(data, str | Path) else data
    for name, number in (("windows", windows), ("limit", limit)):
        if number is not None and number < 1:
            raise PerceivioError(f"{name} {number}: at least 1")
    examiner = Examiner(model, baselines, precision, windows)
    sources = Sources.of(named, config, root, limit)
    settings = {
        "model": identity(model.module),
        "device": model.device.type,
        "precision": precision,
        "windows": windows,
        "files": sources.count,
        "data": sources.identity,
        "baselines": {each.name: each.note for each in baselines},
        "resamples": RESAMPLES,
        "interval": list(MIDDLE),
        "seed": SEED,
        "versions": {
            "perceivio": __version__,
            "torch": torch.__version__,
            "av": av.__version__,
        },
    }
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(_folder(output))
        journal = stack.enter_context(contextlib.closing(Journal(folder, settings, overwrite)))
        _go_on(journal, sources, examiner, progress)
        found = concluded(journal, examiner, settings)
        if output is not None:
            write(found, folder, journal.files, examiner, sources)
    return found


def _go_on(journal: Journal, sources: Sources, examiner: Examiner, progress: Progress) -> None:
    """Evaluate what is not in the journal yet."""
    for number in range(journal.finished, sources.count):
        progress(number, sources.count)

        def part(share: float, number: int = number) -> None:
            progress(number + share, sources.count)

        journal.add(examiner(sources[number], part))
    progress(sources.count, sources.count)


@contextlib.contextmanager
def _folder(output: str | Path | None) -> Generator[Path]:
    if output is not None:
        yield Path(output)
        return
    with tempfile.TemporaryDirectory(prefix="perceivio-") as folder:
        yield Path(folder)
