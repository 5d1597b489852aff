"""Work that is cut into independent pieces, on as many CPU threads as torch is set to use.

Tiles that fit into a core's own cache run faster with one thread each than one after the other
with all threads on each: nothing waits for the slowest at every operation, and a core that
another process takes delays its own tile only.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from functools import cache
from typing import TypeVar

import torch

Item = TypeVar("Item")
Result = TypeVar("Result")


def threads(device: torch.device) -> int:
    """How many pieces are worked on at once."""
    return torch.get_num_threads() if device.type == "cpu" else 1


def pieces_of(rows: int, count: int) -> list[slice]:
    """Rows in `count` pieces of about the same size, or fewer."""
    size = -(-rows // count)
    return [slice(start, min(start + size, rows)) for start in range(0, rows, size)]


def share(
    work: Callable[[Item], Result], items: Sequence[Item], device: torch.device
) -> list[Result]:
    """[work(item) for item in items], in threads where the device is a CPU.

    An exception of any thread is raised here, once all threads have ended. torch's number of
    threads is the same afterwards; while this runs, other threads that use torch for the first
    time find it to be 1.
    """
    count = min(len(items), threads(device))
    if count <= 1:
        return [work(item) for item in items]
    ends = [None] * count
    left = deque([*range(len(items)), *ends])
    results: dict[int, Result] = {}

    @torch.inference_mode()
    def run() -> None:
        if torch.get_num_threads() != 1:  # asking fixes it for this thread, setting it does not
            torch.set_num_threads(1)
        for index in iter(left.popleft, None):
            results[index] = work(items[index])

    before = torch.get_num_threads()
    try:
        pool = _pool(os.getpid(), count)
        running = [pool.submit(run) for _ in range(count)]
        try:
            wait(running, return_when=FIRST_EXCEPTION)
        finally:  # after an exception, Ctrl-C too, threads end after the item they are at
            left.extendleft(ends)
            wait(running)
        for each in running:
            each.result()
    finally:
        # torch's number of threads is each thread's own, and its default for new threads.
        torch.set_num_threads(before)
    return [results[index] for index in range(len(items))]


@cache
def _pool(process: int, threads: int) -> ThreadPoolExecutor:
    """Threads that are kept: to start two and tell torch takes 2 ms. A forked process has none of
    its parent's, so it gets its own."""
    return ThreadPoolExecutor(threads, "perceivio")
