"""Trivial answers, as strong as a fixed rule can be: what every figure of a model stands beside.

Each keeps no more numbers of a clip than the model's latents are (budget.py), and which ones is
decided by the sizes alone, never by what is in the clip.

Letters: T frames of H x W pixels, S samples.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from math import isqrt

import torch
from torch import Tensor

from ..config import Config
from ..quantise import Precision
from .answers import Answer, Baseline, Clip
from .budget import bits_of_latents, shared_values, values_of_latents

COLOURS = 3
FEWEST_MOMENTS = 2  # pooling in time: not to a still picture
# Zonal DCT: one half wave along a window of time weighs as much as this many across a picture, and
# colour as if its waves were this much shorter than those of light. Of 2, 4, 8, 16 and of 1.5, 2, 3
# these were best on average for films at 64 x 64 and at 224 x 224 pixels.
TIME_WEIGHT = 12
COLOUR_WEIGHT = 2
# Light, and two differences of colours: orthogonal, so no error grows on the way back.
OPPONENT = torch.nn.functional.normalize(
    torch.tensor([[1.0, 1.0, 1.0], [1.0, 0.0, -1.0], [1.0, -2.0, 1.0]])
)


def baselines(
    config: Config, precision: Precision = "float32", codecs: bool = True
) -> tuple[Baseline, ...]:
    """All that a model of this configuration is compared with, the simplest first.

    precision  at which its latents are kept: what bits the codecs get
    codecs     whether H.264 and Opus are among them
    """
    values = values_of_latents(config)
    pooling = (AreaPooling(values), TimePooling(values))
    simple = (MeanColour(), StillFrame(), Silence(), *pooling, ZonalDCT(values))
    if not codecs:
        return simple
    from .codecs import Codecs

    return (*simple, Codecs(bits_of_latents(config, precision), precision))


@dataclass(frozen=True)
class MeanColour:
    name: str = "mean colour"
    note: str = "every pixel is the clip's mean colour: 3 numbers; nothing is said of the sound"

    def __call__(self, clip: Clip) -> Answer:
        if clip.image is None:
            return Answer(None, None, 0)
        mean = clip.image.mean((0, 2, 3), keepdim=True)
        return Answer(mean.expand_as(clip.image), None, COLOURS)


@dataclass(frozen=True)
class StillFrame:
    name: str = "mean frame"
    note: str = "every frame is the mean of all: H x W x 3 numbers; nothing is said of the sound"

    def __call__(self, clip: Clip) -> Answer:
        if clip.image is None:
            return Answer(None, None, 0)
        mean = clip.image.mean(0, keepdim=True)
        return Answer(mean.expand_as(clip.image), None, mean.numel())


@dataclass(frozen=True)
class Silence:
    name: str = "silence"
    note: str = "no sound, no numbers; nothing is said of the picture"

    def __call__(self, clip: Clip) -> Answer:
        return Answer(None, None if clip.audio is None else torch.zeros_like(clip.audio), 0)


@dataclass(frozen=True)
class AreaPooling:
    """Every frame smaller: means over equal areas, enlarged linearly."""

    budget: int
    name: str = "area pooling"
    note: str = (
        "means over equal areas of each frame and equal stretches of the sound, as many numbers"
        " as the latents at most, picture and sound by their numbers; enlarged linearly"
    )

    def __call__(self, clip: Clip) -> Answer:
        for_image, for_audio = shared_values(self.budget, clip)
        image = audio = None
        kept = 0
        if clip.image is not None:
            grid = self.grid(clip.image, for_image // COLOURS)
            kept += math.prod(grid) * COLOURS
            image = clip.image
            for dim, size in zip((0, 2, 3), grid, strict=True):
                image = through_means(image, dim, size)
        if clip.audio is not None:
            size = max(1, min(for_audio, len(clip.audio)))
            kept += size
            audio = through_means(clip.audio, 0, size)
        return Answer(image, audio, kept)

    def grid(self, image: Tensor, points: int) -> tuple[int, int, int]:
        """T' x H' x W' that an image is pooled to."""
        frames, _, height, width = image.shape
        frames = min(frames, max(1, points))
        return frames, *pooled_area(height, width, points // frames)


@dataclass(frozen=True)
class TimePooling(AreaPooling):
    """Fewer frames: means of neighbours, enlarged linearly. What hardly moves is kept nearly whole;
    what moves becomes two pictures in one."""

    name: str = "time pooling"
    note: str = (
        "means of neighbouring frames, down to 2 a window, and of areas only where that is not"
        " enough; the rest as in area pooling"
    )

    def grid(self, image: Tensor, points: int) -> tuple[int, int, int]:
        frames, _, height, width = image.shape
        return pooled_moments((frames, height, width), points)


@dataclass(frozen=True)
class ZonalDCT:
    """The longest waves of a cosine transform of the whole clip."""

    budget: int
    name: str = "zonal DCT"
    note: str = (
        "the longest waves of a cosine transform of the whole clip in time, height, width and"
        " light and two colour differences, as many numbers as the latents, picture and sound by"
        " their numbers; the same waves for every clip"
    )

    def __call__(self, clip: Clip) -> Answer:
        for_image, for_audio = shared_values(self.budget, clip)
        image = audio = None
        kept = 0
        if clip.image is not None:
            zone = longest_waves(tuple(clip.image.shape), for_image)
            kept += int(zone.sum())
            image = torch.einsum("ij,tjhw->tihw", OPPONENT, clip.image)
            for dim in (0, 2, 3):
                image = cosines(image, dim)
            image = image * zone
            for dim in (0, 2, 3):
                image = from_cosines(image, dim)
            image = torch.einsum("ji,tjhw->tihw", OPPONENT, image).clamp(0, 1)
        if clip.audio is not None:
            waves = cosines(clip.audio, 0)
            waves[for_audio:] = 0
            kept += min(for_audio, len(waves))
            audio = from_cosines(waves, 0).clamp(-1, 1)
        return Answer(image, audio, kept)


def pooled_moments(shape: tuple[int, int, int], points: int) -> tuple[int, int, int]:
    """(T', H', W') of at most `points` points (but at least one) to pool T x H x W to.

    As many moments as leave the pixels alone, at least FEWEST_MOMENTS of them if there are so many;
    then as many pixels as there is room for, in the picture's proportions.
    """
    frames, height, width = shape
    fewest = min(frames, FEWEST_MOMENTS, max(1, points))
    moments = min(frames, max(fewest, points // (height * width)))
    return moments, *pooled_area(height, width, points // moments)


def pooled_area(height: int, width: int, pixels: int) -> tuple[int, int]:
    """(H', W') of at most `pixels` pixels (but at least one), in the picture's proportions."""
    pixels = max(1, pixels)
    if pixels >= height * width:
        return height, width
    rows = min(height, pixels, max(1, isqrt(pixels * height // width)))
    return rows, min(width, max(1, pixels // rows))


def through_means(values: Tensor, dim: int, size: int) -> Tensor:
    """Values pooled to `size` means along a dimension, and enlarged again: the same shape."""
    length = values.shape[dim]
    if size == length:
        return values
    return enlarged(pooled(values, dim, size), dim, length)


def pooled(values: Tensor, dim: int, size: int) -> Tensor:
    """Means over `size` equal stretches of a dimension; a point on an edge counts by its parts."""
    length = values.shape[dim]
    sums = torch.cumsum(values.double(), dim)
    sums = torch.cat([torch.zeros_like(sums.narrow(dim, 0, 1)), sums], dim)
    edges = torch.arange(size + 1, dtype=torch.float64) * length / size
    return (_between(sums, dim, edges).diff(dim=dim) * size / length).to(values.dtype)


def enlarged(values: Tensor, dim: int, length: int) -> Tensor:
    """Means of equal stretches drawn through their middles, level at both ends."""
    size = values.shape[dim]
    places = (torch.arange(length, dtype=torch.float64) + 0.5) * size / length - 0.5
    return _between(values.double(), dim, places.clamp(0, size - 1)).to(values.dtype)


def _between(values: Tensor, dim: int, places: Tensor) -> Tensor:
    """Values at fractional places of a dimension, straight lines between its points."""
    low = places.floor().long().clamp(max=values.shape[dim] - 1)
    high = (low + 1).clamp(max=values.shape[dim] - 1)
    shape = [-1 if d == dim else 1 for d in range(values.dim())]
    part = (places - low).view(shape)
    return torch.lerp(values.index_select(dim, low), values.index_select(dim, high), part)


def cosines(values: Tensor, dim: int) -> Tensor:
    """DCT-II along a dimension: 2 sum_n x_n cos(pi (n + 1/2) k / N), of the mirrored signal's
    Fourier transform."""
    length = values.shape[dim]
    mirrored = torch.cat([values, values.flip(dim)], dim)
    waves = torch.fft.rfft(mirrored, dim=dim).narrow(dim, 0, length)
    return (waves * _turn(length, values.dim(), dim).conj()).real


def from_cosines(waves: Tensor, dim: int) -> Tensor:
    """The inverse of `cosines`."""
    length = waves.shape[dim]
    turned = waves * _turn(length, waves.dim(), dim)
    return torch.fft.irfft(turned, n=2 * length, dim=dim).narrow(dim, 0, length)


def _turn(length: int, dims: int, dim: int) -> Tensor:
    """exp(i pi k / 2 N): the half sample between a signal and its mirror."""
    angle = math.pi * torch.arange(length, dtype=torch.float64) / (2 * length)
    shape = [-1 if d == dim else 1 for d in range(dims)]
    return torch.polar(torch.ones_like(angle), angle).to(torch.complex64).view(shape)


@lru_cache(maxsize=8)
def longest_waves(shape: tuple[int, int, int, int], count: int) -> Tensor:
    """Which `count` of the waves of a clip (T, 3, H, W) are kept: bool, of that shape.

    Those nearest to the constant one in an ellipsoid. A half wave along the picture's higher side
    is the unit.
    """
    frames, colours, height, width = shape
    longer = max(height, width)
    time = TIME_WEIGHT * torch.arange(frames, dtype=torch.float64)
    rows = torch.arange(height, dtype=torch.float64) * longer / height
    columns = torch.arange(width, dtype=torch.float64) * longer / width
    colour = torch.tensor([1.0, *[COLOUR_WEIGHT] * (colours - 1)], dtype=torch.float64)
    far = time[:, None, None].square() + rows[:, None].square() + columns.square()
    far = colour[:, None, None].square() * far[:, None]
    zone = torch.zeros(far.numel(), dtype=torch.bool)
    zone[far.flatten().argsort(stable=True)[:count]] = True
    return zone.view(shape)
