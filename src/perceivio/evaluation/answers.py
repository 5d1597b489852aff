"""A clip, and what somebody other than the model makes of it.

Letters: T frames of H x W pixels, S samples.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor


@dataclass(frozen=True)
class Clip:
    """One window at the model's own resolution and rate; None: the file has no such thing.

    image        (T, 3, H, W) float32 in [0, 1], at frame_rate frames/s
    audio        (S,) float32 in [-1, 1], at sample_rate Hz
    """

    image: Tensor | None
    audio: Tensor | None
    frame_rate: float
    sample_rate: int


@dataclass(frozen=True)
class Answer:
    """What a baseline makes of a clip, in the clip's own shapes.

    image, audio  None: it says nothing of this modality
    values        numbers kept, in all; None where what is kept is bits
    image_bits    bits that were really used, for codecs
    audio_bits    the same
    """

    image: Tensor | None
    audio: Tensor | None
    values: int | None
    image_bits: int | None = None
    audio_bits: int | None = None


class Baseline(Protocol):
    """Something that answers for a clip without a model.

    name  as in tables, such as "area pooling"
    note  one line: what it is, and how its values or bits are split
    """

    @property
    def name(self) -> str: ...

    @property
    def note(self) -> str: ...

    def __call__(self, clip: Clip) -> Answer: ...
