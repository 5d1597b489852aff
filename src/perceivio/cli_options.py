"""Options that verbs in several files share."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter, validators

Model = Annotated[
    str,
    Parameter(
        name=["--model", "-m"],
        help="Shipped weights, a Hugging Face hub id, a folder, or DeepMind's pickle;"
        " see `perceivio models`.",
    ),
]
Device = Annotated[
    str | None, Parameter(help="cpu, cuda, cuda:1, ...; without it, a GPU where there is one.")
]
Start = Annotated[
    float, Parameter(help="Second at which to begin.", validator=validators.Number(gte=0))
]
Duration = Annotated[
    float | None, Parameter(help="Seconds to work on.", validator=validators.Number(gt=0))
]
