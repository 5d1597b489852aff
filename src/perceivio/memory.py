"""Freed memory goes back to the system. The C library keeps it, in pieces that fit less and less:
without this, a process that goes through many files comes to hold twice of what it needs."""

from __future__ import annotations

import ctypes
import os
import time

_last = 0.0  # when it was done, on the monotonic clock


def give_back(every: float = 0.0) -> None:
    """Give back what is free, where the C library is one that keeps it; but nothing where that was
    done less than `every` seconds ago: it takes some hundredths of a second."""
    global _last
    if os.name != "posix" or time.monotonic() - _last < every:
        return
    _last = time.monotonic()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
