"""H.264 and Opus on the clips that a model gets, and at most as many bits.

Both are given their best: the slowest sensible preset, tuned for PSNR, colours at full resolution
(4:4:4; at 64 x 64 pixels that is 2 to 6 dB better than 4:2:0 at equal rates), one thread, so that
equal clips give equal bits. What is counted is the compressed packets, without containers and
without the settings that a stream says once.

Letters: T frames of H x W pixels, S samples.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, TypeVar

import av
import numpy as np
import soxr
import torch
from av.codec.context import Flags
from torch import Tensor

from ..ffmpeg import exact
from ..quantise import Precision
from .answers import Answer, Clip
from .budget import shared_bits

# x264's "macroblock tree" spends bits on what many frames refer to, which is for long streams: on
# windows of 16 frames it costs 0.3 dB.
H264 = {"preset": "veryslow", "tune": "psnr", "x264-params": "mbtree=0"}
COARSEST, FINEST, CRF_STEPS = 51, 0, 2  # constant rate factors, and steps of one
# Full-range BT.601, in floats: the codec then loses nothing to another's rounding.
TO_YCC = torch.tensor(
    [[0.299, 0.587, 0.114], [-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]]
)
FROM_YCC = torch.linalg.inv(TO_YCC)

OPUS_RATES = (8_000, 12_000, 16_000, 24_000, 48_000)
LOWEST_RATE, HIGHEST_RATE = 2_000, 256_000  # bits/s that libopus takes for one channel
ENOUGH = 8  # bits a sample: beyond, its SNR grows no more, and the picture has better use for them
RATE_TRIES = 7

Found = TypeVar("Found")


@dataclass(frozen=True)
class Codecs:
    """H.264 and Opus: each window a stream of its own, as large as fits the latents' bits."""

    budget: int
    precision: Precision
    name: str = "H.264 + Opus"

    @property
    def note(self) -> str:
        return (
            f"x264 and libopus, each window alone, at most the bits of latents as {self.precision},"
            f" in proportion to 8 bits a pixel value and 16 a sample; of sound at most {ENOUGH} a"
            f" sample and {HIGHEST_RATE // 1000} kbit/s, the rest goes to the picture"
        )

    def __call__(self, clip: Clip) -> Answer:
        image_bits, audio_bits = shared_bits(self.budget, clip)
        image = audio = None
        used_image = used_audio = 0
        if clip.audio is not None:
            audio, used_audio = fit_opus(clip.audio, clip.sample_rate, audio_bits)
        if clip.image is not None:
            most = max(image_bits, self.budget - used_audio)
            image, used_image = fit_h264(clip.image, clip.frame_rate, most)
        return Answer(image, audio, None, used_image, used_audio)


def fit_h264(image: Tensor, frame_rate: float, bits: int) -> tuple[Tensor | None, int]:
    """Frames (T, 3, H, W) as the best stream of at most `bits` gives them back, and its bits.

    (None, 0) where even the coarsest does not fit.
    """

    def attempt(step: int) -> tuple[Tensor, int]:
        return h264(image, frame_rate, COARSEST - step / CRF_STEPS)

    return _largest(attempt, (COARSEST - FINEST) * CRF_STEPS, bits)


def fit_opus(audio: Tensor, sample_rate: int, bits: int) -> tuple[Tensor | None, int]:
    """Samples (S,) as the best stream of at most `bits` gives them back, and its bits.

    (None, 0) where even the coarsest does not fit.
    """
    rate = bits * sample_rate / len(audio)
    highest = min(rate * 1.25, ENOUGH * sample_rate, HIGHEST_RATE)
    if highest < LOWEST_RATE:
        return None, 0
    steps = 2**RATE_TRIES

    def attempt(step: int) -> tuple[Tensor, int]:
        wanted = LOWEST_RATE * (highest / LOWEST_RATE) ** (step / steps)
        return opus(audio, sample_rate, round(wanted))

    return _largest(attempt, steps, bits)


def h264(image: Tensor, frame_rate: float, crf: float) -> tuple[Tensor, int]:
    """Frames (T, 3, H, W) in [0, 1] through H.264 at a constant rate factor, and the bits."""
    frames, _, height, width = image.shape
    encoder: Any = av.CodecContext.create("libx264", "w")
    encoder.width, encoder.height, encoder.pix_fmt = width, height, "yuv444p"
    encoder.framerate, encoder.time_base = exact(frame_rate), 1 / exact(frame_rate)
    encoder.thread_count = 1
    encoder.options = {**H264, "crf": f"{crf:g}"}
    encoder.flags |= Flags.global_header  # what is said once is then not in the packets
    packets = []
    for index, planes in enumerate(_to_planes(image)):
        frame = av.VideoFrame.from_ndarray(planes, format="yuv444p")
        frame.pts, frame.time_base = index, encoder.time_base
        packets += encoder.encode(frame)
    packets += encoder.encode(None)

    decoder: Any = av.CodecContext.create("h264", "r")
    decoder.thread_count, decoder.extradata = 1, encoder.extradata
    decoded = [frame for packet in [*packets, None] for frame in decoder.decode(packet)]
    assert len(decoded) == frames
    planes = np.stack([frame.to_ndarray() for frame in decoded])
    return _from_planes(planes), _bits(packets)


def opus(audio: Tensor, sample_rate: int, bit_rate: int) -> tuple[Tensor, int]:
    """Samples (S,) in [-1, 1] through Opus at about `bit_rate` bits/s, aligned, and the bits."""
    samples = audio.numpy()
    rate = min((r for r in OPUS_RATES if r >= sample_rate), default=max(OPUS_RATES))
    given = soxr.resample(samples, sample_rate, rate) if rate != sample_rate else samples
    encoder: Any = av.CodecContext.create("libopus", "w")
    encoder.sample_rate, encoder.layout, encoder.format = rate, "mono", "flt"
    encoder.bit_rate, encoder.time_base = bit_rate, Fraction(1, rate)
    encoder.flags |= Flags.global_header
    encoder.open()
    size, packets = encoder.frame_size, []
    for start in range(0, len(given), size):
        piece = np.zeros((1, size), np.float32)
        piece[0, : len(given) - start] = given[start : start + size]
        frame = av.AudioFrame.from_ndarray(piece, format="flt", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = rate, start, encoder.time_base
        packets += encoder.encode(frame)
    packets += encoder.encode(None)

    # The decoder reads from the header how many samples it runs ahead, and leaves them out.
    decoder: Any = av.CodecContext.create("opus", "r")
    decoder.extradata = encoder.extradata
    pieces = [f.to_ndarray()[0] for packet in [*packets, None] for f in decoder.decode(packet)]
    heard = soxr.resample(np.concatenate(pieces), max(OPUS_RATES), sample_rate)
    whole = np.zeros(len(samples), np.float32)
    whole[: len(heard)] = heard[: len(whole)]
    return torch.from_numpy(whole).clamp(-1, 1), _bits(packets)


def _largest(
    attempt: Callable[[int], tuple[Found, int]], steps: int, bits: int
) -> tuple[Found | None, int]:
    """What `attempt` makes at the highest of its steps 0 ... `steps` that takes at most `bits`."""
    best: tuple[Found | None, int] = None, 0
    low, high = -1, steps + 1  # what fits, what does not
    step = steps
    while low + 1 < high:
        found, taken = attempt(step)
        if taken <= bits:
            best, low = (found, taken), step
        else:
            high = step
        step = (low + high) // 2
    return best


def _bits(packets: list[Any]) -> int:
    return 8 * sum(packet.size for packet in packets)


def _to_planes(image: Tensor) -> np.ndarray:
    """Frames (T, 3, H, W) in [0, 1] -> light and two colours, uint8"""
    ycc = torch.einsum("ij,tjhw->tihw", TO_YCC, image) * 255
    ycc[:, 1:] += 128
    return ycc.round().clamp(0, 255).to(torch.uint8).numpy()


def _from_planes(planes: np.ndarray) -> Tensor:
    ycc = torch.from_numpy(planes).float()
    ycc[:, 1:] -= 128
    return torch.einsum("ij,tjhw->tihw", FROM_YCC, ycc / 255).clamp(0, 1)
