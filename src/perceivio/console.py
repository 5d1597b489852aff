"""What every verb of the command shares: where it prints, how it shows progress, how it fails.

Figures go to standard output; notes, progress and errors to standard error.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated, Any

from cyclopts import Parameter
from rich.console import Console
from rich.markup import escape

Json = Annotated[
    bool, Parameter(name="--json", negative=(), help="Figures as JSON, one line a file.")
]
Overwrite = Annotated[bool, Parameter(negative=(), help="Replace a file that is there.")]

plain = Console(highlight=False, soft_wrap=True)
aside = Console(stderr=True, highlight=False, soft_wrap=True)


@contextmanager
def progress(name: str) -> Iterator[Callable[[float, float], None]]:
    """A bar on standard error where that is a terminal."""
    if not aside.is_terminal:
        yield lambda done, total: None
        return
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
    with Progress(*columns, console=aside, transient=True) as bar:
        task = bar.add_task(escape(name), total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total or None)


def print_json(value: Any) -> None:
    print(json.dumps(value, ensure_ascii=False, allow_nan=False))


def complain(error: Exception) -> None:
    line = " ".join(str(error).split())
    aside.print(f"perceivio: {escape(line)}", style="red" if aside.is_terminal else None)
