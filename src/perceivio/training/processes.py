"""The processes of a run, each with a copy of the model and a share of the clips.

One may speak for all, and where one fails all stop, with one line that says why.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Generator, Mapping
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from accelerate import Accelerator, DistributedDataParallelKwargs
from accelerate.state import AcceleratorState
from accelerate.utils import broadcast_object_list, gather_object
from torch import Tensor

from ..errors import PerceivioError
from .errors import ElsewhereError
from .settings import Objective, Settings, SettingsError

T = TypeVar("T")


class Processes:
    """This process among the others; `accelerate launch` and `torchrun` say which it is.

    count     processes of the run
    rank      of this one
    here      processes of this machine
    is_first  whether it is the one that writes and tells
    device    that it computes on
    """

    def __init__(self, accelerator: Accelerator) -> None:
        self.accelerator = accelerator
        self.count, self.rank = accelerator.num_processes, accelerator.process_index
        self.here = int(os.environ.get("LOCAL_WORLD_SIZE") or self.count)
        self.is_first = self.rank == 0
        self.device: torch.device = accelerator.device

    def each(self, work: Callable[[], T]) -> T:
        """Something that all do. Where it fails in any, all stop: the first of those with its
        error, the others with ElsewhereError."""
        if self.count == 1:
            return work()
        try:
            result = work()
        except PerceivioError:
            if any(self.gathered([True])[: self.rank]):
                raise ElsewhereError("another process has stopped") from None
            raise
        if any(self.gathered([False])):
            raise ElsewhereError("another process has stopped")
        return result

    def first(self, work: Callable[[], T]) -> T | None:
        """Something that only the first does, and the others wait for; they get None. Where it
        fails all stop, as in `each`."""
        return self.each(lambda: work() if self.is_first else None)

    def told(self, value: T) -> T:
        """What the first process has for `value`, in all."""
        return value if self.count == 1 else broadcast_object_list([value])[0]

    def gathered(self, items: list[T]) -> list[T]:
        """Those of all processes, in the order of their ranks."""
        return items if self.count == 1 else gather_object(items)

    def total(self, sums: Tensor) -> Tensor:
        """Added up over all processes, on the CPU."""
        if self.count == 1:
            return sums
        total = self.accelerator.reduce(sums.to(self.device), "sum")
        assert isinstance(total, Tensor)
        return total.cpu()

    def computed(self) -> dict[str, Any]:
        """What the last digits of losses depend on, for a checkpoint."""
        on_cpu = self.device.type == "cpu"
        threads = torch.get_num_threads() if on_cpu else 0
        return {"device": self.device.type, "processes": self.count, "threads": threads}


def computed_otherwise(before: Mapping[str, Any] | None, now: Mapping[str, Any]) -> str:
    """What is to be told of a run that goes on otherwise than it was computed before; empty
    where there is nothing, or where nothing is known."""
    if before is None or before == now:
        return ""

    def shown(how: Mapping[str, Any]) -> str:
        processes = f"{how['processes']} process{'es' * (how['processes'] > 1)}"
        threads = f" of {how['threads']} thread{'s' * (how['threads'] > 1)}" * (how["threads"] > 0)
        return f"{processes}{threads} on {how['device']}"

    # Each process draws its own points.
    points = " and, by the points that are drawn, more" * (before["processes"] != now["processes"])
    return (
        f"computed by {shown(before)} until here, by {shown(now)} from now on: losses will differ"
        f" from those of an undisturbed run in the last digits{points}"
    )


@contextlib.contextmanager
def begun(
    settings: Settings, objectives: Mapping[str, Objective], device: str | None
) -> Generator[Processes]:
    """The processes of a run while it lasts. A process whose fellows have gone ends with
    ElsewhereError: one of them tells why."""
    with contextlib.ExitStack() as ends:
        if not dist.is_initialized():
            ends.callback(lambda: dist.is_initialized() and dist.destroy_process_group())
        processes = Processes(_accelerator(settings, objectives, device))
        try:
            yield processes
        except RuntimeError as error:
            lost = isinstance(error, dist.DistError) or "onnection " in str(error)
            if processes.count == 1 or not lost:
                raise
            raise ElsewhereError("another process has ended") from error


def _accelerator(
    settings: Settings, objectives: Mapping[str, Objective], device: str | None
) -> Accelerator:
    cpu = device == "cpu" or not torch.accelerator.is_available()
    precision = settings.run.precision
    half = precision == "bfloat16" or (precision == "auto" and not cpu)
    # A run in the same process may have been of another kind.
    anew = AcceleratorState._reset_state  # pyright: ignore[reportPrivateUsage]
    anew(reset_partial_state=not dist.is_initialized())
    # Mask tokens of what is never masked have no part in any step. And without looking for such,
    # torch regroups the gradients after a process's first step: sums over more than two processes
    # would be rounded otherwise after a restart.
    unused = any(not o.weight or not o.mask for o in objectives.values())
    several = int(os.environ.get("WORLD_SIZE", "1")) > 2
    kwargs = DistributedDataParallelKwargs(find_unused_parameters=unused or several)
    return Accelerator(
        cpu=cpu, mixed_precision="bf16" if half else "no", kwargs_handlers=[kwargs]
    )


def check_device(device: str | None) -> None:
    """Raises SettingsError for a device that is not there."""
    if device not in (None, "cpu", "cuda"):
        raise SettingsError(f"device must be cpu or cuda, not {device}")
    if device == "cuda" and not torch.cuda.is_available():
        raise SettingsError("device 'cuda' cannot be used: there is no GPU that torch sees")
