"""What every verb of the command shares: where it prints, how it shows progress, how it fails.

Figures go to standard output; notes, progress and errors to standard error.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Annotated, Any

from cyclopts import Parameter
from rich.console import Console
from rich.markup import escape

from .errors import printable

Json = Annotated[
    bool, Parameter(name="--json", negative=(), help="Figures as JSON, one line a file.")
]
Overwrite = Annotated[bool, Parameter(negative=(), help="Replace a file that is there.")]

plain = Console(highlight=False, soft_wrap=True)
aside = Console(stderr=True, highlight=False, soft_wrap=True)


@contextmanager
def progress(name: str) -> Generator[Callable[[float, float], None]]:
    """A bar on standard error where that is a terminal."""
    if not aside.is_terminal:
        yield lambda done, total: None
        return
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
    with Progress(*columns, console=aside, transient=True) as bar:
        task = bar.add_task(literal(name), total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total or None)


def literal(text: object) -> str:
    """What a user or a file said, to be printed by `plain` and `aside`: it is neither markup nor a
    command to the terminal."""
    return escape(printable(text))


def counted(number: int, what: str) -> str:
    """As in "1 frame" and "2,000 frames"."""
    return f"{number:,} {what}{'s' * (number != 1)}"


def print_json(value: Any) -> None:
    line = json.dumps(value, ensure_ascii=False, allow_nan=False)
    # JSON lets through what commands some terminals.
    print("".join(c if c.isprintable() else json.dumps(c)[1:-1] for c in line))


def complain(error: Exception) -> None:
    line = " ".join(str(error).split())
    aside.print(f"perceivio: {literal(line)}", style="red" if aside.is_terminal else None)
