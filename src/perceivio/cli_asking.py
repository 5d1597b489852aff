"""What `perceivio decode` takes when a part is wanted, and what it prints then."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, TypeVar

from cyclopts import Parameter, validators

from .console import counted, literal, plain
from .errors import PerceivioError
from .verbs import named, print_head

if TYPE_CHECKING:
    from .asking import Answer, Ask

Number = TypeVar("Number", int, float)

At = Annotated[
    list[float] | None,
    Parameter(
        negative=(),
        consume_multiple=True,
        help="Single frames at these seconds, between frames too: NAME_at_SECONDS.png each, or"
        " together in an .npy or .npz.",
    ),
]
Crop = Annotated[
    str | None,
    Parameter(
        help="TOP,LEFT,HEIGHT,WIDTH of the part of the picture, as fractions of it:"
        " 0.25,0.25,0.5,0.5 is the middle."
    ),
]
Size = Annotated[
    str | None,
    Parameter(help="Of the picture, in pixels: HEIGHTxWIDTH, or the height alone."),
]
FrameRate = Annotated[
    float | None,
    Parameter(
        help="Frames a second; without it, the model's own.", validator=validators.Number(gt=0)
    ),
]
Only = Annotated[
    Literal["image", "audio", "classes"] | None,
    Parameter(help="Compute and write this alone; classes are printed."),
]
Preview = Annotated[
    bool,
    Parameter(negative=(), help="Ask for one pixel in 4 x 4, where the model can, and enlarge."),
]


def wants_part(
    output: Path | None,
    at: list[float] | None,
    crop: str | None,
    size: str | None,
    frame_rate: float | None,
    only: str | None,
    preview: bool,
) -> bool:
    """Whether these options ask for more, or less, than `decode` makes of the whole picture."""
    arrays = output is not None and output.suffix.lower() in (".npy", ".npz")
    sides = size is not None and not size.isdecimal()
    return bool(at or crop or sides or frame_rate or only or preview or arrays)


def part_of_file(
    at: list[float] | None,
    start: float | None,
    duration: float | None,
    crop: str | None,
    size: str | None,
    frame_rate: float | None,
    only: Literal["image", "audio", "classes"] | None,
    preview: bool,
    begin: float,
) -> Ask:
    """begin  second at which the recording begins"""
    from .asking import Ask

    stop = None if duration is None else (begin if start is None else start) + duration
    alone = size is not None and size.isdecimal()
    sides = None if size is None or alone else _numbers(int, "--size", size, "HEIGHTxWIDTH")
    places = None if crop is None else _numbers(float, "--crop", crop, "TOP,LEFT,HEIGHT,WIDTH")
    return Ask(
        at=tuple(at or ()),
        start=start,
        stop=stop,
        rate=frame_rate,
        size=None if sides is None else (sides[0], sides[1]),
        height=int(size) if size and alone else None,
        crop=None if places is None else (places[0], places[1], places[2], places[3]),
        preview=preview,
        only=only,
    )


def _numbers(kind: Callable[[str], Number], option: str, text: str, form: str) -> list[Number]:
    """Numbers written as in `form`. Raises PerceivioError for anything else."""
    between = "x" if "x" in form else ","
    try:
        found = [kind(part) for part in text.lower().split(between)]
    except ValueError:
        found = []
    if len(found) != form.count(between) + 1:
        raise PerceivioError(f"{option} {text}: give {form}")
    return found


def print_answer(answer: Answer) -> None:
    print_head(answer)
    if answer.frames and answer.size:
        height, width = answer.size
        plain.print(f"  picture  {counted(answer.frames, 'frame')} of {width} x {height}")
    if answer.samples:
        plain.print(f"  sound    {counted(answer.samples, 'sample')}")
    if answer.classes:
        plain.print(f"  classes  {named(answer.classes)}")
    plain.print(f"  took     {answer.seconds:.2f} s")
    for path in answer.written:
        plain.print(f"  wrote    {literal(path)}")
