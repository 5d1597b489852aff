"""Windows of a clip: a model's clip format, crop and resize, split, overlap, rejoin.

A model takes clips of a fixed number of frames and samples. A file of any length is read as a row
of such windows; what comes out of the model is rejoined to one stream of the file's length.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw, ImageFont

from .errors import PerceivioError
from .ffmpeg import Losses, exact, nearest
from .media import MediaInfo, MediaReader
from .writer import as_bytes


@dataclass(frozen=True)
class ClipFormat:
    """The clip that a model takes: frames and samples of the same span of time.

    frames, height, width  of the picture, at frame_rate frames/s; frames = 0: no picture
    samples                of mono sound at sample_rate Hz; samples = 0: no sound
    image_name, audio_name the keys of the two in `Window.inputs`
    """

    frames: int
    height: int
    width: int
    frame_rate: Fraction | float
    samples: int
    sample_rate: int
    image_name: str = "image"
    audio_name: str = "audio"

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
        unit = index * (self.units - overlap)
        frame = unit if self.frames else 0
        return frame, nearest(Fraction(unit * self.samples, self.units))

    def _picture_span(self) -> Fraction:
        return self.frames / exact(self.frame_rate)

    def _sound_span(self) -> Fraction:
        return Fraction(self.samples, self.sample_rate)


@dataclass
class Window:
    """One clip of a file, ready for a model.

    index          0, 1, ... in the row of windows
    start, stop    seconds on the file's clock; stop is where the last real frame or sample ends
    inputs         image_name: (1, T, 3, H, W) float32 in [0, 1]; audio_name: (1, S, 1) float32.
                   What the file does not have is not in it
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
        self._kept_shape = shown_size(format, keep_size) if keep_size and format.frames else None

    @property
    def info(self) -> MediaInfo:
        return self._reader.info

    @property
    def notes(self) -> list[str]:
        return self._reader.notes

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
                    last = _resize(cropped, clip.height, clip.width)
                    pictures.append(last)
                    if self._kept_shape is not None:
                        kept.append(_bytes(_resize(cropped, *self._kept_shape)))
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
        begin = index * (clip.units - self._overlap) * clip.seconds / clip.units
        originals = None
        if self._kept_shape is not None and last is not None:
            originals = np.stack(kept) if kept else np.zeros((0, *self._kept_shape, 3), np.uint8)
        return Window(
            index,
            float(self._start + begin),
            float(self._start + max(stops)),
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
    """

    def __init__(self, format: ClipFormat, overlap: int) -> None:
        self._format, self._overlap = format, overlap
        self._frames, self._samples = _Seam(), _Seam()

    def add(
        self,
        window: Window,
        frames: torch.Tensor | None = None,
        samples: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        """Take what came out for the next window: frames (T, ...) and samples (S, ...).

        Returns the stretches that are finished now; None for a modality that was not given.
        """
        here = self._format.starts(window.index, self._overlap)
        then = self._format.starts(window.index + 1, self._overlap)
        return (
            self._frames.add(frames, then[0] - here[0], window.frames),
            self._samples.add(samples, then[1] - here[1], window.samples),
        )

    def finish(self) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        """The last stretch, behind the last window."""
        return self._frames.finish(), self._samples.finish()


@dataclass
class _Seam:
    """Where the windows of one modality meet: `pending` is what the next window overlaps."""

    pending: torch.Tensor | None = field(default=None)

    def add(self, values: torch.Tensor | None, step: int, real: int) -> torch.Tensor | None:
        if values is None:
            return None
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

    def finish(self) -> torch.Tensor | None:
        pending, self.pending = self.pending, None
        return pending


def centre_crop(frame: np.ndarray, height: int, width: int) -> np.ndarray:
    """The largest middle part of a frame (H, W, 3) with the aspect of height x width."""
    full_height, full_width = frame.shape[:2]
    crop_height, crop_width = full_height, full_width
    if full_width * height > full_height * width:
        crop_width = max(1, round(full_height * width / height))
    else:
        crop_height = max(1, round(full_width * height / width))
    top, left = (full_height - crop_height) // 2, (full_width - crop_width) // 2
    return frame[top : top + crop_height, left : left + crop_width]


def resize(frames: np.ndarray | torch.Tensor, height: int, width: int) -> np.ndarray:
    """Frames, uint8 (n, H, W, 3) or float (n, 3, H, W), as uint8 (n, height, width, 3)."""
    pictures = as_bytes(frames)
    if not len(pictures):
        return np.zeros((0, height, width, 3), np.uint8)
    return np.stack([_bytes(_resize(picture, height, width)) for picture in pictures])


def shown_size(format: ClipFormat, height: int) -> tuple[int, int]:
    """(height, width) of the format's picture scaled to about `height`, both even."""
    height = max(2, 2 * round(height / 2))
    return height, max(2, 2 * round(height * format.width / format.height / 2))


def side_by_side(
    left: np.ndarray | torch.Tensor,
    right: np.ndarray | torch.Tensor,
    height: int,
    labels: tuple[str, str] = ("original", "reconstruction"),
) -> np.ndarray:
    """Two rows of frames next to each other, each under its label: uint8 (n, h, w, 3), h, w even.

    Frames are uint8 (n, H, W, 3) or float (n, 3, H, W) in [0, 1]; both are scaled to `height`.
    """
    height += height % 2
    bar = max(16, 2 * (height // 24))
    halves = []
    for frames, label in ((left, labels[0]), (right, labels[1])):
        pictures = as_bytes(frames)
        width = max(2, 2 * round(height * pictures.shape[2] / pictures.shape[1] / 2))
        caption = _caption(label, bar, width)
        captions = np.broadcast_to(caption, (len(pictures), *caption.shape))
        halves.append(np.concatenate([captions, resize(pictures, height, width)], axis=1))
    gap = np.zeros((*halves[0].shape[:2], 4, 3), np.uint8)
    return np.concatenate([halves[0], gap, halves[1]], axis=2)


def _caption(label: str, height: int, width: int) -> np.ndarray:
    """White text in the middle of a black bar, as large as fits: uint8 (height, width, 3)."""
    bar = Image.new("RGB", (width, height))
    draw = ImageDraw.Draw(bar)
    size = 0.8 * height
    while size > 6 and draw.textlength(label, ImageFont.load_default(size)) > width - 4:
        size -= 1
    font = ImageFont.load_default(size)
    draw.text((width / 2, height / 2), label, "white", font, anchor="mm")
    return np.asarray(bar)


def _resize(frame: np.ndarray, height: int, width: int) -> torch.Tensor:
    """uint8 (H, W, 3) -> float32 (3, height, width) in [0, 1], bicubic with antialiasing."""
    picture = torch.from_numpy(np.ascontiguousarray(frame)).permute(2, 0, 1)
    if frame.shape[:2] != (height, width):
        # On bytes it is five times faster than on floats, and clamps by itself.
        picture = F.interpolate(picture[None], (height, width), mode="bicubic", antialias=True)[0]
    return picture.float() / 255


def _bytes(picture: torch.Tensor) -> np.ndarray:
    return as_bytes(picture[None])[0]
