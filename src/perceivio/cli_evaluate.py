"""The verb `perceivio evaluate`."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter, validators
from rich.console import Console
from rich.markup import escape

from .console import Json, aside, plain, print_json, progress
from .errors import PerceivioError

if TYPE_CHECKING:
    from rich.table import Table

    from .autoencoder import Autoencoder
    from .evaluation.result import Evaluation

BAD_INPUT = 2
FILE_WIDTH = 160  # characters of a line, where output is no terminal


def evaluate(
    model: Annotated[
        str,
        Parameter(
            help="Shipped weights, a Hugging Face hub id, a folder, or DeepMind's pickle; see"
            " `perceivio models`."
        ),
    ],
    data: Annotated[
        list[str],
        Parameter(
            help="Folders, media files, or indexes (.parquet) that `perceivio data index` wrote.",
            negative=(),
            consume_multiple=True,
        ),
    ],
    /,
    *,
    output: Annotated[
        Path | None,
        Parameter(
            name=["--output", "-o"],
            help="Folder to write; without it MODEL_evaluation in the current folder.",
        ),
    ] = None,
    precision: Annotated[
        Literal["float32", "float16", "int8", "int4"],
        Parameter(help="In which latents are kept before they are decoded."),
    ] = "float32",
    windows: Annotated[
        int | None,
        Parameter(
            help="Windows of a file at most, spread evenly over it; without it, all.",
            validator=validators.Number(gte=1),
        ),
    ] = None,
    limit: Annotated[
        int | None,
        Parameter(help="The first so many files only.", validator=validators.Number(gte=1)),
    ] = None,
    codecs: Annotated[
        bool, Parameter(help="H.264 and Opus at the latents' bits among the baselines.")
    ] = True,
    rates: Annotated[
        bool,
        Parameter(
            negative=(),
            help="Also latents at every precision against H.264 and Opus over their range, on the"
            " first 10 s of each file: rates.md, rates.svg, rates.json.",
        ),
    ] = False,
    root: Annotated[
        str | None,
        Parameter(help="Folder in which the clips of an index are, where it is not its own."),
    ] = None,
    strict: Annotated[
        bool, Parameter(negative=(), help="Exit with 2 if any file could not be evaluated.")
    ] = False,
    overwrite: Annotated[
        bool,
        Parameter(negative=(), help="Begin anew in a folder that holds something else."),
    ] = False,
    device: Annotated[
        str | None,
        Parameter(help="cpu, cuda, cuda:1, ...; without it, a GPU where there is one."),
    ] = None,
    json: Json = False,
) -> int:
    """Say how well a model gives clips back, beside trivial answers and codecs on the same windows.

    Picture, sound and, with the label masked, the class; means over files with intervals. Writes
    report.html with pictures, evaluation.json and files.csv. Interrupted, even killed, the same
    command goes on where it stopped. Files that cannot be read are counted.

    Example: perceivio evaluate small videos/test -o results
    """
    from .autoencoder import load
    from .evaluation.run import evaluate

    began = time.perf_counter()
    folder = output if output is not None else _folder_for(model)
    if folder.exists() and not folder.is_dir():
        raise PerceivioError(f"{folder}: is a file; name a folder with -o")
    loaded = load(model, device)
    with progress(model) as advance:
        found = evaluate(
            loaded,
            data,
            folder,
            precision=precision,
            windows=windows,
            limit=limit,
            codecs=codecs,
            root=root,
            overwrite=overwrite,
            progress=advance,
        )
    if rates:
        _write_rates(loaded, data, folder, root, limit)
    for reason in found.summary.reasons:
        aside.print(f"note: left out: {escape(reason)}")
    if json:
        print_json(found.to_dict())
    else:
        _print(found)
        plain.print(f"  took     {time.perf_counter() - began:.1f} s")
        plain.print(f"  wrote    {escape(str(folder))}: report.html, evaluation.json, files.csv")
        if rates:
            plain.print("           and what bits bring: rates.md, rates.svg, rates.json")
    return BAD_INPUT if strict and found.summary.failed else 0


def _folder_for(model: str) -> Path:
    """In the folder we are in, called after the model."""
    return Path(f"{Path(model).name.removesuffix('.pkl')}_evaluation")


def _write_rates(
    model: Autoencoder, data: list[str], folder: Path, root: str | None, limit: int | None
) -> None:
    """Those of every file that can be read; the others are counted already."""
    from .evaluation.rates import RateMeter
    from .evaluation.rates_told import write_rates
    from .evaluation.sources import Sources

    sources, meter = Sources.of(data, model.config, root, limit), RateMeter(model)
    with progress("rates") as advance:
        for number, source in enumerate(sources):
            advance(number, sources.count)
            with contextlib.suppress(PerceivioError), source.local() as path:
                meter.add(path, PurePosixPath(source.name).name)
    write_rates(meter.rates(), folder)


def _print(found: Evaluation) -> None:
    from .evaluation.words import class_rows, ratios, remarks

    summary = found.summary
    plain.print(
        f"[bold]{escape(found.model['name'])}[/bold]  {summary.files:,} files,"
        f" {summary.windows:,} windows of {found.model['seconds']:g} s,"
        f" {found.settings['precision']} latents"
    )
    table, lines = _table(found, intervals=True), remarks(found)
    if _too_wide(table):
        table = _table(found, intervals=False)
        lines = ["Intervals are in report.html; this terminal is too narrow for them.", *lines[1:]]
    (plain if plain.is_terminal else Console(width=FILE_WIDTH)).print(table)
    for name, line in class_rows(found):
        plain.print(f"  {name:16} {escape(line)}")
    for ratio, formula in ratios(found):
        plain.print(f"  {ratio:>16} {escape(formula)}")
    for line in lines:
        plain.print(f"  {escape(line)}")


def _table(found: Evaluation, intervals: bool) -> Table:
    """A row for each that answers; intervals below their means."""
    from rich import box
    from rich.table import Table

    from .evaluation.columns import COLUMNS
    from .evaluation.words import rows

    told = rows(found)
    table = Table(box=box.SIMPLE, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("", no_wrap=True)
    for key in told[0][1]:
        head = f"{COLUMNS[key].name} {COLUMNS[key].unit}".split()
        table.add_column("\n".join(head), justify="right", no_wrap=True)
    for who, cells in told:
        parts = (cell.partition(" [") for cell in cells.values())
        texts = [mean + f"\n\\[{rest}" * bool(rest and intervals) for mean, _, rest in parts]
        table.add_row(escape(who), *texts, style="bold" if who == found.model["name"] else None)
    return table


def _too_wide(table: Table) -> bool:
    """Whether a terminal would have to cut it. A file is as wide as may be."""
    return plain.is_terminal and plain.measure(table).maximum > plain.width
