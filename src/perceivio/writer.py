"""Timed frames and samples -> media file, which appears only when it is whole."""

from __future__ import annotations

import contextlib
import os
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, Self

import av
import numpy as np
import torch
from av.error import FFmpegError
from av.video.reformatter import Colorspace, Interpolation, VideoReformatter

from . import ffmpeg
from .errors import MediaError
from .ffmpeg import exact


@dataclass(frozen=True)
class _Target:
    """What a suffix stands for: FFmpeg's container and encoders, and the options of both."""

    container: str
    video: str | None = None
    audio: str | None = None
    pixels: str = "yuv420p"


_MP4 = _Target("mp4", "libx264", "aac")
TARGETS = {
    ".mp4": _MP4,
    ".m4v": _MP4,
    ".mov": _Target("mov", "libx264", "aac"),
    # Matroska has no place for where AAC really ends; Opus keeps its length.
    ".mkv": _Target("matroska", "libx264", "libopus"),
    ".webm": _Target("webm", "libvpx-vp9", "libopus"),
    ".wav": _Target("wav", audio="pcm_s16le"),
    ".flac": _Target("flac", audio="flac"),
    ".png": _Target("image2", "png", pixels="rgb24"),
    ".jpg": _Target("image2", "mjpeg", pixels="yuvj444p"),
}
ENCODER_OPTIONS = {
    "libx264": {"crf": "18"},
    "libvpx-vp9": {"crf": "24", "b": "0", "cpu-used": "4", "row-mt": "1"},
    "mjpeg": {"qmin": "2", "qmax": "2"},
}
CONTAINER_OPTIONS = {
    "mp4": {"movflags": "faststart"},
    "mov": {"movflags": "faststart"},
    "image2": {"update": "1"},
}


class MediaWriter:
    """Streams frames and samples into a media file that appears only when it is whole.

    >>> with MediaWriter("out.mp4", frame_rate=25, size=(224, 224), sample_rate=16_000) as writer:
    ...     writer.write(frames, samples)

    The suffix chooses the format: mp4, m4v, mov (H.264 + AAC), mkv (H.264 + Opus), webm (VP9 +
    Opus), wav, flac (sound only), png, jpg (one frame only).

    frame_rate  frames/s; ignored where there is no picture.
    size        (height, width) of the frames, or None for no picture. Odd sizes grow by one pixel
                where the format needs even ones.
    sample_rate Hz of the mono sound, or None for no sound.
    encoder     options of the picture's encoder, as FFmpeg calls them, over those used by default.

    It is written to a hidden file beside `path` and renamed at the end; after an error nothing is
    left. Raises MediaError in one line where the file exists and `overwrite` is not set, the
    folder is missing or not writable, the suffix does not fit, or the disk is full.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        frame_rate: Fraction | float | None,
        size: tuple[int, int] | None = None,
        sample_rate: int | None = None,
        overwrite: bool = False,
        encoder: Mapping[str, str] | None = None,
    ) -> None:
        self.path = Path(path)
        self._encoder = encoder or {}
        target = TARGETS.get(self.path.suffix.lower())
        if target is None:
            raise MediaError(f"{path}: unknown suffix; choose one of {' '.join(TARGETS)}")
        if size is not None and target.video is None:
            raise MediaError(f"{path}: {target.container} holds no picture; choose .mp4 or .png")
        if sample_rate is not None and target.audio is None:
            raise MediaError(f"{path}: an image holds no sound; choose .mp4 or .wav")
        if size is None and sample_rate is None:
            raise ValueError("neither a picture nor sound to write")
        self._overwrite = overwrite
        check_free(self.path, overwrite)
        self._size = size
        self._one_frame = target.container == "image2"
        self._frames = self._samples = 0
        self._part = part_of(self.path)
        try:
            self._part.touch(exist_ok=False)
            self._open(target, frame_rate, sample_rate)
        except (FFmpegError, OSError, ValueError) as error:
            self._part.unlink(missing_ok=True)
            raise MediaError(f"{path}: cannot be written: {ffmpeg.reason(error)}") from error

    def _open(
        self, target: _Target, frame_rate: Fraction | float | None, sample_rate: int | None
    ) -> None:
        self._container = av.open(
            str(self._part),
            "w",
            format=target.container,
            container_options=CONTAINER_OPTIONS.get(target.container, {}),
        )
        self._video: Any = None
        self._audio: Any = None
        if self._size is not None:
            assert target.video is not None
            even = 2 if target.pixels == "yuv420p" else 1
            height, width = (side + -side % even for side in self._size)
            video: Any = self._container.add_stream(
                target.video,
                rate=exact(frame_rate or 1),
                options={**ENCODER_OPTIONS.get(target.video, {}), **self._encoder},
            )
            video.width, video.height, video.pix_fmt = width, height, target.pixels
            if even == 2:
                # Said outright, or players guess the colours from the size.
                video.colorspace = video.color_primaries = video.color_trc = 1  # BT.709
                video.color_range = 1  # limited
            self._video, self._convert = video, VideoReformatter()
        if sample_rate is not None:
            assert target.audio is not None
            rates = av.Codec(target.audio, "w").audio_rates or [sample_rate]
            higher = [rate for rate in rates if rate >= sample_rate]
            audio: Any = self._container.add_stream(
                target.audio, rate=min(higher, default=max(rates)), layout="mono"
            )
            if target.audio in ("aac", "libopus"):
                audio.bit_rate = 128_000
            self._audio, self._sample_rate = audio, sample_rate

    def __enter__(self) -> Self:
        return self

    def write(
        self,
        frames: np.ndarray | torch.Tensor | None = None,
        samples: np.ndarray | torch.Tensor | None = None,
    ) -> None:
        """Append frames, uint8 (n, H, W, 3) or float (n, 3, H, W) in [0, 1], and samples (m,)."""
        try:
            if frames is not None:
                for frame in as_bytes(frames):
                    self._write_frame(frame)
            if samples is not None and len(samples):
                self._write_samples(np.asarray(samples, np.float32))
        except (FFmpegError, OSError) as error:
            raise MediaError(f"{self.path}: cannot be written: {ffmpeg.reason(error)}") from error

    def _write_frame(self, pixels: np.ndarray) -> None:
        if pixels.shape != (*(self._size or ()), 3):
            raise ValueError(f"frame of shape {pixels.shape} in a file of size {self._size}")
        if self._one_frame and self._frames:
            raise MediaError(f"{self.path}: an image holds one frame only; choose .mp4")
        height, width = self._size or (0, 0)
        more = (self._video.height - height, self._video.width - width)
        if any(more):
            pixels = np.pad(pixels, ((0, more[0]), (0, more[1]), (0, 0)), mode="edge")
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
        if self._video.pix_fmt == "yuv420p":
            frame = self._convert.reformat(
                frame,
                format="yuv420p",
                dst_colorspace=Colorspace.ITU709,
                interpolation=Interpolation.BICUBIC,
            )
        frame.pts, frame.time_base = self._frames, 1 / self._video.codec_context.framerate
        self._frames += 1
        self._container.mux(self._video.encode(frame))

    def _write_samples(self, samples: np.ndarray) -> None:
        frame = av.AudioFrame.from_ndarray(
            np.clip(samples, -1, 1).reshape(1, -1), format="flt", layout="mono"
        )
        frame.sample_rate = self._sample_rate
        frame.pts, frame.time_base = self._samples, Fraction(1, self._sample_rate)
        self._samples += samples.size
        self._container.mux(self._audio.encode(frame))

    def __exit__(self, kind: object, *_: object) -> None:
        try:
            if kind is None:
                self._finish()
            else:
                with contextlib.suppress(FFmpegError, OSError):
                    self._container.close()
        finally:
            self._part.unlink(missing_ok=True)

    def _finish(self) -> None:
        try:
            if not self._frames and not self._samples:
                raise MediaError(f"{self.path}: there was nothing to write")
            for stream in (self._video, self._audio):
                if stream is not None:
                    self._container.mux(stream.encode(None))
            self._container.close()
            check_free(self.path, self._overwrite)
            self._part.replace(self.path)
        except (FFmpegError, OSError) as error:
            raise MediaError(f"{self.path}: cannot be written: {ffmpeg.reason(error)}") from error


def check_free(path: Path, overwrite: bool) -> None:
    """Raises MediaError where a file cannot appear, or must not."""
    if path.is_dir():
        raise MediaError(f"{path}: is a folder; name a file in it")
    if path.exists() and not overwrite:
        raise MediaError(f"{path} already exists; add --overwrite or choose another name with -o")
    folder = path.absolute().parent
    if not folder.is_dir():
        raise MediaError(f"{folder}: no such folder")


def part_of(path: Path) -> Path:
    """The hidden file beside `path` that it is written to until it is whole."""
    return path.absolute().with_name(f".{path.name[:100]}.{uuid.uuid4().hex[:8]}.part")


def as_bytes(frames: np.ndarray | torch.Tensor) -> np.ndarray:
    """uint8 (n, H, W, 3) from the same, or from floats (n, 3, H, W) in [0, 1]."""
    if isinstance(frames, np.ndarray):
        return frames
    if frames.is_floating_point():
        frames = frames.detach().float().clamp(0, 1).mul(255).round()
        frames = frames.to(torch.uint8).permute(0, 2, 3, 1)
    return frames.cpu().numpy()
