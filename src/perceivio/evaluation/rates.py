"""Bits against fidelity: a model's latents at each precision, and H.264 and Opus over their range.

What is compared is the same windows at the model's own resolution and rate, whole ones only. The
codecs are measured twice: each window a stream of its own, as the model's windows are, and whole
files as one stream, as codecs are used. Mean square errors are taken over all windows together, so
that a window which somebody gets exactly right does not count without end.

Latents hold picture and sound in one; their bits are told as the picture's and the sound's in
proportion to 8 bits a pixel value and 16 a sample.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from math import exp, log
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from ..autoencoder import Autoencoder
from ..clip_format import ClipFormat
from ..clips import read_windows
from ..errors import PerceivioError
from ..metrics import Fidelity
from ..pipeline import clip_format
from ..quantise import PRECISIONS, pack, unpack
from .answers import Clip
from .budget import bits_of_latents, shared_bits
from .codecs import h264, opus

CRFS = (51, 46, 41, 36, 31, 26, 21, 16, 11, 6, 1)  # H.264's constant rate factors, coarsest first
OPUS_RATES = (6, 8, 12, 16, 24, 32, 48, 64, 96, 128)  # thousand bits a second
LATENTS, ALONE, WHOLE = "latents", "each window alone", "whole file"

Medium = Literal["picture", "sound"]
MEDIA: tuple[Medium, ...] = get_args(Medium)
Progress = Callable[[float, float], None]  # files done, files in all


@dataclass(frozen=True)
class Point:
    """One setting: thousands of bits a second of the medium, and dB (PSNR of pictures, SNR of
    sound; None where there is no error or no signal)."""

    setting: str
    kilobits: float
    decibels: float | None


@dataclass(frozen=True)
class Curve:
    """Points from few bits to many, of one way to keep a medium: LATENTS, ALONE or WHOLE."""

    medium: Medium
    way: str
    points: tuple[Point, ...]

    def kilobits_for(self, decibels: float) -> float | None:
        """At what rate it reaches so many dB, on straight lines over the logarithm of the rate;
        None where it never does, or is better with its fewest bits already."""
        known = [(p.kilobits, p.decibels) for p in self.points if p.decibels is not None]
        for (few, worse), (many, better) in pairwise(known):
            if worse <= decibels <= better and worse < better:
                part = (decibels - worse) / (better - worse)
                return exp(log(few) + part * (log(many) - log(few)))
        return None


@dataclass(frozen=True)
class Rates:
    """What was measured.

    model           its name
    files           that it was measured on: those with a whole window
    windows         of them that were measured
    pixels_a_second of the model's picture, for bits a pixel; 0 without a picture
    kilobits        thousands of bits a second of latents, picture and sound together, by precision
    curves          of each medium that the files have
    """

    model: str
    files: tuple[str, ...]
    windows: int
    pixels_a_second: float
    kilobits: dict[str, float]
    curves: tuple[Curve, ...]

    def curve(self, medium: Medium, way: str) -> Curve | None:
        found = (c for c in self.curves if (c.medium, c.way) == (medium, way))
        return next(found, None)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


@dataclass
class _Sums:
    """Bits of one setting, the seconds that they are for, and what came back."""

    bits: int = 0
    seconds: float = 0.0
    fidelity: Fidelity = field(default_factory=Fidelity)

    def add(self, bits: int, seconds: float, wanted: Tensor, got: Tensor) -> None:
        self.bits += bits
        self.seconds += seconds
        self.fidelity.add(wanted, got)

    def point(self, setting: str, medium: Medium) -> Point:
        decibels = self.fidelity.psnr if medium == "picture" else self.fidelity.snr
        return Point(setting, self.bits / self.seconds / 1000, decibels)


class _Table:
    """Sums by medium, way and setting, in the order in which they first come."""

    def __init__(self) -> None:
        self._sums: dict[tuple[Medium, str], dict[str, _Sums]] = {}

    def at(self, medium: Medium, way: str, setting: str) -> _Sums:
        return self._sums.setdefault((medium, way), {}).setdefault(setting, _Sums())

    def curves(self) -> Iterator[Curve]:
        for (medium, way), settings in self._sums.items():
            points = [sums.point(setting, medium) for setting, sums in settings.items()]
            yield Curve(medium, way, tuple(sorted(points, key=lambda p: p.kilobits)))


def measure_rates(
    model: Autoencoder,
    files: Sequence[str | os.PathLike[str]],
    *,
    start: float = 0.0,
    duration: float = 10.0,
    progress: Progress | None = None,
) -> Rates:
    """The curves of a model and of codecs on media files.

    start, duration  seconds of each file, which are held in memory

    Raises PerceivioError where a file cannot be read, or none has a whole window.
    """
    meter = RateMeter(model, start, duration)
    for done, path in enumerate(files):
        if progress:
            progress(done, len(files))
        meter.add(path)
    return meter.rates()


class RateMeter:
    """Measures file after file; `rates` says what was found so far."""

    def __init__(self, model: Autoencoder, start: float = 0.0, duration: float = 10.0) -> None:
        self._model, self._format = model, clip_format(model.config)
        self._start, self._duration = start, duration
        self._table, self._names, self._windows = _Table(), [], 0

    def add(self, path: str | os.PathLike[str], name: str | None = None) -> None:
        """Measure a file, which is told as `name`. Raises MediaError if it cannot be read."""
        clips = list(whole_clips(path, self._format, self._start, self._duration))
        if not clips:
            return
        self._names.append(Path(path).name if name is None else name)
        self._windows += len(clips)
        for clip in clips:
            _add_latents(self._table, self._model, self._format, clip)
            _add_codecs(self._table, clip, ALONE)
        _add_codecs(self._table, _joined(clips), WHOLE)

    def rates(self) -> Rates:
        """What was measured. Raises PerceivioError where no file had a whole window."""
        taken = self._format
        if not self._windows:
            raise PerceivioError(
                f"none of these files has a whole window of {float(taken.seconds):g} s; name"
                " longer ones"
            )
        bits = {each: bits_of_latents(self._model.config, each) for each in PRECISIONS}
        return Rates(
            self._model.config.name or "model",
            tuple(self._names),
            self._windows,
            taken.height * taken.width * float(taken.frame_rate),
            {each: bits[each] / float(taken.seconds) / 1000 for each in PRECISIONS},
            tuple(self._table.curves()),
        )


def whole_clips(
    path: str | os.PathLike[str], format: ClipFormat, start: float, duration: float
) -> Iterator[Clip]:
    """The windows of a file that end before it does; without sound where it has none, or where a
    window is silent: silence takes no bits and has no SNR."""
    windows = read_windows(path, format, start, duration)
    for window in windows:
        image = window.inputs.get(format.image_name)
        audio = window.inputs.get(format.audio_name)
        if image is not None and window.frames < format.frames:
            continue
        if audio is not None and window.samples < format.samples:
            continue
        silent = audio is None or windows.info.audio is None or not audio.any()
        yield Clip(
            None if image is None else image[0],
            None if silent or audio is None else audio[0, :, 0],
            float(format.frame_rate),
            format.sample_rate,
        )


def _add_latents(table: _Table, model: Autoencoder, format: ClipFormat, clip: Clip) -> None:
    """A clip through the model, its latents kept at each precision."""
    inputs: dict[str, Tensor] = {}
    if clip.image is not None:
        inputs[format.image_name] = clip.image[None]
    if clip.audio is not None:
        inputs[format.audio_name] = clip.audio[None, :, None]
    if not inputs:
        return
    latents, config = model.encode(inputs)[0], model.config
    size = config.latents, config.latent_channels
    for precision in PRECISIONS:
        back = unpack(pack(latents, precision), precision, *size)[None]
        outputs = model.decode(back, dict.fromkeys(inputs))
        given = {name: values[0].float().cpu() for name, values in outputs.items()}
        bits = shared_bits(bits_of_latents(config, precision), clip)
        seconds = float(format.seconds)
        if clip.image is not None:
            got = given[format.image_name].clamp(0, 1)
            table.at("picture", LATENTS, precision).add(bits[0], seconds, clip.image, got)
        if clip.audio is not None:
            got = given[format.audio_name][:, 0].clamp(-1, 1)
            table.at("sound", LATENTS, precision).add(bits[1], seconds, clip.audio, got)


def _add_codecs(table: _Table, clip: Clip, way: str) -> None:
    """A clip, or a file as one clip, through the codecs over their range."""
    if clip.image is not None:
        seconds = len(clip.image) / clip.frame_rate
        for crf in CRFS:
            got, bits = h264(clip.image, clip.frame_rate, crf)
            table.at("picture", way, f"crf {crf}").add(bits, seconds, clip.image, got)
    if clip.audio is not None:
        seconds = len(clip.audio) / clip.sample_rate
        for rate in OPUS_RATES:
            got, bits = opus(clip.audio, clip.sample_rate, rate * 1000)
            table.at("sound", way, f"{rate} kbit/s").add(bits, seconds, clip.audio, got)


def _joined(clips: Sequence[Clip]) -> Clip:
    """Neighbouring windows as one; silent ones are left out of the sound."""
    images = [clip.image for clip in clips if clip.image is not None]
    sounds = [clip.audio for clip in clips if clip.audio is not None]
    return Clip(
        torch.cat(images) if images else None,
        torch.cat(sounds) if sounds else None,
        clips[0].frame_rate,
        clips[0].sample_rate,
    )
