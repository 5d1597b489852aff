"""How a run says that it cannot go on: once, however many processes it has."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Generator

from ..errors import PerceivioError


class RunError(PerceivioError):
    """A run that cannot begin, or cannot go on."""


class ElsewhereError(PerceivioError):
    """What another process of this run tells."""


@contextlib.contextmanager
def told_once() -> Generator[None]:
    """For what every process finds wrong alike, before they can speak with each other: the first
    one of each machine tells it, in the others it becomes ElsewhereError."""
    try:
        yield
    except PerceivioError as error:
        if int(os.environ.get("LOCAL_RANK", "0")):
            raise ElsewhereError(str(error)) from error
        raise
