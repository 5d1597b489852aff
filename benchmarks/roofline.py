"""What a step of training asks of a GPU, counted on a processor, where it is run in the GPU's way:
large tiles, torch's own products and attention, bfloat16 where training uses it there.

Of every operation are counted its FLOP, by the formulas of torch.utils.flop_counter, and the bytes
of the arrays that it reads and writes. An operation cannot take less than the longer of the two
takes a card at its peak: the roofline. Nothing is fused, as nothing is in the code but what torch
fuses itself; caches are left out of account.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry, sdpa_backward_flop, sdpa_flop

from perceivio import scores
from perceivio.config import Config
from perceivio.model import MultimodalAutoencoder
from perceivio.training.averages import Average
from perceivio.training.losses import Learner
from perceivio.training.optimisers import optimiser_of
from perceivio.training.settings import Settings
from perceivio.training.start import objectives_of

from . import subjects, training

# Of what reads nothing that is in the array that it writes.
WRITERS = ("copy_", "fill_", "zero_", "zeros", "ones", "full", "arange")
NO_KERNEL = ("empty", "_unsafe_view", "_reshape_alias", "new_empty", "lift")


@dataclass(frozen=True)
class Card:
    """A GPU: FLOP/s of dense bfloat16 and of float32, bytes/s of its memory."""

    name: str
    half: float
    single: float
    memory: float


@dataclass
class Operations(TorchDispatchMode):
    """Every operation that starts a kernel: (FLOP, bytes, whether in bfloat16)."""

    seen: list[tuple[int, int, bool]] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        name = func._overloadpacket.__name__
        alias = [r.alias_info for r in func._schema.returns]
        view = any(info is not None and not info.is_write for info in alias)
        if not view and not name.startswith(NO_KERNEL):
            written = [x for x in tree_leaves(out) if isinstance(x, Tensor)]
            read = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
            if name.startswith(WRITERS):
                read = read[1:]
            moved = sum(x.numel() * x.element_size() for x in read + written)
            half = any(x.dtype == torch.bfloat16 for x in read)
            self.seen.append((_flop(func, args, kwargs or {}, out), moved, half))
        return out

    def seconds(self, card: Card) -> float:
        """On a card that reaches its roofline at every operation."""
        return sum(
            max(flop / (card.half if half else card.single), moved / card.memory)
            for flop, moved, half in self.seen
        )

    @property
    def flop(self) -> int:
        return sum(flop for flop, _, _ in self.seen)

    @property
    def bytes(self) -> int:
        return sum(moved for _, moved, _ in self.seen)


def _flop(func: Any, args: Any, kwargs: Any, out: Any) -> int:
    packet = func._overloadpacket
    # torch has formulas for GPUs' attention only.
    if packet.__name__ == "_scaled_dot_product_flash_attention_for_cpu":
        return sdpa_flop(*args[:3])
    if packet.__name__ == "_scaled_dot_product_flash_attention_for_cpu_backward":
        return sdpa_backward_flop(*args[:4])
    formula = flop_registry.get(packet)
    return int(formula(*args, **kwargs, out_val=out)) if formula else 0


@dataclass(frozen=True)
class Step:
    """Of one process: what a step needs once, and what each clip adds. Seconds are by card name."""

    flop: tuple[int, int]
    bytes: tuple[int, int]
    launches: tuple[int, int]
    seconds: dict[str, tuple[float, float]]


def of_step(config: Config, settings: Settings, cards: list[Card]) -> Step:
    """Whole: forward, backward, clipping, optimiser, averaged weights."""
    one, two = (_counted(_learn(config, settings, batch), gpu=True) for batch in (1, 2))

    def parts(count: Callable[[Operations], Any]) -> tuple[Any, Any]:
        return 2 * count(one) - count(two), count(two) - count(one)

    return Step(
        parts(lambda o: o.flop),
        parts(lambda o: o.bytes),
        parts(lambda o: len(o.seen)),
        {card.name: parts(lambda o, card=card: o.seconds(card)) for card in cards},
    )


def of_plain_module(config: Config, points: dict[str, Tensor | None]) -> int:
    """FLOP of the plain module's forward and backward of one clip."""
    module = MultimodalAutoencoder(config)
    inputs = subjects.clip(config)

    def work() -> None:
        outputs = module.decode(module.encode(inputs), points)
        torch.stack([x.square().mean() for x in outputs.values()]).sum().backward()

    return _counted(work, gpu=False).flop


def _learn(config: Config, settings: Settings, batch: int) -> Callable[[], None]:
    module = MultimodalAutoencoder(config)
    optimiser, average = optimiser_of(module, settings.optimiser), Average(module, 0.9)
    learner = Learner(module, objectives_of(settings, config))
    inputs = subjects.clip(config, batch)
    labels = torch.zeros(batch, dtype=torch.long)
    classes = config.classes()
    assert classes
    inputs[classes[0]] = torch.nn.functional.one_hot(labels, classes[1].channels).float()
    known = {classes[0]: torch.ones(batch, dtype=torch.bool)}
    masked = {name: every.logical_not() for name, every in known.items()}
    points = training.some_points(config)

    def work() -> None:
        with torch.autocast("cpu", torch.bfloat16):
            wrong = learner(inputs, masked, points, known)
        torch.stack([w.loss.mean() for w in wrong.values()]).sum().backward()
        nn.utils.clip_grad_norm_(module.parameters(), settings.optimiser.clip)
        optimiser.step()
        average.follow(module, 1)

    return work


def _counted(work: Callable[[], None], gpu: bool) -> Operations:
    threads, operations = torch.get_num_threads(), Operations()
    torch.set_num_threads(1)  # operations in other threads are not seen
    try:
        with as_on_a_gpu() if gpu else contextlib.nullcontext(), operations:
            work()
    finally:
        torch.set_num_threads(threads)
    return operations


@contextlib.contextmanager
def as_on_a_gpu() -> Generator[None]:
    """The ways that the code takes where the device is no CPU."""
    with contextlib.ExitStack() as patches:
        for name, instead in {
            "perceivio.linear.fast": lambda _: False,
            "perceivio.fast_layers.fast": lambda _: False,
            "perceivio.fast_layers._gathered": scaled_dot_product_attention,
            "perceivio.training.fast._self_attend": lambda layer, x: layer(x),
            "perceivio.scores.TILE": scores.LARGE_TILE,
        }.items():
            patches.enter_context(mock.patch(name, instead))
        yield
