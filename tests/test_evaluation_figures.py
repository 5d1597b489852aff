"""The figures of a window against SciPy, NumPy and plain sums in float64."""

import math
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter

from perceivio.evaluation.figures import FIGURES, Wanted, log_mel
from perceivio.evaluation.files import Classified, File, Means
from perceivio.evaluation.summary import _Resampled, summed_up

RANDOM = np.random.default_rng(7)


def smooth(*shape) -> np.ndarray:
    values = gaussian_filter(RANDOM.standard_normal(shape), (1, 0, 3, 3))
    return np.clip(0.5 + 0.3 * values / values.std(), 0, 1)


def ssim_by_scipy(wanted: np.ndarray, got: np.ndarray) -> float:
    """As scikit-image defines it with Gaussian weights: borders of 5 pixels do not count."""

    def mean(values):
        return gaussian_filter(values, 1.5, truncate=3.5)[5:-5, 5:-5]

    maps = []
    for x, y in zip(wanted.reshape(-1, *wanted.shape[2:]), got.reshape(-1, *got.shape[2:]),
                    strict=True):  # fmt: skip
        mx, my = mean(x), mean(y)
        vx, vy, both = mean(x * x) - mx**2, mean(y * y) - my**2, mean(x * y) - mx * my
        top = (2 * mx * my + 0.01**2) * (2 * both + 0.03**2)
        maps.append(top / ((mx**2 + my**2 + 0.01**2) * (vx + vy + 0.03**2)))
    return float(np.mean(maps))


@pytest.mark.parametrize("shape", [(3, 3, 20, 33), (2, 3, 11, 11), (1, 3, 64, 48)])
def test_ssim_and_psnr_against_scipy(shape):
    wanted = smooth(*shape)
    got = np.clip(wanted + 0.1 * RANDOM.standard_normal(shape), 0, 1)
    found = Wanted(torch.tensor(wanted), None, 0).figures(torch.tensor(got), None)
    assert found["video_ssim"] == pytest.approx(ssim_by_scipy(wanted, got), abs=1e-9)
    mean_square = np.mean((wanted - got) ** 2)
    assert found["video_psnr"] == pytest.approx(-10 * np.log10(mean_square))
    assert set(found) == {"video_psnr", "video_ssim"}


def test_a_picture_smaller_than_the_window_of_ssim_has_none():
    image = torch.rand(2, 3, 10, 40)
    assert set(Wanted(image, None, 0).figures(image / 2, None)) == {"video_psnr"}


def log_mel_by_numpy(samples: np.ndarray, rate: int) -> np.ndarray:
    """The definition of docs/evaluation.md, written down once more with loops."""
    length, hop = round(0.025 * rate), round(0.010 * rate)
    if len(samples) < length:
        samples = np.append(samples, np.zeros(length - len(samples)))
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(length) / length)
    size = 2048
    while size < length:
        size *= 2
    hertz = np.arange(size // 2 + 1) * rate / size
    top = 2595 * np.log10(1 + rate / 1400)
    edges = [700 * (10 ** (top * n / 65 / 2595) - 1) for n in range(66)]
    rows = []
    for start in range(0, len(samples) - length + 1, hop):
        spectrum = np.abs(np.fft.fft(samples[start : start + length] * window, size)) ** 2
        spectrum = spectrum[: size // 2 + 1] * 4 / (size * np.sum(window**2))
        row = []
        for low, peak, high in zip(edges, edges[1:], edges[2:], strict=False):
            weight = np.interp(hertz, [low, peak, high], [0, 1, 0])
            row.append(10 * np.log10(max(1e-8, np.sum(weight * spectrum))))
        rows.append(row)
    return np.array(rows)


@pytest.mark.parametrize(("rate", "count"), [(16_000, 1600), (48_000, 2400), (4000, 30)])
def test_log_mel_distance_against_numpy(rate, count):
    wanted = np.clip(0.2 * RANDOM.standard_normal(count), -1, 1)
    got = 0.7 * wanted
    found = Wanted(None, torch.tensor(wanted), rate).figures(None, torch.tensor(got))
    spectra = log_mel_by_numpy(wanted, rate), log_mel_by_numpy(got, rate)
    assert found["log_mel"] == pytest.approx(np.mean(np.abs(spectra[0] - spectra[1])), abs=1e-6)
    assert np.allclose(log_mel(torch.tensor(wanted), rate).numpy(), spectra[0], atol=1e-6)
    # 0.7 of the sound is 3.1 dB less, whatever the sound
    assert found["log_mel"] == pytest.approx(-20 * math.log10(0.7), abs=1e-6)
    assert found["audio_snr"] == pytest.approx(-20 * math.log10(0.3))
    assert found["audio_psnr"] == pytest.approx(-10 * np.log10(np.mean((wanted - got) ** 2)))


def test_a_full_scale_sine_is_at_0_db_and_every_band_has_a_bin():
    for rate in (1000, 8000, 16_000, 44_100, 192_000):
        tone = torch.sin(2 * math.pi * rate / 3.7 * torch.arange(rate) / rate)
        loudest = log_mel(tone, rate).max().item()
        assert (-3 if rate > 10_000 else -10) < loudest <= 0.01, (rate, loudest)
        noise = torch.rand(rate, generator=torch.Generator().manual_seed(0)) - 0.5
        assert log_mel(noise, rate).min() > -79


def test_the_same_is_100_db_and_silence_has_no_snr():
    image, sound = torch.rand(2, 3, 16, 16), torch.rand(800) - 0.5
    found = Wanted(image, sound, 8000).figures(image, sound)
    assert found == {"video_psnr": 100, "video_ssim": pytest.approx(1), "audio_psnr": 100,
                     "audio_snr": pytest.approx(100), "log_mel": 0}  # fmt: skip
    assert set(found) == set(FIGURES)
    quiet = Wanted(None, torch.full((800,), 1e-5), 8000)
    assert quiet.is_silent
    found = quiet.figures(None, torch.zeros(800))
    assert set(found) == {"audio_psnr", "log_mel"}
    assert found["audio_psnr"] == pytest.approx(100)
    assert not Wanted(image, None, 8000).is_silent


def test_only_what_is_real_counts():
    image, sound = torch.rand(4, 3, 16, 16), torch.rand(800) - 0.5
    other = image.clone(), sound.clone()
    other[0][3:] += 0.3
    other[1][500:] += 0.1
    found = Wanted(image[:3], sound[:500], 8000).figures(*other)
    assert found["video_psnr"] == found["audio_psnr"] == 100
    assert Wanted(image[:0], sound[:0], 8000).figures(*other) == {}
    assert Wanted(image, sound, 8000).figures(None, None) == {}


# ---- means over files


def test_means_are_weighted():
    means = Means()
    means.add("a", {"x": 1.0}, {"x": 1.0})
    means.add("a", {"x": 4.0, "y": 2.0}, {"x": 0.5, "y": 0.25})
    assert means.means() == {"a": {"x": 2.0, "y": 2.0}}


def test_resamples_draw_files_with_replacement():
    """How often files are drawn: as many in all as there are, and as `choice` would."""
    resampled = _Resampled(4)
    times = np.stack([resampled._times() for _ in range(4)])
    assert (times.sum(0) == 4).all()
    rolled = np.random.default_rng(1).integers(0, 4, (200_000, 4))
    shares = Counter(tuple(sorted(Counter(row).values())) for row in rolled[:20_000].tolist())
    found = Counter(tuple(sorted(n for n in column if n)) for column in times.T.tolist())
    for pattern, count in shares.items():
        assert found[pattern] / 2000 == pytest.approx(count / 20_000, abs=0.05)


@given(st.integers(2, 60), st.integers(0, 1000))
@settings(max_examples=20, deadline=None)
def test_the_interval_is_a_bootstraps(count, seed):
    values = np.random.default_rng(seed).gamma(2.0, 3.0, count)
    files = [File("", None, figures={"m": {"video_psnr": float(value)}}) for value in values]
    found = summed_up(files, count, "m").figures["m"]["video_psnr"]
    drawn = np.random.default_rng(5).choice(values, (4000, count)).mean(1)
    low, high = np.percentile(drawn, (2.5, 97.5))
    spread = drawn.std()
    assert found.mean == pytest.approx(values.mean(), abs=1e-6)
    assert found.low == pytest.approx(low, abs=0.35 * spread)
    assert found.high == pytest.approx(high, abs=0.35 * spread)
    assert found.files == count


def test_figures_that_only_some_files_have():
    files = [
        File("1", "a", windows=2, figures={"m": {"video_psnr": 20.0}},
             classified=Classified(0.5, 1.0, 1, 1, "a", 0.9)),
        File("2", "a", failed="2: is empty"),
        File("3", "a", windows=1, silent=1, figures={"m": {"video_psnr": 30.0, "audio_snr": 5.0}},
             classified=Classified(0.0, 1.0, 0, 1, "b", 0.9)),
        File("4", "z", windows=1, figures={"m": {"video_psnr": 40.0}}),
        File("5", None, windows=1, figures={"m": {"video_psnr": 10.0}}),
    ]  # fmt: skip
    found = summed_up(files, 4, "m")
    assert (found.files, found.windows, found.silent, found.failed) == (4, 5, 1, 1)
    assert found.reasons == ["2: is empty"]
    assert found.figures["m"]["video_psnr"].mean == 25
    snr = found.figures["m"]["audio_snr"]
    assert (snr.mean, snr.low, snr.high, snr.files) == (5, None, None, 1)
    assert found.figures["m"]["top1"].mean == 0.25
    assert found.figures["m"]["clip_top1"].mean == 0.5
    assert (found.unlabelled, found.unknown) == (1, {"z": 1})
    assert found.classes["a"].files == 2
    assert found.classes["a"].taken_for == {"a": 1, "b": 1}
    assert found.classes["a"].figures["m"]["video_psnr"] == 25
    assert list(found.classes) == ["a", "z"]
