"""FFmpeg's side of reading: open a file, choose streams, decode what can be decoded, and turn
frames into RGB and mono samples. Knows nothing of clocks or rates.
"""

from __future__ import annotations

import math
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, BinaryIO

import av
import numpy as np
from av.error import ArgumentError, FFmpegError, InvalidDataError
from av.error import EOFError as FFmpegEOFError
from av.sidedata.sidedata import Type as SideDataType
from av.stream import Disposition
from av.video.reformatter import Colorspace, Interpolation, VideoReformatter

from .errors import MediaError

# A demuxer that reports this many errors in a row will not find its way back.
MAX_DEMUX_ERRORS = 1000
# Formats that FFmpeg would read, and we do not: those that only name other files or addresses, by
# which a stranger's file could show what lies elsewhere on this machine,
ELSEWHERE = {"concat", "dash", "hls", "image2", "imf", "mlv", "rtp", "rtsp", "sap", "sdp", "vobsub"}
# and text "played" as terminal art; a text file is not media to anybody else.
TEXT_ART = {"tty", "bin", "xbin", "adf", "idf"}
FORMATS = ",".join(sorted(av.formats_available - ELSEWHERE - TEXT_ART))
# A header of a few bytes can claim any size, and memory is taken before the picture is read. This
# is more than twice 8K; with a frame or two in each decoder it is about a gigabyte.
MAX_PIXELS = 2**26


def exact(number: Fraction | float) -> Fraction:
    """The fraction meant by `number`: 0.1 is 1/10 and 23.976023976 is 24000/1001."""
    return Fraction(number).limit_denominator(1_000_000)


def nearest(number: Fraction) -> int:
    """The nearest whole number, halves up."""
    return math.floor(number + Fraction(1, 2))


@dataclass
class Losses:
    """Packets that could not be decoded or came out damaged, and the seconds they stood for."""

    packets: int = 0
    seconds: float = 0.0

    def add(self, seconds: float) -> None:
        self.packets += 1
        self.seconds += seconds


def open_media(path: Path) -> Any:
    """The open container, of which every stream of interest has a decoder."""
    try:
        status = path.stat()
    except OSError as error:
        missing = isinstance(error, FileNotFoundError | NotADirectoryError)
        why = "no such file" if missing else f"cannot be read: {reason(error)}"
        raise MediaError(f"{path}: {why}") from error
    if stat.S_ISDIR(status.st_mode):
        raise MediaError(f"{path}: is a folder; name a media file in it")
    if not stat.S_ISREG(status.st_mode):
        raise MediaError(f"{path}: is no file but a device or a pipe; save it as a file first")
    if not status.st_size:
        raise MediaError(f"{path}: is empty")
    try:
        file = path.open("rb")
    except OSError as error:
        raise MediaError(f"{path}: cannot be read: {reason(error)}") from error
    with file:
        # FFmpeg is given the open file and not its name, and may open nothing else, so what is in
        # a file cannot make it read another, and what is in a name cannot either.
        return _open("fd:", str(path), {"fd": str(file.fileno()), "protocol_whitelist": "fd"})


def open_stream(file: BinaryIO, name: str) -> Any:
    """The same for a file object that can seek; `name` is for errors."""
    return _open(file, name, {"protocol_whitelist": "data"})


def _open(source: str | BinaryIO, name: str, options: dict[str, str]) -> Any:
    options |= {"format_whitelist": FORMATS, "max_pixels": str(MAX_PIXELS)}
    try:
        container: Any = av.open(source, options=options, metadata_errors="replace")
    except (FFmpegError, OSError) as error:
        if isinstance(error, InvalidDataError | FFmpegEOFError):
            raise MediaError(f"{name}: not a media file, or damaged beyond reading") from error
        if isinstance(error, ArgumentError):  # which is what a format gets that is not in FORMATS
            raise MediaError(
                f"{name}: not a media file but text or a list of other files; name a media file"
            ) from error
        raise MediaError(f"{name}: cannot be read: {reason(error)}") from error
    for stream in container.streams.video:
        if stream.codec_context:
            stream.codec_context.options = {"max_pixels": str(MAX_PIXELS)}
    return container


def reason(error: Exception) -> str:
    return (getattr(error, "strerror", None) or str(error)).strip().lower()


def video_stream(container: Any) -> Any:
    """The first video stream that is not a cover picture and has a decoder, or None."""
    streams = [stream for stream in moving_pictures(container) if stream.codec_context]
    if streams:
        streams[0].thread_type = "AUTO"
    return streams[0] if streams else None


def moving_pictures(container: Any) -> list[Any]:
    """The video streams that are not cover pictures."""
    cover = Disposition.attached_pic
    return [stream for stream in container.streams.video if not stream.disposition & cover]


def audio_stream(container: Any) -> Any:
    """The sound that FFmpeg's players choose, or None."""
    best = container.streams.best("audio")
    streams = [s for s in (best, *container.streams.audio) if s is not None and s.codec_context]
    return streams[0] if streams else None


def header_duration(container: Any) -> Fraction | None:
    """How long the file lasts by its header, in seconds, or None where that does not tell."""
    if container.duration is None:
        return None
    duration = Fraction(container.duration, av.time_base)
    if container.format.name.startswith("matroska") and (container.start_time or 0) > 0:
        # Matroska's writers put down when it ends, which is no duration where it begins late.
        duration = max(Fraction(0), duration - Fraction(container.start_time, av.time_base))
    return duration


def declared_duration(container: Any) -> float:
    duration = header_duration(container)
    if duration is not None:
        return float(duration)
    ends = [
        float((packet.pts + (packet.duration or 0)) * packet.time_base)
        for packet in demux(container, None, Losses())
        if packet.pts is not None
    ]
    return max(ends) - min(ends) if ends else 0.0


def demux(container: Any, stream: Any, losses: Losses) -> Iterator[Any]:
    """All packets of the stream (None: of all streams) that can be found, an empty one at the end;
    damage between them is counted, not raised."""
    which = () if stream is None else (stream,)
    packets, failures = container.demux(*which), 0
    while failures < MAX_DEMUX_ERRORS:
        try:
            packet = next(packets, None)
        except FFmpegError:
            losses.add(0)
            failures += 1
            packets = container.demux(*which)  # reads on behind the damage
            continue
        if packet is None:
            return
        failures = 0
        yield packet


def decode(container: Any, stream: Any, losses: Losses) -> Iterator[Any]:
    """All frames of the stream that can be decoded; what cannot be is counted, not raised."""
    for packet in demux(container, stream, losses):
        try:
            frames = packet.decode()
        except FFmpegEOFError:
            continue
        except FFmpegError:
            losses.add(float((packet.duration or 0) * (packet.time_base or 0)))
            continue
        for frame in frames:
            if frame.is_corrupt:
                losses.add(float(length(frame, stream) or 0))
            yield frame


def stamp(frame: Any, stream: Any) -> Fraction | None:
    """The frame's timestamp in seconds; raw AVI and the like only have decoding times."""
    ticks = frame.pts if frame.pts is not None else frame.dts
    base = frame.time_base or stream.time_base
    return None if ticks is None or base is None else ticks * base


def length(frame: Any, stream: Any) -> Fraction | None:
    """How long the frame lasts, in seconds, or None where the file does not say."""
    if isinstance(frame, av.AudioFrame):
        return Fraction(frame.samples, frame.sample_rate)
    base = frame.time_base or stream.time_base
    return frame.duration * base if frame.duration and base else None


def aspect(stream: Any) -> Fraction:
    """Width of a pixel over its height. Ask while the file is open: FFmpeg looks into the file's
    own structures for it, and those are gone, unchecked, once it is closed."""
    return Fraction(stream.sample_aspect_ratio or 1)


def shown_size(frame: Any, shape: Fraction) -> tuple[int, int]:
    """Width and height of the frame in square pixels, not more than MAX_PIXELS of them; `shape` is
    its pixels' aspect."""
    width, height = Fraction(frame.width), Fraction(frame.height)
    if Fraction(1, 8) < shape < 8:
        width *= shape
    scale = min(1.0, math.sqrt(MAX_PIXELS / (width * height)))
    return max(1, nearest(width * Fraction(scale))), max(1, nearest(height * Fraction(scale)))


def to_rgb(frame: Any, shape: Fraction, convert: VideoReformatter) -> np.ndarray:
    """uint8 RGB (H, W, 3) as a player shows it: square pixels, upright, over black."""
    width, height = shown_size(frame, shape)
    # Files that do not say follow the custom of their size: BT.709 for HD, BT.601 below.
    untold = frame.colorspace == 2 and frame.format.name.startswith(("yuv", "nv", "p0"))
    alpha = frame.format.name == "pal8" or any(c.is_alpha for c in frame.format.components)
    pixels = convert.reformat(
        frame,
        width=width,
        height=height,
        format="rgba" if alpha else "rgb24",
        src_colorspace=Colorspace.ITU709 if untold and frame.height >= 720 else None,
        interpolation=Interpolation.BICUBIC,
    ).to_ndarray()
    if alpha:
        pixels = (pixels[..., :3] * (pixels[..., 3:] / 255) + 0.5).astype(np.uint8)
    if frame.interlaced_frame and len(pixels) > 2:
        # The two fields are of different times: keep the first, and fill in between its lines.
        above, below = pixels[:-2:2].astype(np.uint16), pixels[2::2]
        pixels[1 : 1 + 2 * len(above) : 2] = (above + below + 1) // 2
    return upright(pixels, frame)


def upright(pixels: np.ndarray, frame: Any) -> np.ndarray:
    """Turned and mirrored as the frame's display matrix asks, in quarter turns."""
    try:
        matrix = frame.side_data.get(SideDataType.DISPLAYMATRIX)
    except ValueError:
        # PyAV stumbles over side data newer than itself, Exif among it, but knows the angle.
        return np.ascontiguousarray(np.rot90(pixels, round(frame.rotation / 90)))
    if matrix is None:
        return pixels
    (a, b, _), (c, d, _), _ = np.frombuffer(bytes(matrix), np.int32).reshape(3, 3)
    if abs(int(b)) > abs(int(a)):  # x' = c y, y' = b x
        pixels, a, d = pixels.transpose(1, 0, 2), c, b
    return np.ascontiguousarray(pixels[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1])


class Mono:
    """Decoded sound of any format and layout -> float32 (n,); both may change on the way."""

    def __init__(self) -> None:
        self._key: tuple[str, str, int] | None = None
        self._mixer: Any = None

    def __call__(self, frame: Any) -> np.ndarray:
        key = frame.format.name, frame.layout.name, frame.sample_rate
        if key != self._key:
            # Channels of unknown place ("7 channels") cannot be weighted: they are averaged.
            layout = None if "channels" in frame.layout.name else "mono"
            self._key, self._mixer = (
                key,
                av.AudioResampler(format="flt", layout=layout, options={"rematrix_maxval": "1"}),
            )
        # Interleaved, because PyAV reads beyond its memory with more than eight planes, and a
        # damaged header can promise sixteen channels.
        parts = [
            part.to_ndarray().reshape(-1, part.layout.nb_channels).mean(1)
            for part in self._mixer.resample(frame)
        ]
        return np.concatenate(parts) if parts else np.zeros(0, np.float32)
