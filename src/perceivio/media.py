"""Media file -> timed frames and samples. Knows nothing of models; writer.py is the way back.

The clock: t = 0 is the timestamp of the first video frame, or of the first sample where there is
no video. Where sound starts earlier by whole frames, the clock starts that many frames earlier,
with the first frame on display, so that nothing is lost. A frame is what is on display at a time,
judged by timestamps alone, never by counting; a sample is placed by the timestamp of its packet.
Times are exact fractions of a second.

Picture and sound are read by one demuxer each, so memory stays constant however badly the two
are interleaved in the file.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import math
import os
from collections import deque
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal, Self

import av
import numpy as np
import soxr
from av.error import FFmpegError
from av.format import Flags
from av.video.reformatter import VideoReformatter

from . import ffmpeg
from .errors import MediaError
from .ffmpeg import Losses, exact, nearest
from .memory import give_back

Kind = Literal["video", "sound", "image"]

# Matroska, FLV and ASF round timestamps to a millisecond: a frame stamped at most this much late
# counts as on time, or a 30 Hz file read at 30 Hz would repeat and skip frames.
STAMP_ROUNDING = Fraction(1, 1000)
# Sound whose timestamp is off by less than this from where the sound before it ended is
# continuous; by more, there is a gap or an overlap. Packets of common codecs last 20 ms or more.
SOUND_JITTER = Fraction(1, 100)
# A step back by more than BACKWARD is a break of the clock (joined transport streams), not a pause;
# so is one ahead by more than FORWARD of all that was read, where the format is prone to it, or
# beyond the end of the file (a damaged timestamp). FORWARD is FFmpeg's own threshold.
BACKWARD, FORWARD = 1, 10
# Where neither picture nor sound has anything for longer than PAUSE, a timestamp is damaged or a
# recorder stood still; ten hours of one frame are of no use to anybody, so it is left out.
PAUSE = Fraction(60)
# Each costs a look at the other stream; where there are so many, they are damage.
MAX_PAUSES = 1000
# Where to land before the wanted start when seeking: nearby, else further, else at the beginning.
SEEK_MARGINS = (Fraction(1), Fraction(10), None)
TRIM_EVERY = 10.0  # seconds between two times that what files took is given back
STILL_BRANDS = {"avif", "heic", "heix", "mif1"}


@dataclass(frozen=True)
class VideoInfo:
    """Size in square pixels as displayed, after `rotation` degrees clockwise were applied."""

    width: int
    height: int
    frame_rate: float
    rotation: int


@dataclass(frozen=True)
class AudioInfo:
    """Sampling rate in Hz and number of channels, as stored."""

    rate: int
    channels: int


@dataclass(frozen=True)
class MediaInfo:
    """What a file holds.

    `duration` in seconds is what its header says, 0 for an image. `undecodable` names what there
    is but cannot be decoded: "picture", "sound".
    """

    path: Path
    kind: Kind
    duration: float
    video: VideoInfo | None
    audio: AudioInfo | None
    undecodable: tuple[str, ...] = ()


def probe(path: str | os.PathLike[str]) -> MediaInfo:
    """What the media file holds, seen from its header and its first frames.

    Raises MediaError, in one line, for anything that is not a readable media file with at least
    one frame or sample.
    """
    return _inspect(Path(path))[0]


class MediaReader:
    """Streams a media file as frames and samples on one clock, in constant memory.

    >>> with MediaReader("clip.mp4", frame_rate=25, sample_rate=16_000) as reader:
    ...     frames, samples = reader.read(16, 10_240)

    frame_rate  frames/s of the grid: frame k is what is on display at start + k / frame_rate.
                None leaves the picture out.
    sample_rate Hz of the mono sound. None leaves the sound out.
    start       seconds on the file's clock at which to begin.
    duration    seconds to read at most; None reads to the end.

    Each stream ends where it ends in the file, with two exceptions: sound that ends before the
    picture is filled up with silence, and sound that outlasts the picture by less than a frame
    is cut to it. Mono is FFmpeg's downmix scaled so that it cannot clip: stereo is averaged; in
    surround left and right weigh 1, the centre 1.41, the surrounds 0.71, and LFE is left out.

    `notes` says in words what was missing and replaced, `losses` counts what was damaged; both
    are complete once everything was read. `lead` is by how many seconds the clock starts before
    the first frame. Raises MediaError as `probe` does, and where there is
    nothing to read from `start` on.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        frame_rate: Fraction | float | None,
        sample_rate: int | None,
        start: float = 0.0,
        duration: float | None = None,
    ) -> None:
        lasts = math.inf if duration is None else duration
        if not 0 <= start < math.inf or not lasts > 0 or duration == math.inf:
            raise MediaError(
                "start must not be negative, duration must be above zero, and both must be finite"
            )
        self.info, self._clock = _inspect(Path(path))
        self.notes: list[str] = []
        self.losses = Losses()
        self.lead = Fraction(0)
        self._frame_rate = None if frame_rate is None else exact(frame_rate)
        self._sample_rate = sample_rate
        self._start = exact(start)
        self._duration = None if duration is None else exact(duration)
        self._has_frames = self.info.video is not None and frame_rate is not None
        self._has_sound = self.info.audio is not None and sample_rate is not None
        if not self._has_frames and not self._has_sound:
            absent = "sound" if self.info.video is not None else "picture"
            raise MediaError(f"{path}: holds no {absent}, and only {absent} is asked for")
        if "picture" in self.info.undecodable and frame_rate is not None:
            self.notes.append("the picture cannot be decoded: it is left out")
        if sample_rate is not None and not self._has_sound and self.info.kind == "video":
            damaged = "sound" in self.info.undecodable
            reason = "the sound cannot be decoded" if damaged else "no sound"
            self.notes.append(f"{reason}: silence is used")

        early = self._clock.origin - self._clock.first
        if self._has_frames and self._frame_rate and 0 < early <= FORWARD:
            self.lead = math.floor(early * self._frame_rate) / self._frame_rate
            self._clock.origin -= self.lead

        self._frames = self._grid_frames() if self._has_frames else _nothing()
        self._frames_given = 0
        self._frames_ended = not self._has_frames
        self._sound = self._placed_sound() if self._has_sound else _nothing()
        self._sound_ended = not self._has_sound
        self._buffer: deque[np.ndarray] = deque()  # decoded sound not yet asked for
        self._buffered = 0  # samples in it
        self._decoded = 0  # samples so far, handed out or in the buffer
        self._samples_given = 0  # the silence at the end included
        self._finished = False
        self._pauses = 0  # stretches that may be one, so far

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._frames.close()  # closing a generator closes the file that it reads
        self._sound.close()
        give_back(TRIM_EVERY)

    def read(self, frames: int, samples: int) -> tuple[list[np.ndarray], np.ndarray]:
        """The next `frames` uint8 RGB (H, W, 3) and the next `samples` float32 (samples,).

        Fewer at the end, none after it. Frames differ in size where the file's do. Ask for frames
        and samples that last equally long.
        """
        pictures = list(itertools.islice(self._frames, frames))
        self._frames_given += len(pictures)
        self._frames_ended = self._frames_ended or len(pictures) < frames
        sound = self._read_sound(samples)
        if self._frames_ended and self._sound_ended and not self._finished:
            self._finished = True
            self._conclude()
        return pictures, sound

    # ---- picture

    def _grid_frames(self) -> Generator[np.ndarray, None, None]:
        """RGB frames at start + k / frame_rate, to the end of the last frame's display."""
        assert self._frame_rate is not None
        rate, convert, k = self._frame_rate, VideoReformatter(), 0
        wanted = None if self._duration is None else max(1, nearest(self._duration * rate))
        shown, end = None, self._start
        for time, until, frame, stream in self._timed(ffmpeg.video_stream):
            picture = _Picture(frame, ffmpeg.aspect(stream), convert)
            tolerance = min(stream.time_base or STAMP_ROUNDING, STAMP_ROUNDING)
            while k != wanted and self._start + k / rate + tolerance < time:
                yield (shown or picture).rgb  # before the first frame: the first frame
                k += 1
            if k == wanted:
                return
            shown, end = picture, max(end, until)  # a damaged stamp may be behind its time
        still = self.info.kind == "image"
        if shown is None or (end <= self._start and not still):
            return
        count = 1 if still else max(1, nearest((end - self._start) * rate))
        for _ in range(k, count if wanted is None else min(count, wanted)):
            yield shown.rgb

    # ---- sound

    def _placed_sound(self) -> Generator[np.ndarray, None, None]:
        """Mono float32 pieces, one behind the other from start on, gaps filled with silence."""
        assert self._sample_rate is not None
        rate, mono = self._sample_rate, ffmpeg.Mono()
        position, gaps = 0, 0  # samples yielded; those of them put between two runs
        run: _Run | None = None
        for time, _, frame, _ in self._timed(ffmpeg.audio_stream):
            if (
                run is None
                or run.source_rate != frame.sample_rate
                or abs(time - run.end) > SOUND_JITTER
            ):
                if run is not None:
                    tail = run.finish()
                    position += len(tail)
                    yield tail
                gap = nearest((time - self._start) * rate) - position
                if run is not None:
                    gaps += max(0, gap)
                else:
                    self._note_first_sound(gap)
                for size in range(gap, 0, -rate):  # a second at a time: a gap may last an hour
                    position += min(size, rate)
                    yield np.zeros(min(size, rate), np.float32)
                run = _Run(time, frame.sample_rate, rate, skip=max(0, -gap))
            piece = run.add(mono(frame))
            position += len(piece)
            yield piece
        if run is not None:
            yield run.finish()
        if gaps / rate > 0.05:
            self.notes.append(f"{gaps / rate:.2f} s of gaps in the sound: silence is used")

    def _note_first_sound(self, gap: int) -> None:
        assert self._sample_rate is not None
        seconds = gap / self._sample_rate
        if seconds > 0.05:
            self.notes.append(f"the sound starts {seconds:.2f} s late: silence before it")
        elif seconds < -0.05 and self._start == 0:
            self.notes.append(f"{-seconds:.2f} s of sound before the first frame: left out")

    def _read_sound(self, count: int) -> np.ndarray:
        if self._sample_rate is None or self.info.kind == "image":
            return np.zeros(0, np.float32)
        slack = 0  # a frame's worth of sound behind the picture's end is not worth keeping
        if self._has_frames:
            assert self._frame_rate is not None
            slack = math.ceil(self._sample_rate / self._frame_rate)
        while self._buffered < count + slack and not self._sound_ended:
            piece = next(self._sound, None)
            if piece is None:
                self._sound_ended = True
            else:
                self._buffer.append(piece)
                self._buffered += len(piece)
                self._decoded += len(piece)
        if self._frames_ended:
            end, sound_end = self._picture_end(), self._decoded
            if self._clock.sound_end is not None:
                seconds = self._clock.sound_end - self._clock.origin - self._start
                declared = nearest(seconds * self._sample_rate)
                if sound_end - declared < self._sample_rate / 10:  # more than padding: not true
                    sound_end = min(sound_end, declared)
            if sound_end - end >= slack:
                end = sound_end
            count = min(count, end - self._samples_given)
        if self._duration is not None:
            limit = nearest(self._duration * self._sample_rate)
            count = min(count, limit - self._samples_given)
        count = max(0, count)
        self._samples_given += count
        return self._take(count)

    def _picture_end(self) -> int:
        """The sample at which the frames handed out so far end."""
        if self._frame_rate is None or self._sample_rate is None:
            return 0
        return nearest(self._frames_given * self._sample_rate / self._frame_rate)

    def _take(self, count: int) -> np.ndarray:
        """`count` samples from the buffer, silence where it has no more."""
        sound = np.zeros(count, np.float32)
        filled = 0
        while filled < count and self._buffer:
            piece = self._buffer.popleft()
            used = min(len(piece), count - filled)
            sound[filled : filled + used] = piece[:used]
            filled += used
            if used < len(piece):
                self._buffer.appendleft(piece[used:])
        self._buffered -= filled
        return sound

    # ---- both

    def _timed(self, pick: Any) -> Iterator[tuple[Fraction, Fraction, Any, Any]]:
        """(begin, end, frame, stream) of decoded frames, seconds on the file's clock."""
        shift = left_out = Fraction(0)
        before: Fraction | None = None  # when the last frame began,
        expected: Fraction | None = None  # and when it ends
        for frame, stream in self._from_start(pick):
            stamp = ffmpeg.stamp(frame, stream)
            if stamp is None:
                time = expected or Fraction(0)
            else:
                stamp -= self._clock.origin
                due = self._start if expected is None else expected
                if self._clock.breaks(stamp + shift, expected):
                    shift = self._clock.bridge(stamp, expected)
                elif self._is_pause(pick, due - shift, stamp):
                    earlier, shift = shift, self._clock.bridge(stamp, due)
                    left_out += earlier - shift
                    self._clock.left_out = max(self._clock.left_out, left_out)
                time = stamp + shift
            length = ffmpeg.length(frame, stream)
            if length is not None and self._is_pause(pick, time - shift, time - shift + length):
                length = None
            if length is None:  # then as long as the one before it, or as is usual in the file
                usual = 1 / Fraction(getattr(stream, "guessed_rate", None) or 25)
                usual = usual if usual <= PAUSE else Fraction(1)
                length = usual if before is None or time <= before else min(time - before, 1)
            before, expected = time, time + length
            self._clock.reached = max(self._clock.reached, expected)
            yield time, expected, frame, stream

    def _from_start(self, pick: Any) -> Iterator[tuple[Any, Any]]:
        """(frame, stream) of one stream from `start` on, or from a little before it."""
        for margin in SEEK_MARGINS:
            if margin is not None and self._start <= margin:
                continue
            with ffmpeg.open_media(self.info.path) as container:
                stream = pick(container)
                frames = ffmpeg.decode(container, stream, self.losses)
                if margin is None:
                    yield from ((frame, stream) for frame in frames)
                    return
                target = self._clock.origin + self._start - margin
                try:
                    container.seek(int(target / stream.time_base), stream=stream)
                except FFmpegError:
                    continue
                first = next(frames, None)
                stamp = None if first is None else ffmpeg.stamp(first, stream)
                # Some formats land behind the target: then further back, and decode on.
                if stamp is not None and stamp <= self._clock.origin + self._start:
                    yield first, stream
                    yield from ((frame, stream) for frame in frames)
                    return

    def _is_pause(self, pick: Any, begin: Fraction, end: Fraction) -> bool:
        """Whether nothing goes on in the stream that `pick` does not choose from begin to end, a
        stretch longer than PAUSE in which its own has nothing new; both by the file's stamps."""
        if end - begin <= PAUSE:
            return False
        self._pauses += 1
        if self._pauses > MAX_PAUSES or self.info.video is None or self.info.audio is None:
            return True
        other = ffmpeg.audio_stream if pick is ffmpeg.video_stream else ffmpeg.video_stream
        middle = self._clock.origin + (begin + end) / 2
        with ffmpeg.open_media(self.info.path) as container:
            stream = other(container)
            if stream is None:
                return True
            near = middle - PAUSE / 2, middle + PAUSE / 2
            with contextlib.suppress(FFmpegError):
                container.seek(int(middle / stream.time_base), stream=stream)
            for packet in ffmpeg.demux(container, stream, Losses()):
                ticks = packet.pts if packet.pts is not None else packet.dts
                if ticks is not None and (ticks + packet.duration) * stream.time_base >= near[0]:
                    return ticks * stream.time_base > near[1]
        return True

    def _conclude(self) -> None:
        """Say what only the end of the file shows."""
        reached = float(self._clock.reached)
        if not self._frames_given and not self._samples_given:
            raise MediaError(
                f"{self.info.path}: nothing to read from {float(self._start):g} s on;"
                f" it lasts {reached:.2f} s"
            )
        if self._has_sound and self._has_frames:
            assert self._sample_rate is not None
            missing = (self._picture_end() - self._decoded) / self._sample_rate
            if missing > 0.05:
                self.notes.append(f"the sound ends {missing:.2f} s early: silence is used")
        left_out = float(self._clock.left_out)
        if left_out:
            self.notes.append(f"{left_out:.0f} s in which nothing goes on: they are left out")
        missing = self.info.duration - reached - left_out
        if self._duration is None and missing > max(0.5, self.info.duration / 100):
            self.notes.append(
                f"the file ends early: {reached:.2f} s of {self.info.duration:.2f} s could be read"
            )


class _Clock:
    """From a file's timestamps to seconds since t = 0, for all its streams together.

    `origin` is the timestamp at t = 0; `first` and `last` are where the file begins and ends by
    its header. `sound_end`, if known, is where the sound ends although its last packet goes on.
    """

    def __init__(
        self,
        origin: Fraction,
        first: Fraction,
        last: Fraction,
        sound_end: Fraction | None,
        discontinuous: bool,
    ) -> None:
        self.origin, self.first, self.last, self.sound_end = origin, first, last, sound_end
        self.reached = Fraction(0)  # the furthest end of a frame of any stream
        self.left_out = Fraction(0)  # seconds of pauses that were left out
        self._discontinuous = discontinuous
        self._shifts = [Fraction(0)]

    def breaks(self, time: Fraction, expected: Fraction | None) -> bool:
        """Whether a frame at `time`, where `expected` was due, is on another clock."""
        if expected is None:
            return False
        if time < expected - BACKWARD:
            return True
        due = max(expected, self.reached)
        if not self._discontinuous:
            due = max(due, self.last - self.origin)
        return time > due + FORWARD

    def bridge(self, stamp: Fraction, expected: Fraction | None) -> Fraction:
        """What to add to stamps behind a break: the other stream's shift if it met it before."""
        expected = expected or Fraction(0)
        for shift in reversed(self._shifts):
            if abs(stamp + shift - expected) <= BACKWARD:
                return shift
        self._shifts.append(expected - stamp)
        return self._shifts[-1]


class _Picture:
    """A decoded frame that becomes RGB when first asked for: most rates skip some frames. The last
    one of a file is asked for behind the file's end, so nothing of the file itself is needed."""

    def __init__(self, frame: Any, shape: Fraction, convert: VideoReformatter) -> None:
        self._source = frame, shape, convert

    @functools.cached_property
    def rgb(self) -> np.ndarray:
        return ffmpeg.to_rgb(*self._source)


class _Run:
    """One uninterrupted stretch of sound on its way to another sampling rate.

    The first `skip` samples that come out are dropped: they are before the start, or overlap.
    """

    def __init__(self, begin: Fraction, source_rate: int, rate: int, skip: int) -> None:
        self.source_rate = source_rate
        self.end = begin
        self._skip = skip
        self._resampler = None
        if source_rate != rate:
            self._resampler = soxr.ResampleStream(source_rate, rate, 1, dtype="float32")

    def add(self, samples: np.ndarray) -> np.ndarray:
        self.end += Fraction(len(samples), self.source_rate)
        return self._pass(samples, last=False)

    def finish(self) -> np.ndarray:
        return self._pass(np.zeros(0, np.float32), last=True)

    def _pass(self, samples: np.ndarray, last: bool) -> np.ndarray:
        if self._resampler is not None:
            samples = self._resampler.resample_chunk(np.ascontiguousarray(samples), last=last)
        dropped = min(self._skip, len(samples))
        self._skip -= dropped
        return np.clip(np.nan_to_num(samples[dropped:]), -1, 1)


def _inspect(path: Path) -> tuple[MediaInfo, _Clock]:
    """What `path` holds, and its clock."""
    with ffmpeg.open_media(path) as container:
        picture, sound = ffmpeg.video_stream(container), ffmpeg.audio_stream(container)
        moving, audible = bool(ffmpeg.moving_pictures(container)), bool(container.streams.audio)
        if picture is None and sound is None:
            raise MediaError(f"{path}: holds no video or sound that can be decoded")
        name = container.format.name
        still = name.endswith("_pipe")
        still |= container.metadata.get("major_brand", "") in STILL_BRANDS
        discontinuous = bool(container.format.flags & Flags.ts_discont.value)
        begin, sound_end = container.start_time, None
        if name.startswith("mov") and sound is not None and sound.duration:
            # MP4 tells the true end of sound, which AAC fills up to a whole packet.
            sound_end = ((sound.start_time or 0) + sound.duration) * sound.time_base
        duration = ffmpeg.declared_duration(container)
    video = audio = origin = None
    if picture is not None:
        with ffmpeg.open_media(path) as container:
            stream = ffmpeg.video_stream(container)
            first = list(itertools.islice(ffmpeg.decode(container, stream, Losses()), 2))
            still |= name in ("gif", "apng") and len(first) == 1
            if first:
                shape = ffmpeg.aspect(stream)
                height, width = ffmpeg.to_rgb(first[0], shape, VideoReformatter()).shape[:2]
                rate = float(stream.guessed_rate or stream.average_rate or 0)
                turn = -round(first[0].rotation / 90) * 90 % 360
                video = VideoInfo(width, height, rate, turn)
                origin = ffmpeg.stamp(first[0], stream) or Fraction(0)
    if sound is not None and not (still and video):
        with ffmpeg.open_media(path) as container:
            stream = ffmpeg.audio_stream(container)
            frame = next(ffmpeg.decode(container, stream, Losses()), None)
            if frame is not None:
                audio = AudioInfo(frame.sample_rate, frame.layout.nb_channels)
                if origin is None:
                    origin = ffmpeg.stamp(frame, stream) or Fraction(0)
    if origin is None:
        damage = "it is damaged"
        if picture is not None:
            damage += f", or has more than {ffmpeg.MAX_PIXELS // 10**6} million pixels"
        raise MediaError(f"{path}: not one frame or sample in it can be decoded: {damage}")
    kind: Kind = "sound" if video is None else "image" if still else "video"
    undecodable = [
        what
        for what, stored, info in (("picture", moving, video), ("sound", audible, audio))
        if stored and info is None
    ]
    duration = 0.0 if kind == "image" else duration
    info = MediaInfo(path, kind, duration, video, audio, tuple(undecodable))
    first = origin if begin is None else Fraction(begin, av.time_base)
    last = first + exact(duration)
    return info, _Clock(origin, first, last, sound_end, discontinuous)


def _nothing() -> Generator[np.ndarray, None, None]:
    yield from ()
