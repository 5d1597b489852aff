"""What SIGTERM and Ctrl-C do to a run: it finishes its step and writes a checkpoint."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Generator
from typing import Any

ENDING = (signal.SIGTERM, signal.SIGINT)


class Asked:
    """Whether this process was asked to stop, and by which signal."""

    number: int | None = None


@contextlib.contextmanager
def caught() -> Generator[Asked]:
    """Signals are noted while it lasts; a second one is not waited for."""
    asked = Asked()

    def note(number: int, _: Any) -> None:
        if asked.number is not None:
            raise KeyboardInterrupt
        asked.number = number

    with contextlib.ExitStack() as ends:
        for name in ENDING:
            with contextlib.suppress(ValueError):  # not in the main thread
                ends.callback(signal.signal, name, signal.signal(name, note))
        yield asked


def ignored(_: int = 0) -> None:
    """For processes that read clips: they end when the one does that they work for, which has a
    step to finish first. A terminal sends signals to all of them."""
    for name in ENDING:
        signal.signal(name, signal.SIG_IGN)
