"""A process of `benchmarks.scale`: gradients of so many parameters added up over gloo, alone.

Under torchrun; the first process prints the median, fastest and slowest of some times, in seconds.
"""

from __future__ import annotations

import statistics
import sys
import time

import torch
import torch.distributed as dist

RUNS = 15

dist.init_process_group("gloo")
gradients = torch.ones(int(sys.argv[1]))
seconds = []
for _ in range(RUNS):
    dist.barrier()
    began = time.perf_counter()
    dist.all_reduce(gradients)
    seconds.append(time.perf_counter() - began)
    gradients.fill_(1.0)
if not dist.get_rank():
    print("seconds", statistics.median(seconds), min(seconds), max(seconds))
dist.destroy_process_group()
