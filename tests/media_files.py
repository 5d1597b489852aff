"""Makes odd but real media files with PyAV, whose pictures and sounds say when they are due.

Every numbered frame shows its own index as twelve black or white stripes, so that a test can read
from any picture which frame it is, whatever was done to it on the way.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

BITS, STRIPE, HEIGHT = 12, 8, 64
WIDTH = BITS * STRIPE
RATE = 48_000
TICK = Fraction(1, 90_000)


def numbered(index: int, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    """uint8 RGB (height, width, 3) that shows `index` in stripes, most significant bit left."""
    bits = [(index >> bit) & 1 for bit in reversed(range(BITS))]
    columns = np.arange(width) * BITS // width
    row = np.array(bits, np.uint8)[columns] * 255
    return np.broadcast_to(row[None, :, None], (height, width, 3)).copy()


def read_number(frame: np.ndarray) -> int:
    """The index that a frame (H, W, 3) shows."""
    height, width = frame.shape[:2]
    centres = (np.arange(BITS) + 0.5) * width / BITS
    middle = frame[height // 4 : 3 * height // 4].mean((0, 2))
    return int("".join("1" if middle[int(x)] > 128 else "0" for x in centres), 2)


def beeps(times: Sequence[float], seconds: float, rate: int = RATE, hz: float = 1000) -> np.ndarray:
    """float32 (samples,): silence with a 40 ms tone from each of the times on."""
    clock = np.arange(round(seconds * rate)) / rate
    sound = np.zeros(len(clock), np.float32)
    for time in times:
        on = (clock >= time - 1e-9) & (clock < time + 0.04)
        sound[on] = 0.8 * np.cos(2 * np.pi * hz * (clock[on] - time))
    return sound


def beep_times(sound: np.ndarray, rate: int) -> list[float]:
    """Where the tones of `beeps` begin, in seconds, wherever 100 ms of quiet are before them."""
    loud = np.flatnonzero(np.abs(sound) > 0.3)
    first = [i for n, i in enumerate(loud) if n == 0 or i - loud[n - 1] > 0.1 * rate]
    return [i / rate for i in first]


def make_media(
    path: Path,
    frames: Sequence[np.ndarray] = (),
    times: Sequence[Fraction] = (),
    sound: np.ndarray | None = None,
    *,
    rate: int = RATE,
    sound_start: float = 0.0,
    codec: str = "libx264",
    sound_codec: str = "aac",
    pixels: str = "yuv420p",
    layout: str = "mono",
    rotation: tuple[float, bool] | None = None,
    cover: bool = False,
    fps: Fraction = Fraction(25),
    format: str | None = None,
    options: dict[str, str] | None = None,
    encoder: dict[str, str] | None = None,
    aspect: Fraction | None = None,
) -> Path:
    """Write frames (H, W, 3) at times (seconds) and sound (samples,) or (channels, samples)."""
    with av.open(str(path), "w", format=format, options=options or {}) as container:
        video = audio = None
        if len(frames):
            video = container.add_stream(codec, rate=fps)
            video.height, video.width = frames[0].shape[:2]
            video.pix_fmt = pixels
            if aspect is not None:
                video.codec_context.sample_aspect_ratio = aspect
            if codec == "libx264":
                video.options = {"crf": "10", "preset": "ultrafast", "g": "12"}
                video.codec_context.time_base = TICK
            elif codec == "ffv1":
                video.codec_context.time_base = Fraction(1, 1000)
            if encoder:
                video.options = {**video.options, **encoder}
            if rotation is not None:
                video.set_display_rotation(rotation[0], hflip=rotation[1])
        if sound is not None:
            audio = container.add_stream(sound_codec, rate=rate, layout=layout)
            if sound_codec == "wmav2":
                audio.bit_rate = 64_000  # it has no other by itself
        if cover:
            art = container.add_stream("png", rate=1)
            art.height, art.width, art.pix_fmt = 64, 96, "rgb24"
            art.disposition = av.stream.Disposition.attached_pic
            picture = av.VideoFrame.from_ndarray(numbered(7), format="rgb24")
            packets = [*art.encode(picture), *art.encode(None)]
            container.mux(packets)
        for pixel, time in zip(frames, times, strict=True):
            frame = av.VideoFrame.from_ndarray(pixel, format="rgb24")
            frame = frame.reformat(format=pixels)
            base = video.codec_context.time_base if codec in ("libx264", "ffv1") else 1 / fps
            frame.pts, frame.time_base = round(time / base), base
            container.mux(video.encode(frame))
        if audio is not None:
            channels = np.atleast_2d(sound).astype(np.float32)
            frame = av.AudioFrame.from_ndarray(
                np.ascontiguousarray(channels.T.reshape(1, -1)), format="flt", layout=layout
            )
            frame.sample_rate, frame.time_base = rate, Fraction(1, rate)
            frame.pts = round(sound_start * rate)
            container.mux(audio.encode(frame))
            container.mux(audio.encode(None))
        if video is not None:
            container.mux(video.encode(None))
    return path


def steady(count: int, fps: Fraction | int) -> list[Fraction]:
    """The times of `count` frames at a constant rate."""
    return [Fraction(index) / fps for index in range(count)]


def make_numbered(path: Path, count: int = 50, fps: Fraction = Fraction(25), **more) -> Path:
    """A video of numbered frames at a constant rate."""
    more.setdefault("times", steady(count, fps))
    return make_media(path, [numbered(i) for i in range(count)], fps=fps, **more)


def make_flash_and_beep(path: Path, at: Sequence[int], seconds: float = 3.0, **more) -> Path:
    """25 frames/s: frame n of `at` is white and all others black; a tone starts with each."""
    count = round(seconds * 25)
    frames = [np.full((HEIGHT, WIDTH, 3), 255 * (i in at), np.uint8) for i in range(count)]
    offset = more.get("sound_start", 0.0)
    sound = beeps([n / 25 - offset for n in at], seconds - offset, more.get("rate", RATE))
    return make_media(path, frames, steady(count, 25), sound, **more)
