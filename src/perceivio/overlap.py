"""Stages of a file's way that run beside each other: reading ahead, and writing behind.

FFmpeg and torch let go of Python's lock while they work, so a thread for each stage is enough.
Few items are under way at a time: memory does not grow.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from typing import Any, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

DEPTH = 2  # items that are made ahead, or wait to be done with
_END: Any = object()


def ahead(items: Iterable[Item], depth: int = DEPTH) -> Iterator[Item]:
    """The same items in the same order, made in a thread, up to `depth` before they are asked for.

    An exception comes out where its item would have. Left early, it ends the thread after the
    item that is being made.
    """
    source = iter(items)
    with ThreadPoolExecutor(1, "perceivio-ahead") as pool:
        under_way = deque(pool.submit(next, source, _END) for _ in range(depth))
        try:
            while (item := under_way.popleft().result()) is not _END:
                under_way.append(pool.submit(next, source, _END))
                yield item
        finally:
            pool.shutdown(cancel_futures=True)


def several_ahead(
    work: Callable[[Item], Result], items: Iterable[Item], threads: int
) -> Iterator[Result]:
    """work(item) of each item in their order, by several threads, a few items ahead of the asker.

    Exceptions come out as with `ahead`, and so does leaving early.
    """
    source = iter(items)
    with ThreadPoolExecutor(threads, "perceivio-several") as pool:
        first = itertools.islice(source, threads * DEPTH)
        under_way = deque(pool.submit(work, item) for item in first)
        try:
            while under_way:
                result = under_way.popleft().result()
                under_way.extend(pool.submit(work, item) for item in itertools.islice(source, 1))
                yield result
        finally:
            pool.shutdown(cancel_futures=True)


class Behind(AbstractContextManager["Behind"]):
    """Does what it is given in a thread, one after the other, up to `depth` behind.

    An exception of anything done comes out at a later `do`, or at the end of the `with` block; of
    what was given after it nothing more is done. Where the block itself ends by an exception,
    what waits is dropped.
    """

    def __init__(self, depth: int = DEPTH) -> None:
        self._pool = ThreadPoolExecutor(1, "perceivio-behind")
        self._under_way: deque[Future[None]] = deque()
        self._depth = depth
        self._failed = False

    def do(self, work: Callable[[], None]) -> None:
        while len(self._under_way) >= self._depth:
            self._under_way.popleft().result()
        self._under_way.append(self._pool.submit(self._run, work))

    def _run(self, work: Callable[[], None]) -> None:
        if self._failed:
            return
        try:
            work()
        except BaseException:
            self._failed = True
            raise

    def __exit__(self, kind: object, *_: object) -> None:
        try:
            while kind is None and self._under_way:
                self._under_way.popleft().result()
        finally:
            self._pool.shutdown(cancel_futures=True)
