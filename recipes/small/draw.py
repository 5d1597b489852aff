"""Handwritten digits drawn afresh in every step of training: moved, turned, sheared, coloured.

The bank holds some thousand digit clips (`digits.py`); a model that sees only those learns them
by heart. Here a batch costs a few milliseconds, because torch draws all frames at once.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from .common import SIDE
from .digits import LARGEST, SMALLEST, TEST_IMAGES, load_images

PAD = 2  # empty pixels put around an image of 28 x 28
PLAIN = 0.4  # share of clips with a white digit on black
OVER_PICTURE = 0.3  # share on a darkened picture
OVER_GRADIENT = 0.12  # share on a slow change of colour; the rest is on one colour


class Drawn:
    """The training images of the digits, and how to make clips of them."""

    def __init__(self, path: Path) -> None:
        images, labels = load_images(path)
        self.images: list[Tensor] = []
        for digit in range(10):
            ours = images[np.flatnonzero(labels == digit)[:-TEST_IMAGES]]
            padded = np.pad(ours, ((0, 0), (PAD, PAD), (PAD, PAD)))
            self.images.append(torch.from_numpy(padded).float()[:, None] / 255)

    def clips(
        self,
        labels: Tensor,
        pictures: Tensor,
        frames: int,
        seed: int,
        area: tuple[int, int, int] = (0, 0, SIDE),
    ) -> Tensor:
        """(B, frames, 3, SIDE, SIDE) in [0, 1], one clip for each label.

        pictures  (n, 3, SIDE, SIDE) in [0, 1], to put under some of the digits
        area      top, left and side in pixels of the square that digits stay in
        """
        generator = torch.Generator().manual_seed(seed)
        count = len(labels)

        def uniform(*shape: int) -> Tensor:
            return torch.rand(count, *shape, generator=generator)

        def normal(*shape: int) -> Tensor:
            return torch.randn(count, *shape, generator=generator)

        which = uniform().tolist()
        chosen = torch.stack(
            [
                self.images[label][int(part * len(self.images[label]))]
                for label, part in zip(labels.tolist(), which, strict=True)
            ]
        )
        maps = placements(uniform, normal, frames, chosen.shape[-1], area)
        grid = F.affine_grid(
            maps.flatten(0, 1), [count * frames, 1, SIDE, SIDE], align_corners=False
        )
        coverage = F.grid_sample(chosen.repeat_interleave(frames, 0), grid, align_corners=False)
        coverage = coverage.view(count, frames, 1, SIDE, SIDE)

        # What is under the digit: one colour, a picture, a slow change of colour, or black.
        style = uniform(1, 1, 1)
        ground = uniform(3, 1, 1).mul(0.9).expand(-1, -1, SIDE, SIDE)
        change = F.interpolate(uniform(3, 4, 4), size=(SIDE, SIDE), mode="bilinear")
        change = 0.45 * change + 0.55 * (uniform(1, 1, 1) < 0.5)
        ground = torch.where(style < OVER_PICTURE + OVER_GRADIENT, change, ground)
        if len(pictures):
            picture = pictures[torch.randint(len(pictures), (count,), generator=generator)]
            picture = picture * (0.2 + 0.4 * uniform(1, 1, 1))
            ground = torch.where(style < OVER_PICTURE, picture, ground)
        black = style > 1 - PLAIN
        ground = torch.where(black, torch.zeros(()), ground)
        # And the digit's colour: far from it in brightness.
        colour = 0.28 * uniform(3, 1, 1)
        colour = torch.where(ground.mean((1, 2, 3), keepdim=True) < 0.5, 0.72 + colour, colour)
        colour = torch.where(black, torch.ones(()), colour)
        video = torch.lerp(ground[:, None], colour[:, None], coverage)
        noisy = (uniform(1, 1, 1, 1) < 0.3) * 0.03
        return (video + noisy * normal(1, 3, SIDE, SIDE)).clamp_(0, 1)


def placements(
    uniform: Callable[..., Tensor],
    normal: Callable[..., Tensor],
    frames: int,
    side: int,
    area: tuple[int, int, int],
) -> Tensor:
    """(B, frames, 2, 3): where on an image of this side each pixel of each frame looks."""
    time = torch.linspace(-0.5, 0.5, frames)
    top, left, room = area
    largest = min(LARGEST, room)
    size = SMALLEST + (largest - SMALLEST) * uniform(1)
    zoom = 0.25 * normal(1) * (uniform(1) < 0.2)
    size = (size * torch.exp(zoom * time)).clamp(SMALLEST, largest)
    angle = torch.deg2rad(30 * uniform(1) - 15) + 0.09 * normal(1) * (uniform(1) < 0.3) * time
    shear = 0.4 * uniform(1) - 0.2
    # The centre runs straight and is mirrored at the borders that keep the digit inside.
    margin = 0.45 * size.amax(1, keepdim=True)[..., None]
    span = room - 2 * margin
    speed = 1.3 * normal(1, 2) * (uniform(1, 1) < 0.6)  # pixels a frame
    path = uniform(1, 2) * span + speed * torch.arange(frames)[:, None]
    centre = margin + span - (torch.remainder(path, 2 * span) - span).abs()
    centre = centre + torch.tensor([left, top])
    x, y = (centre / SIDE * 2 - 1).unbind(-1)
    scale = SIDE / (size * side / (side - 2 * PAD))
    cosine, sine = torch.cos(angle) * scale, torch.sin(angle) * scale
    a, b = cosine + shear * sine, -sine + shear * cosine
    rows = [torch.stack([a, b, -a * x - b * y], -1)]
    rows.append(torch.stack([sine, cosine, -sine * x - cosine * y], -1))
    return torch.stack(rows, -2)


def seed_of(*parts: int) -> int:
    """One seed from several numbers, the same on every machine (rounded: 53 bits are plenty)."""
    state = np.random.SeedSequence(parts).generate_state(1, np.uint64)[0]
    return int(state % 2.0**62)
