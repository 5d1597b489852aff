"""A short span of a clip: seek to it, and decode nothing that it does not need.

What it gives is what `media.MediaReader` gives for the same span, at a fraction of the cost: a
frame is what is on display at a time, judged by timestamps, and a sample stands where its
packet's timestamp puts it. t = 0 is where the picture begins by the file's header.

The packets of the span are collected before the first is decoded. So it is known which frames
will be on display, and a frame on the way to them that no other frame refers to is never decoded.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import numpy as np
import soxr
from av.error import FFmpegError
from av.video.reformatter import VideoReformatter

from . import ffmpeg
from .clip_format import ClipFormat
from .errors import MediaError
from .ffmpeg import exact, nearest
from .media import SOUND_JITTER, STAMP_ROUNDING

# Where to land before the wanted start when seeking: there, else nearby, else at the beginning.
SEEK_MARGINS = (Fraction(0), Fraction(1), Fraction(10), None)
# Sound decoded before the span: codecs need some packets before what they say is right.
WARM_UP = Fraction(1, 4)
# Sound resampled before and behind the span, so that the resampler's filter ends outside of it.
PAD = Fraction(1, 20)


def origin(stream: Any) -> Fraction:
    """The timestamp, in seconds, of the stream's first frame by the header: the clock's t = 0."""
    return (stream.start_time or 0) * stream.time_base


def read_excerpt(
    container: Any, start: Fraction, clip: ClipFormat
) -> tuple[list[np.ndarray], np.ndarray | None]:
    """The span of a clip from `start` seconds on.

    Returns clip.frames uint8 RGB (H, W, 3), as large as the file's, the last one held where the
    picture ends; and float32 (clip.samples,), silence where there is no sound, or None where the
    file has no sound at all. Raises MediaError where the span is damaged or there is no picture.
    """
    frames, _ = read_frames(container, start, clip.frames, exact(clip.frame_rate))
    if not clip.samples or ffmpeg.audio_stream(container) is None:
        return frames, None
    return frames, read_samples(container, start, clip.samples, clip.sample_rate)[0]


def read_frames(
    container: Any, start: Fraction, count: int, rate: Fraction
) -> tuple[list[np.ndarray], Fraction]:
    """`count` frames from `start` seconds on, as `read_excerpt` gives them, and where the last
    that was met on the way ends, in seconds. Raises MediaError as it does."""
    picture = ffmpeg.video_stream(container)
    if picture is None:
        raise MediaError("holds no picture that can be decoded")
    # Clips are read many at a time, one a process: threads within one would only wait.
    picture.thread_type = "NONE"
    picture.codec_context.thread_count = 1
    begin = origin(picture) + start
    frames, end = _pictures(container, picture, [begin + k / rate for k in range(count)])
    return frames, end - origin(picture)


def read_samples(
    container: Any, start: Fraction, count: int, rate: int
) -> tuple[np.ndarray, Fraction]:
    """Mono float32 (count,) at `rate` Hz from `start` seconds on, as `read_excerpt` gives it, and
    where the sound that was met ends, in seconds. A file without picture begins where its sound
    does. Raises MediaError where it is damaged or there is no sound."""
    sound = ffmpeg.audio_stream(container)
    if sound is None:
        raise MediaError("holds no sound that can be decoded")
    pictures = [stream for stream in ffmpeg.moving_pictures(container) if stream.codec_context]
    zero = origin(pictures[0] if pictures else sound)
    samples, end = _samples(container, sound, zero + start, count, rate)
    return samples, end - zero


def packets(container: Any, stream: Any, begin: Fraction, end: Fraction | None) -> list[Any]:
    """The stream's packets, as stored, from where decoding can start at or before `begin` seconds
    to the last that may be due by `end` (None: to the last of all).
    """
    for margin in SEEK_MARGINS:
        target = origin(stream) if margin is None else begin - margin
        try:
            container.seek(math.floor(target / stream.time_base), stream=stream)
        except FFmpegError:
            continue
        found: list[Any] = []
        try:
            for packet in container.demux(stream):
                if packet.pts is None and packet.dts is None:  # the empty one at the end
                    break
                late = time_of(packet) > begin or not packet.is_keyframe
                if late and not found and margin is not None:
                    break  # some formats land behind the target, or between two keyframes
                found.append(packet)
                # Packets are in the order of decoding: none behind this one is due earlier.
                decoded = None if packet.dts is None else packet.dts * packet.time_base
                if end is not None and decoded is not None and decoded > end:
                    break
        except FFmpegError as error:
            raise MediaError(f"damaged: {ffmpeg.reason(error)}") from error
        if found:
            return found
    return []


def time_of(packet: Any) -> Fraction:
    """When the packet is due, in seconds; raw AVI and the like only have decoding times."""
    return (packet.pts if packet.pts is not None else packet.dts) * packet.time_base


def _pictures(
    container: Any, stream: Any, times: list[Fraction]
) -> tuple[list[np.ndarray], Fraction]:
    """What is on display at each of the times: uint8 RGB (H, W, 3); and the timestamp at which the
    last frame that was met ends."""
    tolerance = min(stream.time_base, STAMP_ROUNDING)
    times = [moment + tolerance for moment in times]
    found = packets(container, stream, times[0], times[-1])
    due = sorted({time_of(packet) for packet in found if not packet.is_discard})
    # A container without times of display (AVI) does not tell which frames will be wanted.
    shown = all(packet.pts is not None for packet in found)
    wanted = {_at(due, moment) for moment in times} if shown and due else None
    frames = _decoded(stream, found, times[0], wanted)
    if wanted is not None and not wanted <= frames.keys():  # stamps that the decoder changes
        stream.codec_context.flush_buffers()
        frames = _decoded(stream, found, times[0], None)
    if not frames:
        raise MediaError("no frame of it can be decoded")
    stamps, shape, convert = sorted(frames), ffmpeg.aspect(stream), VideoReformatter()
    pictures: dict[Fraction, np.ndarray] = {}
    for stamp in {_at(stamps, moment) for moment in times}:
        pictures[stamp] = ffmpeg.to_rgb(frames[stamp], shape, convert)
    usual = 1 / Fraction(stream.guessed_rate or stream.average_rate or 25)
    ends = (time_of(p) + (p.duration * p.time_base if p.duration else usual) for p in found)
    return [pictures[_at(stamps, moment)] for moment in times], max(ends)


def _decoded(
    stream: Any, found: list[Any], begin: Fraction, wanted: set[Fraction] | None
) -> dict[Fraction, Any]:
    """Decoded frames by time: the wanted ones, or (None) all from the one on display at begin."""
    frames: dict[Fraction, Any] = {}
    missing = set() if wanted is None else set(wanted)
    decoder = stream.codec_context
    for packet in [*found, None]:
        if packet is not None:
            needed = wanted is None or time_of(packet) in wanted
            decoder.skip_frame = "DEFAULT" if needed else "NONREF"
        for frame in _decode(decoder, packet):
            stamp = ffmpeg.stamp(frame, stream)
            if stamp is None:
                raise MediaError("its frames have no timestamps")
            if wanted is None:
                if stamp <= begin:
                    frames.clear()
                frames[stamp] = frame
            elif stamp in missing:
                frames[stamp] = frame
                missing.discard(stamp)
                if not missing:
                    return frames
    return frames


def _decode(decoder: Any, packet: Any) -> Iterator[Any]:
    try:
        frames = decoder.decode(packet)
    except FFmpegError as error:
        raise MediaError(f"damaged: {ffmpeg.reason(error)}") from error
    for frame in frames:
        if frame.is_corrupt:
            raise MediaError("damaged: a frame could be decoded in part only")
        yield frame


def _samples(
    container: Any, stream: Any, begin: Fraction, count: int, sample_rate: int
) -> tuple[np.ndarray, Fraction]:
    """Mono float32 (count,) at sample_rate Hz from the timestamp `begin` on, and the timestamp at
    which the sound that was met ends."""
    end = begin + Fraction(count, sample_rate)
    pad = nearest(PAD * sample_rate)  # whole samples, so that resampling keeps the grid
    first = begin - Fraction(pad, sample_rate)
    mono, rate = ffmpeg.Mono(), 0
    canvas = np.zeros(0, np.float32)
    position: int | None = None  # on the canvas, of the next sample
    for packet in packets(container, stream, first - WARM_UP, end + PAD):
        due = time_of(packet)
        if due < first - WARM_UP:
            continue
        try:
            frames = stream.codec_context.decode(packet)
        except FFmpegError as error:
            if due < first:  # some codecs cannot decode the first packet behind a seek
                continue
            raise MediaError(f"damaged: {ffmpeg.reason(error)}") from error
        for frame in frames:
            if not rate:
                rate = frame.sample_rate
                canvas = np.zeros(math.ceil((end + PAD - first) * rate), np.float32)
            elif frame.sample_rate != rate:
                raise MediaError("its sound changes its sampling rate")
            stamp = ffmpeg.stamp(frame, stream)
            placed = position if stamp is None else nearest((stamp - first) * rate)
            if position is None or abs((placed or 0) - position) > SOUND_JITTER * rate:
                position = placed or 0
            values = mono(frame)
            here = slice(max(0, position), max(0, position + len(values)))
            room = canvas[here]
            room[:] = values[max(0, -position) :][: len(room)]
            position += len(values)
    reached = first + Fraction(position or 0, rate) if rate else begin
    if rate and rate != sample_rate:
        canvas = soxr.resample(canvas, rate, sample_rate)
    sound = np.zeros(count, np.float32)
    sound[: max(0, len(canvas) - pad)] = canvas[pad : pad + count]
    return np.clip(np.nan_to_num(sound), -1, 1), reached


def _at(stamps: list[Fraction], moment: Fraction) -> Fraction:
    """The last of the sorted stamps that is not behind `moment`, or the first of all."""
    return stamps[max(0, bisect.bisect_right(stamps, moment) - 1)]
