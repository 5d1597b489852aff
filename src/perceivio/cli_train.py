"""The verb `perceivio train`."""

from __future__ import annotations

import json as jsonlib
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from .console import Json, aside, complain, literal, plain, print_json
from .errors import PerceivioError

if TYPE_CHECKING:
    from .training.settings import Settings

GRACE = 3.0  # seconds


def train(
    data: Annotated[
        str, Parameter(help="Index that `perceivio data index` or `pack` wrote.", show=True)
    ],
    /,
    *,
    output: Annotated[
        Path,
        Parameter(name=["--output", "-o"], help="Folder of the run; it is made, or gone on with."),
    ],
    config: Annotated[
        str,
        Parameter(
            name=["--config", "-c"],
            help="Settings: kinetics-88x, kinetics-176x, kinetics-352x, kinetics-classify, small,"
            " finetune, or a TOML file; see docs/training.md.",
        ),
    ] = "finetune",
    set: Annotated[
        list[str] | None,
        Parameter(
            name=["--set", "-s"],
            negative=(),
            help="One setting, over the configuration's: optimiser.rate=0.0005. Can be repeated.",
        ),
    ] = None,
    root: Annotated[
        str | None,
        Parameter(help="Folder in which the clips are, where it is not the index's own."),
    ] = None,
    other_settings: Annotated[
        bool,
        Parameter(
            negative=(),
            help="Go on with a run although settings or clips differ from those it was begun with.",
        ),
    ] = False,
    device: Annotated[
        str | None, Parameter(help="cpu or cuda; without it, a GPU where there is one.")
    ] = None,
    show: Annotated[
        bool, Parameter(negative=(), help="Print all settings, and do nothing.")
    ] = False,
    json: Json = False,
) -> int:
    """Train on the clips of an index: begin a run, or go on with it where it was stopped.

    Stopped by Ctrl-C, by SIGTERM or by a power cut, the same command goes on, with the same losses
    as without the interruption. The folder holds the weights (OUTPUT/model, for --model of the
    other verbs), checkpoints, the losses of every step, and a board for TensorBoard. On several
    GPUs or nodes: accelerate launch --no-python perceivio train ...

    Example: perceivio train videos.parquet -o runs/mine --set schedule.steps=2000
    """
    from .training.errors import ElsewhereError, told_once
    from .training.settings import read_settings

    try:
        with told_once():
            settings = read_settings(config, set or ())
    except ElsewhereError:
        return _elsewhere()
    if show:
        print_json(settings.to_dict()) if json else plain.print(
            literal(jsonlib.dumps(settings.to_dict(), indent=2))
        )
        return 0
    several = int(os.environ.get("WORLD_SIZE", "1")) > 1
    try:
        code = _run(data, output, settings, root, other_settings, device, json)
    except PerceivioError as error:
        if not several:
            raise
        complain(error)
        code = 2
    if several:
        # All is written and closed. torch 2.13 keeps threads of a process group that has ended, and
        # they bring down one process in some fifty while Python ends; launchers call it a failure.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    return code


def _run(
    data: str,
    output: Path,
    settings: Settings,
    root: str | None,
    other_settings: bool,
    device: str | None,
    json: bool,
) -> int:
    from .training.errors import ElsewhereError
    from .training.loop import train as run

    try:
        result = run(
            data, output, settings, root=root, device=device, other_settings=other_settings
        )
    except ElsewhereError:
        return _elsewhere()
    if not result.first:
        return 128 + result.stopped if result.stopped else 0
    if result.stopped:
        aside.print(f"stopped after step {result.step}; the same command goes on from there")
        return 128 + result.stopped
    figures = result.scores.figures if result.scores else {}
    if json:
        print_json({"step": result.step, "validation": figures, "written": str(result.model)})
        return 0
    plain.print(f"[bold]{literal(output)}[/bold]  {result.step:,} steps")
    for name, value in figures.items():
        unit = " dB" if "snr" in name else ""
        plain.print(f"  {name:12} {value:.4g}{unit}")
    plain.print(f"  wrote        {literal(result.model)}")
    return 0


def _elsewhere() -> int:
    """The exit code of a process that leaves it to another to tell what is wrong. A launcher ends
    all processes when one has ended, so the other gets time to."""
    time.sleep(GRACE)
    return 2
