"""The figures of one window: how near an answer comes to it, as everybody takes them.

Peak 1: PSNR = 10 log10(1 / mean square error). Nothing counts as nearer than 100 dB, so that every
figure is a number. All sums are in float64.

Letters: T frames of H x W pixels, S samples, R bands.
"""

from __future__ import annotations

import math
from functools import cached_property, lru_cache

import torch
from torch import Tensor

from ..metrics import decibels

CLOSEST = 1e-10  # mean square error: 100 dB
SILENT = 1e-9  # mean square of sound below which it is none: -90 dB, a step of 16-bit samples
# SSIM as its authors set it (Wang et al. 2004), on R, G and B, whole windows of 11 x 11 only.
SSIM_WIDTH, SSIM_SIGMA, SSIM_CONSTANTS = 11, 1.5, (0.01**2, 0.03**2)
# Log-mel distance: windows of 25 ms every 10 ms, 64 bands, at least -80 dB of a full-scale sine.
MEL_WINDOW, MEL_HOP, MEL_BANDS, MEL_FLOOR = 0.025, 0.010, 64, 1e-8

FIGURES = ("video_psnr", "video_ssim", "audio_psnr", "audio_snr", "log_mel")


class Wanted:
    """What a window really holds, to which any number of answers are compared.

    image  (T, 3, H, W) in [0, 1], its real frames only; None or no frames: there is no picture
    audio  (S,) in [-1, 1], its real samples only
    """

    def __init__(self, image: Tensor | None, audio: Tensor | None, sample_rate: int) -> None:
        self._image = None if image is None or not len(image) else image.double()
        self._audio = None if audio is None or not len(audio) else audio.double()
        self._rate = sample_rate

    @property
    def is_silent(self) -> bool:
        """Whether there is sound without a signal: it has no SNR."""
        return self._audio is not None and self._energy < SILENT

    def figures(self, image: Tensor | None, audio: Tensor | None) -> dict[str, float]:
        """The figures of an answer, by name: those of FIGURES that can be said of it.

        image, audio  in the shapes of what is wanted or longer; what is beyond does not count.
                      None: the answer says nothing of it
        """
        found: dict[str, float] = {}
        if self._image is not None and image is not None:
            got = image[: len(self._image)].double().clamp(0, 1)
            found["video_psnr"] = _psnr(self._image, got)
            if min(got.shape[2:]) >= SSIM_WIDTH:
                found["video_ssim"] = self._ssim(got)
        if self._audio is not None and audio is not None:
            got = audio[: len(self._audio)].double().clamp(-1, 1)
            found["audio_psnr"] = _psnr(self._audio, got)
            found["log_mel"] = self._log_mel_distance(got)
            if not self.is_silent:
                error = max(_square(self._audio - got), self._energy * CLOSEST)
                found["audio_snr"] = decibels(self._energy / error)
        return found

    @cached_property
    def _energy(self) -> float:
        assert self._audio is not None
        return _square(self._audio)

    # ---- structural similarity

    @cached_property
    def _moments(self) -> tuple[Tensor, Tensor]:
        """Local means and squares of the picture."""
        assert self._image is not None
        return _local_mean(self._image), _local_mean(self._image.square())

    def _ssim(self, got: Tensor) -> float:
        """Mean over frames, channels and places."""
        assert self._image is not None
        (mean, square), got_mean = self._moments, _local_mean(got)
        product, got_square = _local_mean(self._image * got), _local_mean(got.square())
        means = mean * got_mean
        squares = mean.square() + got_mean.square()
        first, second = SSIM_CONSTANTS
        structure = (2 * (product - means) + second) / (square + got_square - squares + second)
        return ((2 * means + first) / (squares + first) * structure).mean().item()

    # ---- log-mel distance

    @cached_property
    def _mel(self) -> Tensor:
        assert self._audio is not None
        return log_mel(self._audio, self._rate)

    def _log_mel_distance(self, got: Tensor) -> float:
        """dB: mean over time and bands of how far the two log-mel spectra are apart."""
        return (self._mel - log_mel(got, self._rate)).abs().mean().item()


def log_mel(samples: Tensor, rate: int) -> Tensor:
    """The log-mel spectrum of sound (S,) at `rate` Hz: dB (windows, 64).

    Hann windows of 25 ms every 10 ms, none beyond the end (shorter sound is filled up with silence
    to one of them); the power spectrum over triangular bands whose peaks lie at equal steps of the
    mel scale, 2595 log10(1 + Hz / 700), from 0 to half the rate; at least -80 dB. 0 dB is the power
    of a full-scale sine.
    """
    length = max(2, round(MEL_WINDOW * rate))
    samples = torch.nn.functional.pad(samples.double(), (0, max(0, length - len(samples))))
    shape = torch.hann_window(length, dtype=torch.float64)
    frames = samples.unfold(0, length, max(1, round(MEL_HOP * rate))) * shape
    bands = _mel_bands(rate)
    size = 2 * (bands.shape[1] - 1)
    power = torch.fft.rfft(frames, n=size).abs().square() @ bands.T
    power = power * 4 / (size * shape.square().sum())  # a full-scale sine has 1 over all bins
    return 10 * power.clamp(min=MEL_FLOOR).log10()


@lru_cache(maxsize=4)
def _mel_bands(rate: int) -> Tensor:
    """float64 (64, bins): how much of each bin of the power spectrum a band takes, 1 at its peak.

    The spectrum is taken finely enough for every band to have a bin.
    """
    size = max(2048, 2 ** math.ceil(math.log2(max(2, MEL_WINDOW * rate))))
    top = 2595 * math.log10(1 + rate / 2 / 700)
    edges = torch.linspace(0, top, MEL_BANDS + 2, dtype=torch.float64)
    hertz = 700 * (10 ** (edges / 2595) - 1)
    bins = torch.linspace(0, rate / 2, size // 2 + 1, dtype=torch.float64)
    low, peak, high = (hertz[n : n + MEL_BANDS, None] for n in range(3))
    rising, falling = (bins - low) / (peak - low), (high - bins) / (high - peak)
    return torch.minimum(rising, falling).clamp(min=0)


# ---- what they share


def _square(values: Tensor) -> float:
    return values.square().mean().item()


def _psnr(wanted: Tensor, got: Tensor) -> float:
    return decibels(1 / max(_square(wanted - got), CLOSEST))


def _local_mean(values: Tensor) -> Tensor:
    """Means (..., W - 10, H - 10) of values (..., H, W) under a Gaussian, where it is whole.

    As two products with banded matrices, since the Gaussian is one of rows times one of columns.
    Places come out transposed, which spares the turning back.
    """
    height, width = values.shape[-2:]
    return (values @ _gaussians(width).T).transpose(-1, -2) @ _gaussians(height).T


@lru_cache(maxsize=8)
def _gaussians(size: int) -> Tensor:
    """float64 (size - 10, size): a Gaussian that adds up to 1 at each place where it is whole."""
    distance = torch.arange(SSIM_WIDTH, dtype=torch.float64) - SSIM_WIDTH // 2
    weights = torch.exp(-0.5 * (distance / SSIM_SIGMA).square())
    rows = torch.zeros(size - SSIM_WIDTH + 1, size, dtype=torch.float64)
    for place, row in enumerate(rows):
        row[place : place + SSIM_WIDTH] = weights / weights.sum()
    return rows
