"""The verb `perceivio evaluate`."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter, validators
from rich.console import Console

from .console import Json, aside, counted, literal, plain, print_json, progress
from .errors import PerceivioError

if TYPE_CHECKING:
    from rich.table import Table

    from .autoencoder import Autoencoder
    from .evaluation.paper import Row
    from .evaluation.result import Evaluation

BAD_INPUT = 2
FILE_WIDTH = 160  # characters of a line, where output is no terminal
PAPER_WIDTH = 120  # of the paper's table, whatever the terminal's: better wrapped than cut


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
            help="Folders, media files, indexes (.parquet) that `perceivio data index` wrote, or"
            " Kinetics' annotations (.csv), of which an index is made first.",
            negative=(),
            consume_multiple=True,
        ),
    ],
    /,
    *,
    also: Annotated[
        list[str] | None,
        Parameter(help="Another model to evaluate on the same clips; may be given again."),
    ] = None,
    paper: Annotated[
        bool,
        Parameter(negative=(), help="End with the paper's table, and a row for each model in it."),
    ] = False,
    output: Annotated[
        Path | None,
        Parameter(
            name=["--output", "-o"],
            help="Folder to write; without it MODEL_evaluation in the current folder. Of several"
            " models, and where annotations are given, each model has a folder in it.",
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
        Parameter(
            help="Folder in which the clips of an index or of annotations are, where it is not"
            " their own."
        ),
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

    The paper's table: perceivio evaluate deepmind.pkl k700/val.csv --root k700/val --paper
    """
    from .autoencoder import load
    from .evaluation import paper as the_paper
    from .evaluation.run import evaluate

    models = [model, *(also or [])]
    folder = output if output is not None else _folder_for(model)
    if folder.exists() and not folder.is_dir():
        raise PerceivioError(f"{folder}: is a file; name a folder with -o")
    names = _names(models)
    several = bool(also) or any(each.endswith(".csv") for each in data)
    folders = {each: folder / name if several else folder for each, name in names.items()}
    data = [_index(each, root, folder) if each.endswith(".csv") else each for each in data]
    evaluations: dict[str, Evaluation] = {}
    for each, where in folders.items():
        began, loaded = time.perf_counter(), load(each, device)
        with progress(each) as advance:
            found = evaluate(
                loaded,
                data,
                where,
                precision=precision,
                windows=windows,
                limit=limit,
                codecs=codecs,
                root=root,
                overwrite=overwrite,
                progress=advance,
            )
        evaluations[each] = found
        if rates:
            _write_rates(loaded, data, where, root, limit)
        for reason in found.summary.reasons:
            aside.print(f"note: left out: {literal(reason)}")
        if not json:
            _print(found)
            plain.print(f"  took     {time.perf_counter() - began:.1f} s")
            plain.print(f"  wrote    {literal(where)}: report.html, evaluation.json, files.csv")
            if rates:
                plain.print("           and what bits bring: rates.md, rates.svg, rates.json")
    rows = [the_paper.row(found, names[each]) for each, found in evaluations.items()]
    if json:
        told = [found.to_dict() for found in evaluations.values()]
        table = {"paper": [each.to_dict() for each in (*the_paper.PAPER, *rows)]} if paper else {}
        single = told[0] if len(told) == 1 else {"evaluations": told}
        print_json({**single, **table})
    elif paper:
        _print_paper((*the_paper.PAPER, *rows))
    failed = any(found.summary.failed for found in evaluations.values())
    return BAD_INPUT if strict and failed else 0


def _names(models: list[str]) -> dict[str, str]:
    """What to call the folder of each model: its own name, with a number where two share one."""
    names: dict[str, str] = {}
    for each in models:
        stem = _stem(each)
        if Path(each).is_dir() and stem == "model":  # of a training's folder
            stem = Path(each).absolute().parent.name
        taken = set(names.values())
        later = (f"{stem}_{number}" for number in range(2, len(models) + 2))
        names[each] = next(name for name in (stem, *later) if name not in taken)
    return names


def _index(annotations: str, root: str | None, folder: Path) -> str:
    """The index of Kinetics' annotations, in the output folder: made once, then read."""
    from .data import indexing
    from .data.store import Place

    target = folder / f"{Path(annotations).stem}.parquet"
    if not target.exists():
        folder.mkdir(parents=True, exist_ok=True)
        with progress(annotations) as advance:
            found, report = indexing.build(
                annotations, root, keep_silent=True, keep_short=True, progress=advance
            )
        found.write(Place.of(str(target)))
        for reason, paths in report.left_out.items():
            if paths:
                more = ", ..." if len(paths) > 1 else ""
                aside.print(f"note: left out {len(paths):,} {reason}: {literal(paths[0])}{more}")
    return str(target)


def _print_paper(rows: Sequence[Row]) -> None:
    """The paper's rows and ours, under the same heads."""
    from rich import box
    from rich.table import Table

    from .evaluation.paper import COLUMNS, cells

    table = Table(box=box.SIMPLE, pad_edge=False, title="Kinetics-700-2020, the paper's table")
    table.add_column("", no_wrap=True)
    for head in COLUMNS.values():
        table.add_column(head, justify="right", no_wrap=True)
    for name, told in cells(rows):
        table.add_row(literal(name), *told)
    Console(width=max(plain.width, PAPER_WIDTH)).print(table)
    plain.print(
        "  Ratio by the paper's count. PSNR with peak 1, the label masked for top-1; the paper says"
        " neither\n  its peak nor which windows it took. Only an 88x checkpoint was ever published."
    )


def _folder_for(model: str) -> Path:
    """In the folder we are in, called after the model."""
    return Path(f"{_stem(model)}_evaluation")


def _stem(model: str) -> str:
    """What a model is called: not its whole path, and not how a pickle ends."""
    return Path(model).name.removesuffix(".pkl").removesuffix(".pystate")


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
        f"[bold]{literal(found.model['name'])}[/bold]  {counted(summary.files, 'file')},"
        f" {counted(summary.windows, 'window')} of {found.model['seconds']:g} s,"
        f" {found.settings['precision']} latents"
    )
    table, lines = _table(found, intervals=True), remarks(found)
    if _too_wide(table):
        table = _table(found, intervals=False)
        lines = ["Intervals are in report.html; this terminal is too narrow for them.", *lines[1:]]
    (plain if plain.is_terminal else Console(width=FILE_WIDTH)).print(table)
    for name, line in class_rows(found):
        plain.print(f"  {name:16} {literal(line)}")
    for ratio, formula in ratios(found):
        plain.print(f"  {ratio:>16} {literal(formula)}")
    for line in lines:
        plain.print(f"  {literal(line)}")


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
        table.add_row(literal(who), *texts, style="bold" if who == found.model["name"] else None)
    return table


def _too_wide(table: Table) -> bool:
    """Whether a terminal would have to cut it. A file is as wide as may be."""
    return plain.is_terminal and plain.measure(table).maximum > plain.width
