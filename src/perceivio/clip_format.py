"""The clip that a model takes: how many frames and samples, at which rates, and what else."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

from .config import Modality
from .ffmpeg import exact, nearest


@dataclass(frozen=True)
class ClipFormat:
    """The clip that a model takes: frames and samples of the same span of time.

    frames, height, width  of the picture, at frame_rate frames/s; frames = 0: no picture
    samples                of mono sound at sample_rate Hz; samples = 0: no sound
    image_name, audio_name the keys of the two in `Window.inputs`
    beside                 names and declarations of what is read from files beside the clip
    """

    frames: int
    height: int
    width: int
    frame_rate: Fraction | float
    samples: int
    sample_rate: int
    image_name: str = "image"
    audio_name: str = "audio"
    beside: tuple[tuple[str, Modality], ...] = ()

    def __post_init__(self) -> None:
        if not self.frames and not self.samples:
            raise ValueError("a clip needs frames or samples")
        if self.frames and self.samples and self._picture_span() != self._sound_span():
            raise ValueError(
                f"{self.frames} frames at {self.frame_rate}/s last {self._picture_span()} s,"
                f" {self.samples} samples at {self.sample_rate} Hz last {self._sound_span()} s"
            )

    @property
    def seconds(self) -> Fraction:
        """How long a clip lasts, exactly."""
        return self._picture_span() if self.frames else self._sound_span()

    @property
    def units(self) -> int:
        """What windows are counted in: frames, or samples where a clip has no frames."""
        return self.frames or self.samples

    def starts(self, index: int, overlap: int) -> tuple[int, int]:
        """The first frame and the first sample of window `index`, counted from the first's."""
        frame = self.start_of(self.frames, index, overlap)
        return frame, self.start_of(self.samples, index, overlap)

    def start_of(self, points: int, index: int, overlap: int) -> int:
        """The first point of window `index`, for a modality that has so many in a window."""
        return nearest(Fraction(index * (self.units - overlap) * points, self.units))

    def _picture_span(self) -> Fraction:
        return self.frames / exact(self.frame_rate)

    def _sound_span(self) -> Fraction:
        return Fraction(self.samples, self.sample_rate)
