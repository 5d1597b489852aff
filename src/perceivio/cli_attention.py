"""The verb `perceivio attention`."""

from __future__ import annotations

from math import inf
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter, validators

from .console import Json, Overwrite, literal, plain, print_json
from .errors import PerceivioError
from .verbs import Device, MadeBy, load_model


def attention(
    input: Annotated[str, Parameter(help="Media file, or file of latents.")],
    /,
    *,
    output: Annotated[
        Path | None,
        Parameter(
            name=["--output", "-o"],
            help="Folder, or what the pictures' names begin with; without it the name of IN, in the"
            " current folder.",
        ),
    ] = None,
    at: Annotated[
        float,
        Parameter(
            help="Second at which the window begins that is looked at.",
            validator=validators.Number(gte=0, lt=inf),
        ),
    ] = 0.0,
    latents: Annotated[
        str | None,
        Parameter(
            help="Numbers of the latents to look at: 3,17,160; without it, the strongest.",
        ),
    ] = None,
    top: Annotated[
        int,
        Parameter(
            help="How many of the strongest of every modality: those that its output queries give"
            " the largest weight to.",
            validator=validators.Number(gte=1, lte=16),
        ),
    ] = 2,
    model: MadeBy = None,
    overwrite: Overwrite = False,
    device: Device = None,
    json: Json = False,
) -> int:
    """Draw where latents read from and where they write to, in one window of a file.

    Writes NAME_reads.png and NAME_writes.png: one row a latent, heat maps over frames and over the
    waveform. Of a file of latents, which does not hold what was read, only the second.

    Example: perceivio attention clip.mp4 --at 1.28 --top 3
    """
    from . import looking
    from .keep import model_for

    chosen = None if latents is None else _numbers(latents)
    ready = model_for(input, model, lambda name: load_model(name, device))
    report = looking.look(
        input, output, ready, at=at, latents=chosen, top=top, overwrite=overwrite
    )
    if json:
        print_json(report.to_dict())
        return 0
    found = report.attention
    plain.print(f"[bold]{literal(input)}[/bold]  {report.start:.2f} - {report.stop:.2f} s")
    for number, latent in enumerate(found.latents):
        wrote = {name: float(share[latent]) for name, share in found.shares.items()}
        told = f"writes {_told(wrote, 'of')}"
        if found.reads is not None:
            read = {name: float(found.read_shares(name)[number]) for name in found.reads}
            told = f"reads {_told(read, 'from')}; {told}"
        plain.print(f"  latent {latent:<4} {told}")
    for path in report.written:
        plain.print(f"  wrote       {literal(path)}")
    return 0


def _told(shares: dict[str, float], word: str) -> str:
    """What is more than next to nothing, the largest first."""
    largest = sorted(shares.items(), key=lambda pair: -pair[1])
    told = [f"{share:.1%} {word} {literal(name)}" for name, share in largest if share >= 0.0005]
    return ", ".join(told) or "next to nothing"


def _numbers(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise PerceivioError(
            f"--latents {text}: name whole numbers with commas between them, such as 3,17,160"
        ) from None
