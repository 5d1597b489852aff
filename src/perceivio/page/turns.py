"""A thread of its own for each queue, so that memory does not grow with the number of visitors.

Gradio would run jobs in whichever of forty threads is free, and each of them would come to hold
what torch and the allocator keep for a thread.
"""

from __future__ import annotations

import contextvars
import functools
import gc
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

from ..memory import give_back

P = ParamSpec("P")
R = TypeVar("R")


class Turns:
    """Decorates functions: calls of all of them are done one after the other, in one thread.

    tidy  behind each call garbage is collected, which takes a tenth of a second
    """

    def __init__(self, name: str, tidy: bool) -> None:
        self._pool = ThreadPoolExecutor(1, name)
        self._tidy = tidy

    def __call__(self, function: Callable[P, R]) -> Callable[P, R]:
        def work(*args: P.args, **kwargs: P.kwargs) -> R:
            try:
                return function(*args, **kwargs)
            finally:
                if self._tidy:
                    gc.collect()  # an error holds what its functions held, frames and tensors
                give_back()

        @functools.wraps(function)
        def waiting(*args: P.args, **kwargs: P.kwargs) -> R:
            # Gradio knows by the context whose progress is told.
            context = contextvars.copy_context()
            return self._pool.submit(context.run, work, *args, **kwargs).result()

        return waiting
