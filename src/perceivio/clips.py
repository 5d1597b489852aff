"""Windows of a clip: split, overlap, rejoin.

A model takes clips of a fixed number of frames and samples. A file of any length is read as a row
of such windows; what comes out of the model is rejoined to one stream of the file's length.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import torch

from .beside import Companions
from .clip_format import ClipFormat
from .errors import PerceivioError
from .ffmpeg import Losses, exact, nearest
from .media import MediaInfo, MediaReader
from .pictures import centre_crop, resized, shown_size
from .writer import as_bytes


@dataclass
class Window:
    """One clip of a file, ready for a model.

    index          0, 1, ... in the row of windows
    start, stop    seconds on the file's clock; stop is where the last real frame or sample ends
    inputs         image_name: (1, T, 3, H, W) float32 in [0, 1]; audio_name: (1, S, 1) float32;
                   grids of files beside it (1, *value_shape). What is not there is not in it
    frames, samples  how many of them are real; the rest repeats the last frame, or is silence.
                   One of the two is 0 where the other goes on beyond its end
    originals      uint8 (frames, h, w, 3): the real frames cropped like the model's, but as large
                   as asked for with keep_size; None otherwise
    """

    index: int
    start: float
    stop: float
    inputs: dict[str, torch.Tensor]
    frames: int
    samples: int
    originals: np.ndarray | None = None


class Windows:
    """The windows of a file, in constant memory; made by `read_windows`. Iterate over it once.

    info    what the file holds
    notes   what was missing and replaced, in words   (complete behind the last window)
    beside  the files beside it that the format asks for; a still image has none
    losses  what was damaged, counted                 (complete behind the last window)
    """

    def __init__(
        self, reader: MediaReader, format: ClipFormat, start: float, overlap: int, keep_size: int
    ) -> None:
        if not 0 <= 2 * overlap <= format.units:
            unit = "frames" if format.frames else "samples"
            raise PerceivioError(
                f"overlap {overlap}: choose 0 to {format.units // 2} {unit}, half a window"
            )
        self._reader, self._format, self._start = reader, format, exact(start)
        self._overlap = overlap
        declared = format.beside if reader.info.kind != "image" else ()
        self.beside = Companions(reader.info.path, declared)
        self._kept_shape = None
        if keep_size and format.frames:
            self._kept_shape = shown_size((format.height, format.width), keep_size)

    @property
    def info(self) -> MediaInfo:
        return self._reader.info

    @property
    def notes(self) -> list[str]:
        return [*self._reader.notes, *self.beside.notes]

    @property
    def losses(self) -> Losses:
        return self._reader.losses

    def __iter__(self) -> Iterator[Window]:
        clip = self._format
        pictures: list[torch.Tensor] = []  # (3, H, W), those of this window
        kept: list[np.ndarray] = []
        sound = np.zeros(0, np.float32)
        last: torch.Tensor | None = None  # frame, to hold when there are no more
        with self._reader as reader:
            index = 0
            while True:
                # Keep what this window shares with the one before, and read on to its end.
                frame_start, sample_start = clip.starts(index, self._overlap)
                before = -clip.frames, -clip.samples
                if index:
                    before = clip.starts(index - 1, self._overlap)
                frame_step, sample_step = frame_start - before[0], sample_start - before[1]
                pictures, kept = pictures[frame_step:], kept[frame_step:]
                sound = sound[sample_step:]
                frames, samples = reader.read(frame_step, sample_step)
                if not frames and not len(samples):
                    return
                for frame in frames:
                    cropped = centre_crop(frame, clip.height, clip.width)
                    last = resized(cropped, clip.height, clip.width)
                    pictures.append(last)
                    if self._kept_shape is not None:
                        kept.append(as_bytes(resized(cropped, *self._kept_shape)[None])[0])
                sound = np.concatenate([sound, samples])
                yield self._window(index, frame_start, sample_start, pictures, kept, sound, last)
                index += 1

    def _window(
        self,
        index: int,
        frame_start: int,
        sample_start: int,
        pictures: list[torch.Tensor],
        kept: list[np.ndarray],
        sound: np.ndarray,
        last: torch.Tensor | None,
    ) -> Window:
        clip = self._format
        inputs: dict[str, torch.Tensor] = {}
        stops = []
        if clip.frames and last is not None:
            held = [last] * (clip.frames - len(pictures))
            inputs[clip.image_name] = torch.stack(pictures + held)[None]
            stops.append((frame_start + len(pictures)) / exact(clip.frame_rate))
        if clip.samples and self.info.kind != "image":
            padded = np.zeros((1, clip.samples, 1), np.float32)
            padded[0, : len(sound), 0] = sound
            inputs[clip.audio_name] = torch.from_numpy(padded)
            stops.append(Fraction(sample_start + len(sound), clip.sample_rate))
        begin = self._start + index * (clip.units - self._overlap) * clip.seconds / clip.units
        stop = self._start + max(stops)
        lead = self._reader.lead  # files beside a clip begin with its first frame
        for name, values in self.beside.read(begin - lead, stop - lead).items():
            inputs[name] = values[None]
        originals = None
        if self._kept_shape is not None and last is not None:
            originals = np.stack(kept) if kept else np.zeros((0, *self._kept_shape, 3), np.uint8)
        return Window(
            index,
            float(begin),
            float(stop),
            inputs,
            len(pictures),
            len(sound),
            originals,
        )


def read_windows(
    path: str | os.PathLike[str],
    format: ClipFormat,
    start: float = 0.0,
    duration: float | None = None,
    overlap: int = 0,
    keep_size: int = 0,
) -> Windows:
    """The file as windows of `format`: an iterable with `.info`, `.notes` and `.losses`.

    start, duration  seconds on the file's clock; duration None: to the end
    overlap          frames that a window shares with the one before it, at most half of them
                     (samples, for a format without frames)
    keep_size        height in pixels of `Window.originals`; 0: none are kept

    Frames are cropped in the middle to the format's shape and resized with antialiasing. Raises
    PerceivioError (MediaError) as MediaReader does, and for an overlap out of range.
    """
    reader = MediaReader(
        path,
        format.frame_rate if format.frames else None,
        format.sample_rate if format.samples else None,
        start,
        duration,
    )
    return Windows(reader, format, start, overlap, keep_size)


class Rejoin:
    """Puts what came out for overlapping windows together to one stream of the file's length.

    In an overlap two windows estimate the same signal, so their values are averaged with weights
    that add up to one: a raised cosine, which starts and ends level and so leaves no edge to see
    or hear. (A crossfade of equal power would be right for unrelated signals; here it would swell
    by 3 dB.) Padding is cut off.

    points  that a window has along time, by modality
    """

    def __init__(self, format: ClipFormat, overlap: int) -> None:
        self._format, self._overlap = format, overlap
        self.points = {name: m.shape[0] for name, m in format.beside if not m.is_classes}
        self.points |= {format.image_name: format.frames, format.audio_name: format.samples}
        self._rates = {name: m.rate or 1 for name, m in format.beside}
        self._seams: dict[str, _Seam] = {}

    def add(self, window: Window, outputs: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Take what came out for the next window: by modality, with time as the first dimension.

        Returns the stretches that are finished now, of the same modalities.
        """
        finished = {}
        for name, values in outputs.items():
            here, then = (
                self._format.start_of(self.points[name], index, self._overlap)
                for index in (window.index, window.index + 1)
            )
            seam = self._seams.setdefault(name, _Seam())
            finished[name] = seam.add(values, then - here, self._real(window, name))
        return finished

    def finish(self) -> dict[str, torch.Tensor]:
        """The last stretches, behind the last window."""
        return {name: seam.finish() for name, seam in self._seams.items()}

    def step(self, name: str) -> int:
        """Points from one window to the next: into the last one, where its last stretch begins."""
        return self._format.start_of(self.points[name], 1, self._overlap)

    def _real(self, window: Window, name: str) -> int:
        """How many points of a window are not padding."""
        if name == self._format.image_name:
            return window.frames
        if name == self._format.audio_name:
            return window.samples
        return nearest(exact(window.stop - window.start) * self._rates[name])


@dataclass
class _Seam:
    """Where the windows of one modality meet: `pending` is what the next window overlaps."""

    pending: torch.Tensor | None = None

    def add(self, values: torch.Tensor, step: int, real: int) -> torch.Tensor:
        values = values[:real]
        before = self.pending
        if before is not None and len(before):
            phase = (torch.arange(len(before), device=values.device) + 0.5) / len(before)
            weight = (0.5 - 0.5 * torch.cos(math.pi * phase)).to(values.dtype)
            weight = weight.reshape(-1, *[1] * (values.ndim - 1))
            blend = torch.lerp(before, values[: len(before)], weight)
            values = torch.cat([blend, values[len(before) :]])
        self.pending = values[step:]
        return values[:step]

    def finish(self) -> torch.Tensor:
        assert self.pending is not None
        return self.pending
