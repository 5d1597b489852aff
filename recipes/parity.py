"""What each trap on the way to parity costs: `base` with random weights, one thing done wrong at a
time, and how far the outputs move. For docs/parity.md.

    python -m recipes.parity

The plain module answers 300 random points of picture and of sound and the label, from a random
clip with the label masked. Queries of attention are larger than those of a fresh model, which
attends to everything nearly alike and so hides what is done to positions.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Generator
from math import pi
from unittest.mock import patch

import torch
from torch import Tensor

from perceivio import modalities
from perceivio.config import preset
from perceivio.model import MultimodalAutoencoder

POINTS, SHARPER, SEED = 300, 4.0, 0


def exact_features(positions: Tensor, bands: int, resolution: int) -> Tensor:
    """As `position.axis_features`, in float64 up to the end."""
    frequencies = torch.linspace(1.0, resolution / 2, bands, dtype=torch.float64)
    angles = pi * (positions.double()[:, None] * frequencies)
    return torch.cat([positions.double()[:, None], angles.sin(), angles.cos()], dim=1).float()


def exact_ends(n: int) -> Tensor:
    return torch.linspace(-1.0, 1.0, n, dtype=torch.float64)


def exact_queries(n: int, at: Tensor | None = None) -> Tensor:
    return -1 + 2 * torch.arange(n, dtype=torch.float64) / n


def ends_for_queries(n: int, at: Tensor | None = None) -> Tensor:
    return torch.linspace(-1.0, 1.0, n)


def by_dimension(axes: list[Tensor], points: Tensor | None = None) -> Tensor:
    """Features of one dimension after the other, rather than positions, sines, cosines of all."""
    if not axes:
        return torch.zeros(1, 0)
    index = torch.arange(torch.Size([len(axis) for axis in axes]).numel())
    index = index if points is None else points
    rows = torch.unravel_index(index, [len(axis) for axis in axes])
    return torch.cat([axis[row] for axis, row in zip(axes, rows, strict=True)], dim=1)


@contextlib.contextmanager
def instead(**others: object) -> Generator[None]:
    """Functions of position.py, replaced where modalities.py uses them."""
    with contextlib.ExitStack() as stack:
        for name, other in others.items():
            stack.enter_context(patch.object(modalities, name, other))
        yield


def main() -> None:
    torch.manual_seed(SEED)
    config = preset("base")
    module = MultimodalAutoencoder(config).eval()
    with torch.no_grad():
        for cross in (module.encoder.cross_attend, module.decoder.cross_attend):
            cross.attention.query.weight.mul_(SHARPER)
    tanh = MultimodalAutoencoder(dataclasses.replace(config, activation="gelu_tanh")).eval()
    tanh.load_state_dict(module.state_dict())
    image, audio = config.modalities["image"], config.modalities["audio"]
    inputs = {
        "image": torch.rand(1, *image.value_shape),
        "audio": torch.rand(1, *audio.value_shape) * 2 - 1,
    }
    points = {
        "image": torch.randint(image.queries, (POINTS,)),
        "audio": torch.randint(audio.queries, (POINTS,)),
        "label": None,
    }
    with torch.no_grad():
        right = module.decode(module.encode(inputs), points)

        def told(what: str, model: MultimodalAutoencoder = module, **others: object) -> None:
            with instead(**others):
                wrong = model.decode(model.encode(inputs), points)
            moved = [(wrong[name] - right[name]).abs().max().item() for name in right]
            print(f"{what:44}" + "".join(f"{value:10.1e}" for value in moved))

        print(f"{'':44}" + "".join(f"{name:>10}" for name in right))
        print(f"{'standard deviation of the outputs':44}", end="")
        print("".join(f"{values.std().item():10.1e}" for values in right.values()))
        told("positions exactly, not float32 in order",
             axis_features=exact_features, input_positions=exact_ends,
             query_positions=exact_queries)  # fmt: skip
        told("GELU in its tanh form", tanh)
        told("queries with both ends, as tokens have them", query_positions=ends_for_queries)
        told("features of one dimension after the other", grid_features=by_dimension)

    x = torch.linspace(-6, 6, 1_000_001, dtype=torch.float64)
    both = [torch.nn.functional.gelu(x, approximate=form) for form in ("none", "tanh")]
    print(f"\nexact GELU and its tanh form differ by at most {(both[0] - both[1]).abs().max():.1e}")
    largest = torch.tensor(pi * audio.resolution[0] / 2)
    apart = torch.nextafter(largest, torch.tensor(torch.inf)) - largest
    print(f"largest angle of a sound position {largest.item():,.1f} rad, float32 {apart:.4f} apart")
    ours = modalities.axis_features(modalities.query_positions(1920), 192, audio.resolution[0])
    moved = (ours - exact_features(exact_queries(1920), 192, audio.resolution[0])).abs().max()
    print(f"a feature of sound moves by up to {moved.item():.1e} against exact arithmetic")


if __name__ == "__main__":
    main()
