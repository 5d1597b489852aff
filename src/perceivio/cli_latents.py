"""The verbs `perceivio encode` and `perceivio decode`: latents that one keeps."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter, validators

from .cli_asking import (
    At,
    Crop,
    FrameRate,
    Only,
    Preview,
    Size,
    part_of_file,
    print_answer,
    wants_part,
)
from .console import Json, Overwrite, aside, counted, literal, plain
from .verbs import (
    INTERRUPTED,
    Device,
    Duration,
    Inputs,
    MadeBy,
    Model,
    Start,
    Top,
    each,
    load_model,
    make_folder,
    print_head,
    print_pace,
    print_reconstruction,
)

if TYPE_CHECKING:
    from .asking import Answer
    from .keep import Kept
    from .pipeline import Report


def encode(
    inputs: Inputs,
    /,
    *,
    output: Annotated[
        Path | None,
        Parameter(
            name=["--output", "-o"],
            help="File, or folder for several inputs; without it NAME.latents in the current"
            " folder. Inputs that share a name, keep their suffix in NAME.",
        ),
    ] = None,
    precision: Annotated[
        Literal["float32", "float16", "int8", "int4"],
        Parameter(name=["--precision", "-p"], help="Of a number in the file."),
    ] = "float16",
    model: Model = "small",
    start: Start = 0.0,
    duration: Duration = None,
    overlap: Annotated[
        int | None,
        Parameter(
            help="Frames that windows share, to be crossfaded when they are decoded; without it,"
            " an eighth of them."
        ),
    ] = None,
    overwrite: Overwrite = False,
    device: Device = None,
    json: Json = False,
) -> int:
    """Encode media files into files of latents, which `decode` and `classify` read.

    What is written is called NAME.latents.part until it is whole. Stopped by Ctrl-C, by a kill or
    by a power cut, the same command goes on from there. docs/latents.md describes the file.

    Example: perceivio encode holiday.mov -o holiday.latents --precision int8
    """
    from . import keep, pipeline

    make_folder(output, inputs)
    ready = load_model(model, device)
    names = dict(zip(inputs, pipeline.names_for(inputs), strict=True))

    def work(path: str, progress: Callable[[float, float], None]) -> Kept:
        return keep.encode(
            path,
            output,
            ready,
            precision=precision,
            start=start,
            duration=duration,
            overlap=overlap,
            overwrite=overwrite,
            progress=progress,
            name=names[path],
        )

    try:
        return each(inputs, work, _print_kept, json)
    except KeyboardInterrupt:
        aside.print("perceivio: interrupted; the same command goes on from what was written")
        return INTERRUPTED


def decode(
    inputs: Annotated[
        list[str], Parameter(help="Files of latents.", negative=(), consume_multiple=True)
    ],
    /,
    *,
    output: Annotated[
        Path | None,
        Parameter(
            name=["--output", "-o"],
            help="File, or folder for several inputs; without it NAME_reconstruction.mp4 (.wav"
            " for sound, .png for a still image) in the current folder. Of a part it may also be"
            " .npy or .npz.",
        ),
    ] = None,
    model: MadeBy = None,
    start: Annotated[
        float | None,
        Parameter(
            help="Second of the source at which to begin.",
            validator=validators.Number(gte=0, lt=inf),
        ),
    ] = None,
    duration: Duration = None,
    at: At = None,
    crop: Crop = None,
    size: Size = None,
    frame_rate: FrameRate = None,
    only: Only = None,
    preview: Preview = False,
    overwrite: Overwrite = False,
    top: Top = 5,
    device: Device = None,
    json: Json = False,
) -> int:
    """Make media of files of latents, as `reconstruct` makes them of the sources.

    Only the model that made the latents can decode them. A file that is unfinished, or was cut
    off, is decoded as far as it goes.

    Of a part that is asked for (--at, --crop, --size HEIGHTxWIDTH, --frame-rate, --only, --preview,
    or into NumPy) nothing else is computed: see docs/queries.md.

    Example: perceivio decode holiday.latents --start 10 --duration 5 -o part.mp4
    Example: perceivio decode holiday.latents --at 1.25 --size 448x448 -o frame.png
    """
    from . import keep, pipeline

    make_folder(output, inputs)
    load = cache(lambda name: load_model(name, device))
    names = dict(zip(inputs, pipeline.names_for(inputs), strict=True))

    def work(path: str, progress: Callable[[float, float], None]) -> Report:
        with keep.LatentsFile(path) as file:
            ready = keep.maker(file, model, load)
        return keep.decode(
            path,
            output,
            ready,
            start=start,
            duration=duration,
            size=None if size is None else int(size),
            overwrite=overwrite,
            top=top,
            progress=progress,
            name=names[path],
        )

    if not wants_part(output, at, crop, size, frame_rate, only, preview):
        return each(inputs, work, print_reconstruction, json)

    def work_on_part(path: str, progress: Callable[[float, float], None]) -> Answer:
        from .asking import ask

        with keep.LatentsFile(path) as file:
            ready, begin = keep.maker(file, model, load), file.start
        wanted = part_of_file(at, start, duration, crop, size, frame_rate, only, preview, begin)
        return ask(
            path,
            output,
            ready,
            wanted,
            overwrite=overwrite,
            top=top,
            progress=progress,
            name=names[path],
        )

    return each(inputs, work_on_part, print_answer, json)


def _print_kept(kept: Kept) -> None:
    print_head(kept)
    rate = kept.kilobits_a_second
    told = f", {rate:,.0f} kbit/s" if rate and kept.info.kind != "image" else ""
    plain.print(
        f"  latents  {counted(kept.windows, 'window')} in {kept.precision},"
        f" {kept.bytes:,} bytes{told}"
    )
    print_pace(kept.seconds, kept.media_seconds)
    plain.print(f"  wrote    {literal(kept.written)}")
