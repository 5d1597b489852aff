"""All windows of a file as one recording: which of them answer what is asked at a time of the file.

Where windows overlap, two of them know the same moment. `Rejoin` (clips.py) fades from one to the
next by a raised cosine; here the same curve is taken at any time. Window k begins at frame f_k and
has L frames in common with the one before; a time that is frame u of the file, whole or not, is

    answered by the last window with f_k - 1/2 <= u, its weight being that of phase
    (u - f_k + 1/2) / L, the rest being the weight of the window before it; from phase 1 on, alone.

So frames at trained times are those that `reconstruct` makes, and times between follow smoothly.
Without an overlap the nearer window answers, with its last or first frame where u lies between the
two. From the last frame on to the end of the recording, that frame is on display; a time outside of
the recording is refused.

Letters: W windows, N x D latents, T x H x W frames.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby, pairwise
from typing import Protocol

import torch
from torch import Tensor

from .autoencoder import Autoencoder, Prediction
from .clip_format import ClipFormat
from .model import InputError
from .pipeline import clip_format
from .queries import SNAP, Look, times_of

AT_ONCE = 32  # frames that are answered together, so that memory stays constant


class Latents(Protocol):
    """(N, D) latents of each window, in order: a tensor (W, N, D), a list, or what reads a file."""

    def __len__(self) -> int: ...
    def __getitem__(self, index: int, /) -> Tensor: ...


@dataclass(frozen=True, eq=False)
class Timeline:
    """The windows of a file, to be asked by the file's clock. Only what is asked is computed.

    model           whose latents these are
    latents         (N, D) of each window, in order
    overlap         frames that windows share (samples, for a model without picture)
    start           seconds on the file's clock at which the first window begins
    frames_in_all   real ones; None: as many as the windows hold
    samples_in_all  real ones, likewise
    """

    model: Autoencoder
    latents: Latents
    overlap: int = 0
    start: float = 0.0
    frames_in_all: int | None = None
    samples_in_all: int | None = None
    clip: ClipFormat = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "clip", clip_format(self.model.config))
        if not len(self.latents):
            raise InputError("a recording needs the latents of at least one window")

    @property
    def stop(self) -> float:
        """Second at which the recording ends: the last frame or the last sample, the later one."""
        frames = self._count("video") / float(self.clip.frame_rate or 1)
        return self.start + max(frames, self._count("audio") / (self.clip.sample_rate or 1))

    def frame(
        self,
        seconds: float,
        size: tuple[int, int] | None = None,
        crop: tuple[float, float, float, float] | None = None,
        coarse: int = 1,
    ) -> Tensor:
        """The picture at a time, (3, height, width) in [0, 1]; see `Look` for the rest."""
        return next(self.pictures([seconds], Look(size, crop, coarse)))[0]

    def frames(
        self,
        start: float | None = None,
        stop: float | None = None,
        rate: float | None = None,
        size: tuple[int, int] | None = None,
        crop: tuple[float, float, float, float] | None = None,
        coarse: int = 1,
    ) -> Tensor:
        """The pictures at start, start + 1 / rate, ... before stop: (T, 3, height, width)"""
        times = self.times(start, stop, rate)
        return torch.cat(list(self.pictures(times, Look(size, crop, coarse))))

    def audio(self, start: float | None = None, stop: float | None = None) -> Tensor:
        """The sound from start to stop, (samples,) in [-1, 1], at the model's rate."""
        return torch.cat(list(self.sounds(start, stop)))

    def probabilities(
        self, start: float | None = None, stop: float | None = None, name: str | None = None
    ) -> Tensor:
        """Probabilities of the classes (classes,): the mean over the windows from start to stop.

        name  of another set of classes than the clips' own
        """
        first, end = self._span(start, stop)
        hop = float(self.clip.seconds) * (1 - self.overlap / self.clip.units)
        asked = [
            self._of(index)
            for index in range(len(self.latents))
            if self.start + index * hop < end
            and first < self.start + index * hop + float(self.clip.seconds)
        ]
        total = torch.stack([self.model.probabilities(one, name)[0].cpu() for one in asked])
        return total.mean(0)

    def classes(
        self, top: int = 5, start: float | None = None, stop: float | None = None
    ) -> list[Prediction]:
        """The `top` most probable classes from start to stop, best first."""
        return self.model.predictions(self.probabilities(start, stop), top)

    def times(
        self, start: float | None = None, stop: float | None = None, rate: float | None = None
    ) -> list[float]:
        """start, start + 1 / rate, ... before stop; without them, those of the recording."""
        first, end = self._span(start, stop)
        if not self._count("video"):
            raise InputError("this recording has no picture")
        last = self.start + self._count("video") / float(self.clip.frame_rate or 1)
        if stop is None and first < last:
            end = last  # without the last frame on display while sound goes on
        return times_of(first, end, float(rate or self.clip.frame_rate))

    def pictures(self, times: Sequence[float], look: Look) -> Iterator[Tensor]:
        """The pictures at these times, in their order, in stretches (n, 3, H, W) within [0, 1].

        Raises InputError for a time outside of the recording.
        """
        count = self._count("video")
        if not count:
            raise InputError("this recording has no picture")
        coordinates = [self._frame_at(second, count) for second in times]
        for index, group in groupby(coordinates, self._owner):
            together = list(group)
            for at in range(0, len(together), AT_ONCE):
                yield self._pictures(index, together[at : at + AT_ONCE], look)

    def sounds(self, start: float | None = None, stop: float | None = None) -> Iterator[Tensor]:
        """The sound from start to stop in stretches (n,) within [-1, 1]."""
        begin, end = self._span(start, stop)
        rate, count = self.clip.sample_rate, self._count("audio")
        first, last = (round((second - self.start) * rate) for second in (begin, end))
        last = min(last, count)
        if not first < last:
            raise InputError(f"this recording has no sound from {begin:g} to {end:g} s")
        bounds = [self._begin("audio", k) for k in range(len(self.latents))] + [count]
        for index, (own, after) in enumerate(pairwise(bounds)):
            here, there = max(first, own), min(last, after)
            if here < there:
                yield self._sounds(index, here, there)

    def _pictures(self, index: int, coordinates: list[float], look: Look) -> Tensor:
        """Frames of which window `index` is the last that answers."""
        phases = self._phases("video", index, torch.tensor(coordinates, dtype=torch.float64))
        found = self._shown(index, coordinates, look)
        shared = (phases < 1).nonzero()[:, 0].tolist()
        if shared:
            weights = _raised(phases[shared])[:, None, None, None]
            before = self._shown(index - 1, [coordinates[i] for i in shared], look)
            found[shared] = torch.lerp(before, found[shared], weights)
        return found

    def _shown(self, index: int, coordinates: list[float], look: Look) -> Tensor:
        """A window's own frames at coordinates of the file; its first and last one beyond."""
        begin, last = self._begin("video", index), self.clip.frames - 1
        rate = float(self.clip.frame_rate)
        seconds = [min(max(u - begin, 0), last) / rate for u in coordinates]
        found = self.model.pictures(self._of(index), seconds, look)[0]
        return found.float().cpu().clamp(0, 1)

    def _sounds(self, index: int, first: int, end: int) -> Tensor:
        """Samples of which window `index` is the last that answers."""
        found = self._heard(index, first, end)
        phases = self._phases("audio", index, torch.arange(first, end, dtype=torch.float64))
        shared = int((phases < 1).sum())  # the first ones
        if shared:
            before = self._heard(index - 1, first, first + shared)
            found[:shared] = torch.lerp(before, found[:shared], _raised(phases[:shared]))
        return found

    def _heard(self, index: int, first: int, end: int) -> Tensor:
        begin, rate = self._begin("audio", index), self.clip.sample_rate
        found = self.model.audio(self._of(index), (first - begin) / rate, (end - begin) / rate)
        return found[0, :, 0].float().cpu().clamp(-1, 1)

    def _of(self, index: int) -> Tensor:
        return self.latents[index][None]

    def _points(self, kind: str) -> int:
        """Of a window along time."""
        return self.clip.frames if kind == "video" else self.clip.samples

    def _begin(self, kind: str, index: int) -> int:
        """The first frame or sample of a window, counted from the recording's first."""
        return self.clip.start_of(self._points(kind), index, self.overlap)

    def _count(self, kind: str) -> int:
        """Real frames or samples of the recording."""
        known = self.frames_in_all if kind == "video" else self.samples_in_all
        if known is not None:
            return known
        return self._begin(kind, len(self.latents) - 1) + self._points(kind)

    def _owner(self, u: float) -> int:
        """The last window that answers for frame `u` of the file."""
        step = self._begin("video", 1)
        return min(max(0, math.floor((u + 0.5) / step)), len(self.latents) - 1)

    def _phases(self, kind: str, index: int, places: Tensor) -> Tensor:
        """How far from the window before to this one frames or samples of the file are; 1 where
        there is nothing to fade from."""
        begin = self._begin(kind, index)
        end = self._begin(kind, index - 1) + self._points(kind) if index else begin
        shared = min(end, self._count(kind)) - begin
        if shared <= 0:
            return torch.ones_like(places)
        return ((places - begin + 0.5) / shared).clamp(max=1)

    def _frame_at(self, second: float, count: int) -> float:
        self._check(second)
        frame = (second - self.start) * float(self.clip.frame_rate)
        return min(round(frame * SNAP) / SNAP, count - 1)

    def _span(self, start: float | None, stop: float | None) -> tuple[float, float]:
        start, stop = self.start if start is None else start, self.stop if stop is None else stop
        self._check(start)
        self._check(stop)
        if not start < stop:
            raise InputError(f"from {start:g} to {stop:g} s: stop must come after start")
        return start, stop

    def _check(self, second: float) -> None:
        if not self.start - 1e-9 <= second <= self.stop + 1e-9:
            raise InputError(
                f"{second:g} s is outside of the recording, which lasts from {self.start:g} to"
                f" {self.stop:g} s"
            )


def _raised(phase: Tensor) -> Tensor:
    """The raised cosine of `Rejoin`: from 0 at phase 0 to 1 at phase 1."""
    return (0.5 - 0.5 * torch.cos(math.pi * phase.clamp(0, 1))).float()
