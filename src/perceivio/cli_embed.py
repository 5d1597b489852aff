"""The verbs `perceivio embed` and `perceivio search`."""

from __future__ import annotations

import dataclasses
from math import inf
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter, validators

from .console import Json, Overwrite, aside, complain, counted, literal, plain, print_json, progress
from .errors import PerceivioError
from .verbs import BAD_INPUT, Device, Duration, Model, Start, load_model, print_pace


def embed(
    files: Annotated[
        list[str],
        Parameter(
            help="Media files, or files of latents.", negative=(), consume_multiple=True
        ),
    ],
    /,
    *,
    output: Annotated[Path, Parameter(name=["--output", "-o"], help="Parquet file to write.")],
    pooling: Annotated[
        Literal["spread", "mean", "both"],
        Parameter(
            help="What of the latents makes the vector: the spread of each channel over them, its"
            " mean, or both; see docs/embed.md."
        ),
    ] = "spread",
    model: Model = "small",
    start: Start = 0.0,
    duration: Duration = None,
    overwrite: Overwrite = False,
    device: Device = None,
    json: Json = False,
) -> int:
    """Make a vector of every window of files, to search and to learn from.

    Writes a Parquet table, one row a window: file, start, stop, model, embedding. Files that
    cannot be read are told and left out.

    Example: perceivio embed films/*.mp4 -o films.parquet
    """
    from . import embeddings

    def tell(path: str, what: str | PerceivioError) -> None:
        if isinstance(what, PerceivioError):
            complain(what)
        else:
            aside.print(f"note: {literal(path)}: {literal(what)}")

    ready = load_model(model, device)
    with progress(output.name) as advance:
        report = embeddings.embed(
            files,
            output,
            ready,
            pooling=pooling,
            start=start,
            duration=duration,
            overwrite=overwrite,
            progress=advance,
            tell=tell,
        )
    code = BAD_INPUT if report.skipped else 0
    if json:
        plain_facts = dataclasses.asdict(report.facts)
        print_json({"written": str(output), **plain_facts, **report.figures()})
        return code
    plain.print(
        f"[bold]{literal(output)}[/bold]  {counted(report.windows, 'window')}"
        f" of {counted(report.files, 'file')}, {report.facts.channels} numbers each"
    )
    print_pace(report.seconds, report.media_seconds)
    if report.skipped:
        skipped = counted(len(report.skipped), "file")
        plain.print(f"  left out {skipped} that could not be read to the end")
    return code


def search(
    query: Annotated[
        str,
        Parameter(
            help="Media file, or file of latents; or a whole number: that row of the table, counted"
            " from 0.",
            allow_leading_hyphen=True,
        ),
    ],
    /,
    *,
    table: Annotated[
        Path, Parameter(name=["--in", "-i"], help="Table that `perceivio embed` wrote.")
    ],
    top: Annotated[
        int, Parameter(help="Windows to name.", validator=validators.Number(gte=1))
    ] = 10,
    at: Annotated[
        float | None,
        Parameter(
            help="Take of QUERY only the window that begins at this second.",
            validator=validators.Number(gte=0, lt=inf),
        ),
    ] = None,
    others: Annotated[
        bool, Parameter(negative=(), help="Leave out the windows of QUERY's own file.")
    ] = False,
    model: Annotated[
        str | None,
        Parameter(
            name=["--model", "-m"],
            help="The model that made the table; without it, the one that the table names.",
        ),
    ] = None,
    start: Start = 0.0,
    duration: Duration = None,
    device: Device = None,
    json: Json = False,
) -> int:
    """Name the windows of a table that are nearest to a file, or to a row of the table, by cosine.

    Each row is as near as to the nearest window of QUERY. The search is exact.

    Example: perceivio search digit.mp4 --at 0.64 --in films.parquet --top 5
    """
    from . import searching

    wanted: str | int = query
    if query.removeprefix("-").isdecimal() and not Path(query).exists():
        wanted = int(query)
    with progress(table.name) as advance:
        hits = searching.search(
            wanted,
            table,
            model,
            at=at,
            start=start,
            duration=duration,
            top=top,
            others=others,
            device=device,
            progress=advance,
        )
    if json:
        print_json({"query": query, "in": str(table), "hits": [vars(hit) for hit in hits]})
        return 0
    plain.print(f"[bold]{literal(query)}[/bold]  nearest of {literal(table)}")
    several = len({hit.query_start for hit in hits}) > 1
    width = max((len(str(hit.row)) for hit in hits), default=1)
    for hit in hits:
        near = f"   to {hit.query_start:.2f} s" if several else ""
        plain.print(
            f"  {hit.cosine:.4f}  {hit.row:{width}}  {hit.start:7.2f} - {hit.stop:.2f} s"
            f"  {literal(hit.file)}{near}"
        )
    return 0
