"""What the verbs that work on media files share: their parameters, one file after the other, and
what they print of each.
"""

from __future__ import annotations

from collections.abc import Callable
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Protocol, TypeVar

from cyclopts import Parameter, validators

from .console import aside, complain, counted, literal, plain, print_json, progress
from .errors import PerceivioError

if TYPE_CHECKING:
    from .autoencoder import Autoencoder, Prediction
    from .media import MediaInfo
    from .pipeline import Report

BAD_INPUT = 2
INTERRUPTED = 130

Inputs = Annotated[list[str], Parameter(help="Media files.", negative=(), consume_multiple=True)]
Model = Annotated[
    str,
    Parameter(
        name=["--model", "-m"],
        help="Shipped weights, a Hugging Face hub id, a folder, or DeepMind's pickle;"
        " see `perceivio models`.",
    ),
]
MadeBy = Annotated[
    str | None,
    Parameter(
        name=["--model", "-m"],
        help="As --model of other verbs; without it, the one that made the latents.",
    ),
]
Device = Annotated[
    str | None, Parameter(help="cpu, cuda, cuda:1, ...; without it, a GPU where there is one.")
]
Start = Annotated[
    float, Parameter(help="Second at which to begin.", validator=validators.Number(gte=0, lt=inf))
]
Duration = Annotated[
    float | None, Parameter(help="Seconds to work on.", validator=validators.Number(gt=0, lt=inf))
]
Top = Annotated[int, Parameter(help="Classes to name.", validator=validators.Number(gte=1))]


class About(Protocol):
    """What is said of one file."""

    @property
    def info(self) -> MediaInfo: ...
    @property
    def media_seconds(self) -> float: ...
    @property
    def notes(self) -> list[str]: ...
    @property
    def lost(self) -> tuple[int, float]: ...
    def to_dict(self) -> dict[str, Any]: ...


Said = TypeVar("Said", bound=About)


def load_model(model: str, device: str | None) -> Autoencoder:
    from .autoencoder import load

    return load(model, device)


def make_folder(output: Path | None, inputs: list[str]) -> None:
    """What -o names for several inputs is a folder."""
    if output is not None and len(inputs) > 1:
        if output.exists() and not output.is_dir():
            raise PerceivioError(f"{output}: is a file; name a folder with -o for several inputs")
        output.mkdir(parents=True, exist_ok=True)


def each(
    inputs: list[str],
    work: Callable[[str, Callable[[float, float], None]], Said],
    show: Callable[[Said], None],
    as_json: bool,
) -> int:
    """Work on each file in turn; one that fails is told and does not stop the others."""
    code = 0
    for path in inputs:
        try:
            with progress(Path(path).name) as advance:
                report = work(path, advance)
        except PerceivioError as error:
            complain(error)
            code = BAD_INPUT
            continue
        for note in report.notes:
            aside.print(f"note: {literal(path)}: {literal(note)}")
        packets, seconds = report.lost
        if packets:
            lost = f"{counted(packets, 'damaged packet')}, about {seconds:.2f} s, lost"
            aside.print(f"note: {literal(path)}: {lost}")
        if as_json:
            print_json(report.to_dict())
        else:
            show(report)
    return code


def print_head(report: About) -> None:
    info = report.info
    parts = [f"{report.media_seconds:.2f} s"] if info.kind != "image" else ["still image"]
    if info.video:
        rate = f" at {info.video.frame_rate:.4g} frames/s" if info.kind == "video" else ""
        parts.append(f"{info.video.width} x {info.video.height}{rate}")
    if info.audio:
        parts.append(f"sound at {info.audio.rate} Hz")
    plain.print(f"[bold]{literal(info.path)}[/bold]  {', '.join(parts)}")


def _decibels(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f} dB"


def print_reconstruction(report: Report) -> None:
    from .pipeline import told_of

    print_head(report)
    video, audio = report.video, report.audio
    if video.count:
        plain.print(
            f"  picture  PSNR {_decibels(video.psnr)}"
            f"   (mean colour of a window: {_decibels(video.trivial_psnr)})"
        )
    if audio.count and report.info.audio:
        plain.print(
            f"  sound    PSNR {_decibels(audio.psnr)}, SNR {_decibels(audio.snr)}"
            f"   (silence: {_decibels(audio.trivial_psnr)}, 0 dB)"
        )
    for name, fidelity in report.beside.items():
        figures = told_of(fidelity, report.media[name]).items()
        told = [
            f"R2 {value or 0:.3f}" if key == "r2" else f"{key[:-3].upper()} {_decibels(value)}"
            for key, value in figures
        ]
        plain.print(f"  {literal(name):8} {', '.join(told)}")
    if report.classes:
        plain.print(f"  classes  {named(report.classes)}")
    for name, found in report.others.items():
        plain.print(f"  {literal(name):8} {named(found)}")
    print_pace(report.seconds, report.media_seconds)
    for path in (report.written, *report.written_beside.values()):
        plain.print(f"  wrote    {literal(path)}")


def print_pace(seconds: float, media_seconds: float) -> None:
    pace = media_seconds / seconds if seconds else 0.0
    plain.print(f"  took     {seconds:.1f} s ({pace:.2g} x real time)")


def named(classes: list[Prediction]) -> str:
    return ", ".join(f"{literal(c.name)} {c.probability:.1%}" for c in classes)
