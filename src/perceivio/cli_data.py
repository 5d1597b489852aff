"""The verbs `perceivio data ...`: index, pack and show many clips."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import App, Parameter, validators

from .console import Json, Overwrite, aside, counted, literal, plain, print_json, progress
from .errors import PerceivioError

if TYPE_CHECKING:
    from .data.store import Place

data = App(
    name="data",
    help="Index, pack and look at the clips to train on; places may be on any store: s3://...",
    help_epilogue="Each verb explains itself: perceivio data index --help",
    help_format="markdown",
)

IndexFile = Annotated[str, Parameter(help="Index that `perceivio data index` or `pack` wrote.")]
Root = Annotated[
    str | None, Parameter(help="Folder in which the clips are, where it is not the index's own.")
]
Threads = Annotated[
    int | None,
    Parameter(help="Clips to work on at a time.", validator=validators.Number(gte=1)),
]


@data.command
def index(
    source: Annotated[
        str, Parameter(help="Folder of clips, or Kinetics' annotations (a .csv file).")
    ],
    /,
    *,
    output: Annotated[str, Parameter(name=["--output", "-o"], help="Parquet file to write.")],
    root: Annotated[
        str | None, Parameter(help="Folder of a CSV's clips; without it, the CSV's own.")
    ] = None,
    keep_silent: Annotated[bool, Parameter(negative=(), help="Keep clips without sound.")] = False,
    keep_short: Annotated[bool, Parameter(negative=(), help="Keep clips that are short.")] = False,
    shortest: Annotated[
        float,
        Parameter(help="Seconds below which a clip is short.", validator=validators.Number(gte=0)),
    ] = 0.64,
    config: Annotated[
        str | None,
        Parameter(
            name=["--config", "-c"],
            help="Settings of a training, as for `perceivio train`: the files beside clips that its"
            " modalities are read from are looked for, and checked.",
        ),
    ] = None,
    threads: Threads = None,
    overwrite: Overwrite = False,
    json: Json = False,
) -> int:
    """Check every clip of a folder or of Kinetics' annotations, and write an index of the good.

    Folders in the folder are classes. Clips that are missing, empty, corrupt, truncated, without
    picture, silent or too short are counted and left out.

    Example: perceivio data index videos/train -o videos/train.parquet
    """
    from .data import indexing
    from .data.store import Place

    target, beside = _free(Place.of(output), overwrite), ()
    if config is not None:
        from .training.settings import read_settings
        from .training.start import Declared

        beside = Declared.by(read_settings(config)).config.beside()
    with progress(source) as advance:
        found, report = indexing.build(
            source,
            root,
            keep_silent=keep_silent,
            keep_short=keep_short,
            shortest=shortest,
            beside=beside,
            threads=threads or indexing.THREADS,
            progress=advance,
        )
    found.write(target)
    if json:
        print_json({**report.to_dict(), "written": str(target)})
        return 0
    plain.print(
        f"[bold]{literal(source)}[/bold]  {counted(report.clips, 'clip')},"
        f" {_length(report.seconds)}; {report.labelled:,} of them in {report.classes} classes"
    )
    for what, groups in (("left out", report.left_out), ("kept", report.kept)):
        for reason in indexing.REASONS:
            if paths := groups.get(reason):
                some = ", ".join(paths[: indexing.EXAMPLES])
                more = ", ..." if len(paths) > indexing.EXAMPLES else ""
                plain.print(f"  {what} {len(paths):7,} {reason:10}  {literal(some)}{more}")
    for name, about in report.beside.items():
        unfit = f", {len(about.unfit):,} cannot be used" if about.unfit else ""
        there = f"{counted(about.there, 'clip')}, {about.missing:,} have none{unfit}"
        plain.print(f"  {literal(name):8} {there}")
        for line in about.unfit[: indexing.EXAMPLES]:
            plain.print(f"           {literal(line)}")
    if report.others:
        plain.print(f"  {report.others:,} other files are no videos by their names")
    plain.print(f"  wrote    {literal(target)}")
    return 0


@data.command
def pack(
    index: IndexFile,
    /,
    *,
    output: Annotated[str, Parameter(name=["--output", "-o"], help="Folder to write; it is made.")],
    root: Root = None,
    shard_mb: Annotated[
        float, Parameter(help="Megabytes of a shard at most.", validator=validators.Number(gt=0))
    ] = 500,
    short_side: Annotated[
        int | None,
        Parameter(
            help="Encode anew, with the shorter side of so many pixels at most; without it and"
            " --keyframes, clips are copied as they are.",
            validator=validators.Number(gte=16),
        ),
    ] = None,
    keyframes: Annotated[
        int | None,
        Parameter(
            help="Encode anew, with a keyframe every so many frames at least: fewer frames to"
            " decode on the way to a random window.",
            validator=validators.Number(gte=1),
        ),
    ] = None,
    threads: Threads = None,
    json: Json = False,
) -> int:
    """Pack the clips of an index into tar shards with an index of their own.

    Interrupted, even killed, the same command goes on where it stopped.

    Example: perceivio data pack videos/train.parquet -o packs/train --short-side 256 --keyframes 25
    """
    from .data import packing
    from .data.catalogue import Index
    from .data.store import Place

    encoding = None
    if short_side is not None or keyframes is not None:
        given = {"short_side": short_side, "keyframes": keyframes}
        encoding = packing.Encoding(**{name: n for name, n in given.items() if n is not None})
    folder = Place.of(output)
    clips = Index.read(index, root)
    with progress(index) as advance:
        report = packing.pack(
            clips,
            folder,
            shard_megabytes=shard_mb,
            encoding=encoding,
            threads=threads or packing.THREADS,
            progress=advance,
        )
    if json:
        print_json({**report.to_dict(), "written": str(folder)})
        return 0
    beside = f" and {report.beside:,} files beside them" if report.beside else ""
    before = f", {report.shards_before} of them from before" if report.shards_before else ""
    plain.print(
        f"[bold]{literal(folder)}[/bold]  {counted(report.clips, 'clip')}{beside},"
        f" {report.size / 1e6:,.1f} MB"
        f" in {counted(report.shards, 'shard')}{before}"
    )
    if report.failed:
        some = ", ".join(report.failed[:3])
        plain.print(f"  left out {len(report.failed):,} that could not be read: {literal(some)}")
    plain.print(f"  wrote    {literal(folder / packing.INDEX)}")
    return 0


@data.command
def show(
    index: IndexFile,
    /,
    *,
    output: Annotated[Path, Parameter(name=["--output", "-o"], help="PNG file to write.")],
    count: Annotated[
        int, Parameter(help="Clips to show.", validator=validators.Number(gte=1, lte=1000))
    ] = 24,
    seed: Annotated[int, Parameter(help="Which clips.", validator=validators.Number(gte=0))] = 0,
    root: Root = None,
    overwrite: Overwrite = False,
    json: Json = False,
) -> int:
    """Draw a contact sheet: the middle frames of some clips with their labels and durations.

    Example: perceivio data show videos/train.parquet -o sheet.png --count 24
    """
    from .data import sheet
    from .data.catalogue import Index
    from .data.store import Place

    if output.suffix.lower() != ".png":
        raise PerceivioError(f"{output}: a contact sheet is a PNG; name a .png file")
    target = _free(Place.of(output), overwrite)
    clips = Index.read(index, root)
    with progress(index) as advance:
        drawn, unread = sheet.draw(clips, count, seed, advance)
    try:
        with target.write() as file:
            drawn.save(file, "png")
    except OSError as error:
        raise PerceivioError(f"{output}: cannot be written: {error.strerror}") from error
    shown = min(count, len(clips))
    if json:
        print_json({"clips": shown, "unread": len(unread), "written": str(target)})
        return 0
    for path in unread:
        aside.print(f"note: {literal(path)}: cannot be read: its picture stays grey")
    plain.print(f"[bold]{literal(output)}[/bold]  {shown} of {len(clips):,} clips")
    return 0


def _length(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 3600 else f"{seconds / 3600:,.1f} hours"


def _free(target: Place, overwrite: bool) -> Place:
    """The same place, if it may be written. Raises PerceivioError in one line where not."""
    if target.is_folder():
        raise PerceivioError(f"{target}: is a folder; name a file in it")
    if target.exists() and not overwrite:
        raise PerceivioError(
            f"{target} already exists; add --overwrite or choose another name with -o"
        )
    if target.is_local and not target.parent.is_folder():
        raise PerceivioError(f"{target.parent}: no such folder")
    return target
