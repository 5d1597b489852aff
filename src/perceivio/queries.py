"""Asking for a part: which queries answer for some frames, pixels or samples, and what their
answers come to.

Where things are. Frame i of a window is at i / rate seconds. A picture is a field of view from 0 to
1, top to bottom and left to right, and a pixel is the middle of its cell: of S pixels along the
part from b to b + l, pixel k is at b + l (k + 1/2) / S, which is the coordinate

    n (b + l (k + 1/2) / S) - 1/2

in steps of the n pixels of training. So S = n asks the trained positions, to the bit, and 2 n asks
for the field of view that bicubic upsampling shows. What lies less than half a step beyond the
first or last trained position is asked there: a model was never asked further out.

Along a dimension in which a query answers for one point (all of `base`'s picture), queries are put
at these coordinates, and no other. Where it answers for a patch (`small`: 8 x 8 x 8), all of that
patch belongs to a trained position, and half-way between two of them is another patch that was
never trained (`python -m recipes.between` measures what comes out). There the patches that are
needed are asked where they were trained, and their values resampled: bicubic (with antialiasing
where it gets smaller) along height and width, linear along time.

Letters: B batch, T x H x W what is wanted, P queries.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .config import Modality
from .modalities import unpatch
from .model import InputError
from .position import Grid

SNAP = 2**20  # coordinates are rounded to this part of a step, or 1/3 of 3 would not be 1
LARGEST = 8192  # pixels along a side
FASTEST = 10_000  # frames/s


@dataclass(frozen=True)
class Look:
    """How a picture is wanted. Raises InputError for what no picture can be.

    size    (height, width) in pixels; None: as dense as the model's own
    crop    (top, left, height, width) of the part that is wanted, as fractions of the whole
    coarse  ask for one pixel in so many along height and along width, and enlarge: a preview.
            Where queries answer for patches, these are needed whole, and it changes nothing
    """

    size: tuple[int, int] | None = None
    crop: tuple[float, float, float, float] | None = None
    coarse: int = 1

    def __post_init__(self) -> None:
        if self.size and not (len(self.size) == 2 and all(1 <= n <= LARGEST for n in self.size)):
            raise InputError(f"size {self.size}: give (height, width), each 1 to {LARGEST} pixels")
        if self.crop and not (len(self.crop) == 4 and all(map(_is_part, *self._parts()))):
            raise InputError(
                f"crop {self.crop}: give (top, left, height, width) as fractions of the picture,"
                " such as (0.25, 0.25, 0.5, 0.5)"
            )
        if self.coarse < 1:
            raise InputError(f"coarse {self.coarse}: give 1 or more")

    def sides(self, modality: Modality) -> tuple[int, int]:
        """(H, W) in pixels, for pictures of this modality."""
        if self.size:
            return self.size
        lengths = self._parts()[1]
        height, width = (
            max(1, round(length * n))
            for length, n in zip(lengths, modality.shape[1:], strict=True)
        )
        return height, width

    def _parts(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Where it begins, and how long it is: down and to the right."""
        crop = self.crop or (0.0, 0.0, 1.0, 1.0)
        return crop[:2], crop[2:]


def _is_part(begin: float, length: float) -> bool:
    return begin >= 0 and length > 0 and begin + length <= 1 + 1 / SNAP


@dataclass(frozen=True)
class Axis:
    """How values along one dimension are come by.

    asked    (n,) coordinates of queries
    weights  (wanted, n x patch): from the values of their answers to those that are wanted; None:
             they are those
    """

    asked: Tensor
    weights: Tensor | None = None

    @classmethod
    def of(cls, wanted: Tensor, count: int, patch: int, weigh: Callable[[Tensor], Tensor]) -> Axis:
        """wanted  (w,) coordinates, in steps of the `count` points of training
        weigh   distances in steps (w, count) -> weights, not yet summing up to one
        """
        wanted = (wanted * SNAP).round() / SNAP
        if patch == 1:
            return cls(wanted.clamp(0, count - 1))
        weights = _weights(wanted.clamp(-0.5, count - 0.5), count, weigh).unflatten(1, (-1, patch))
        needed = weights.ne(0).any(2).any(0).nonzero()[:, 0]
        return cls(needed.double(), weights[:, needed].flatten(1))

    def __call__(self, values: Tensor, dim: int) -> Tensor:
        """Answers along a dimension -> what is wanted along it"""
        if self.weights is None:
            return values
        return (values.movedim(dim, -1) @ self.weights.T.to(values)).movedim(-1, dim)


@dataclass(frozen=True)
class Pictures:
    """Frames at some times of a window: what to ask, and what the answers come to."""

    modality: Modality
    axes: tuple[Axis, Axis, Axis]

    @classmethod
    def of(cls, modality: Modality, seconds: Sequence[float], look: Look) -> Pictures:
        """Raises InputError for times that are not in the window."""
        assert modality.rate
        last = float(modality.seconds or 0)
        for second in seconds:
            if not 0 <= second <= last + 1e-9:
                raise InputError(
                    f"{second:g} s is outside of the window, which lasts {last:g} s; a"
                    " perceivio.Timeline answers for all windows of a file"
                )
        (frames, *counts), (each, *patches) = modality.shape, modality.output_patch
        times = torch.tensor(seconds, dtype=torch.float64) * modality.rate
        axes = [Axis.of(times, frames, each, _linear)]
        parts = zip(look.sides(modality), *look._parts(), counts, patches, strict=True)
        for size, begin, length, count, patch in parts:
            axes.append(_side(size, begin, length, count, patch, look.coarse))
        return cls(modality, (axes[0], axes[1], axes[2]))

    @property
    def grid(self) -> Grid:
        return Grid(tuple(axis.asked for axis in self.axes))

    def __call__(self, answers: Tensor) -> Tensor:
        """Answers to `grid` (B, P, values of an output patch) -> (B, T, channels, H, W)"""
        modality = self.modality
        values = unpatch(answers, modality, modality.output_patch, self.grid.shape)
        values = values.movedim(1 + modality.channel_axis % 4, 2)
        for axis, dim in zip(self.axes, (1, 3, 4), strict=True):
            values = axis(values, dim)
        return values.contiguous()


def _side(size: int, begin: float, length: float, count: int, patch: int, coarse: int) -> Axis:
    """`size` pixels of the part from `begin` on along a dimension of `count` pixels."""
    if patch > 1 or coarse == 1:
        wanted = count * (begin + length * _middles(size)) - 0.5
        spread = max(1.0, count * length / size)
        return Axis.of(wanted, count, patch, lambda distance: _cubic(distance / spread))
    few = math.ceil(size / coarse)
    asked = Axis.of(count * (begin + length * _middles(few)) - 0.5, count, 1, _cubic).asked
    return Axis(asked, _weights(few * _middles(size) - 0.5, few, _cubic))


def _middles(size: int) -> Tensor:
    """Of so many equal parts of what is from 0 to 1."""
    return (torch.arange(size, dtype=torch.float64) + 0.5) / size


def _weights(wanted: Tensor, count: int, weigh: Callable[[Tensor], Tensor]) -> Tensor:
    """(w, count): each row sums up to one; at the edges what would lie outside is left out, as in
    torch's and Pillow's resampling."""
    weights = weigh(wanted[:, None] - torch.arange(count, dtype=torch.float64))
    return weights / weights.sum(1, keepdim=True)


def _linear(distance: Tensor) -> Tensor:
    return (1 - distance.abs()).clamp(min=0)


def _cubic(distance: Tensor) -> Tensor:
    """Keys' cubic with a = -1/2, as Pillow and torch's antialiased bicubic have it."""
    x = distance.abs()
    near = (1.5 * x - 2.5) * x * x + 1
    far = ((-0.5 * x + 2.5) * x - 4) * x + 2
    return torch.where(x < 1, near, torch.where(x < 2, far, 0.0))


def times_of(start: float, stop: float, rate: float) -> list[float]:
    """start, start + 1 / rate, ... before stop. Raises InputError where there is none."""
    if not 0 < rate <= FASTEST:
        raise InputError(f"a frame rate of {rate:g}/s: give more than 0, and {FASTEST} at most")
    count = math.ceil(round((stop - start) * rate * SNAP) / SNAP)
    if count < 1:
        raise InputError(f"there is no frame from {start:g} to {stop:g} s; stop must come later")
    return [start + i / rate for i in range(count)]


def samples_of(modality: Modality, start: float, stop: float) -> tuple[Tensor, slice]:
    """The queries that hold the samples from `start` to `stop` seconds of a window, and which of
    theirs these are. Raises InputError for times that are not in the window."""
    assert modality.rate
    patch, count = modality.output_patch[0], modality.shape[0]
    first, end = round(start * modality.rate), round(stop * modality.rate)
    if not 0 <= first < end <= count:
        raise InputError(
            f"no sound from {start:g} to {stop:g} s: a window lasts {count / modality.rate:g} s,"
            " and stop comes after start"
        )
    begin = first // patch
    return torch.arange(begin, -(-end // patch)), slice(first - begin * patch, end - begin * patch)
