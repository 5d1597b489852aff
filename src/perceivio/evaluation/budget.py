"""How much a baseline may keep of a clip: as much as the model's latents are.

Picture and sound share it in proportion to what they are made of: numbers where numbers are
counted, bits (8 a pixel value, 16 a sample) where bits are. So each keeps the same part of itself,
and neither figure is bought with the other. Where a clip has only one of the two, that one gets
all. A model that also reads files beside the clip has its latents for them, too: then picture and
sound get their part of the whole, by numbers.
"""

from __future__ import annotations

from math import prod

from ..config import Config
from ..quantise import Precision, bits_of
from .answers import Clip

PIXEL_BITS, SAMPLE_BITS = 8, 16


def values_of_latents(config: Config) -> int:
    """Numbers that a window's latents are, for picture and sound together."""
    return int(config.latents * config.latent_channels * _part(config))


def bits_of_latents(config: Config, precision: Precision) -> int:
    """Bits that a window's latents take at this precision, for picture and sound together."""
    return int(bits_of(precision, config.latents, config.latent_channels) * _part(config))


def shared_values(total: int, clip: Clip) -> tuple[int, int]:
    """What picture and sound get of `total` numbers."""
    return _shared(total, clip, 1, 1)


def shared_bits(total: int, clip: Clip) -> tuple[int, int]:
    """What picture and sound get of `total` bits."""
    return _shared(total, clip, PIXEL_BITS, SAMPLE_BITS)


def _shared(total: int, clip: Clip, pixel: int, sample: int) -> tuple[int, int]:
    image = 0 if clip.image is None else clip.image.numel() * pixel
    audio = 0 if clip.audio is None else clip.audio.numel() * sample
    whole = max(1, image + audio)
    return total * image // whole, total * audio // whole


def _part(config: Config) -> float:
    """Of all numbers that the model reads, classes left out, those of the clip's own media."""
    grids = [m for m in config.modalities.values() if not m.is_classes]
    own = sum(prod(m.value_shape) for m in grids if m.media and not m.beside)
    return own / max(1, sum(prod(m.value_shape) for m in grids))
