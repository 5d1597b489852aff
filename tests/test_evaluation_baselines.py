"""Baselines against means, cosine sums and FFmpeg written down once more, on real clips."""

from __future__ import annotations

from functools import cache
from math import prod
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from perceivio.config import Modality, preset
from perceivio.evaluation.answers import Clip
from perceivio.evaluation.baselines import (
    AreaPooling,
    TimePooling,
    ZonalDCT,
    baselines,
    cosines,
    enlarged,
    from_cosines,
    longest_waves,
    pooled,
    pooled_area,
    pooled_moments,
)
from perceivio.evaluation.budget import bits_of_latents, shared_bits, values_of_latents
from perceivio.evaluation.codecs import Codecs, fit_h264, fit_opus, h264, opus
from perceivio.pipeline import read
from perceivio.quantise import PRECISIONS, bits_of

ASSETS = Path(__file__).parents[1] / "assets"
SMALL = preset("small")


@cache
def clip(name: str = "band.3gp", start: float = 20.0) -> Clip:
    """A real window of 16 frames of 64 x 64 pixels and 10,240 samples."""
    window = next(iter(read(ASSETS / name, SMALL, start=start, duration=0.64)))
    return Clip(window.inputs["image"][0], window.inputs["audio"][0, :, 0], 25.0, 16_000)


def mse(wanted: torch.Tensor, got: torch.Tensor | None) -> float:
    assert got is not None
    assert got.shape == wanted.shape
    assert got.dtype == torch.float32
    return (wanted - got).double().square().mean().item()


CROOKED = (
    clip(),
    Clip(torch.full((16, 3, 64, 64), 0.5), torch.zeros(10_240), 25.0, 16_000),  # gray, silent
    Clip(torch.rand(1, 3, 64, 64), None, 25.0, 16_000),  # a photograph
    Clip(torch.rand(3, 3, 7, 11), torch.rand(481) * 2 - 1, 30_000 / 1001, 44_100),  # odd
    Clip(torch.rand(2, 3, 1, 1), None, 1.0, 8_000),
    Clip(None, clip().audio, 25.0, 16_000),
)


@pytest.mark.parametrize("index", range(len(CROOKED)))
@pytest.mark.parametrize("budget", [40, 5_000, 53_760, 10**6])
def test_no_more_values_than_the_budget_whatever_the_clip(index, budget):
    given = CROOKED[index]
    for baseline in (AreaPooling(budget), TimePooling(budget), ZonalDCT(budget)):
        answer = baseline(given)
        assert answer.values is not None
        assert answer.values <= budget
        for wanted, got in ((given.image, answer.image), (given.audio, answer.audio)):
            assert (wanted is None) == (got is None)
            if wanted is not None:
                error = mse(wanted, got)
                assert error < 0.5
                if answer.values == wanted.numel():  # all of it is kept
                    assert error < 1e-9


@given(st.integers(1, 20), st.integers(1, 40), st.integers(1, 40), st.integers(1, 40_000))
@settings(deadline=None)
def test_time_pooling_fits_and_joins_frames_first(frames, height, width, points):
    moments, rows, columns = pooled_moments((frames, height, width), points)
    assert 1 <= moments <= frames
    assert 1 <= rows <= height
    assert 1 <= columns <= width
    assert moments * rows * columns <= points
    if (rows, columns) != (height, width):
        assert moments <= 2  # pixels are joined only when no more frames can be
    elif moments < frames:
        assert (moments + 1) * height * width > points


@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 2000))
@settings(deadline=None)
def test_pooled_areas_fit_and_keep_proportions(height, width, pixels):
    rows, columns = pooled_area(height, width, pixels)
    assert 1 <= rows <= height
    assert 1 <= columns <= width
    assert rows * columns <= max(1, pixels)
    if pixels >= height * width:
        assert (rows, columns) == (height, width)
    elif rows > 2:  # a pixel more in either direction than proportions ask for, at most
        assert abs(rows / height - columns / width) <= 1 / height + 1 / width + 1 / rows


def test_area_pooling_against_means_of_squares():
    """Half of the pixels in each direction: means of 2 x 2, by reshaping, at their middles."""
    image = torch.rand(3, 3, 8, 12, generator=torch.Generator().manual_seed(0))
    answer = AreaPooling(3 * 3 * 4 * 6)(Clip(image, None, 25.0, 16_000))
    assert answer.values == 3 * 3 * 4 * 6
    means = image.double().numpy().reshape(3, 3, 4, 2, 6, 2).mean((3, 5))
    rows, columns = ((np.arange(n) + 0.5) / 2 - 0.5 for n in (8, 12))
    found = answer.image.numpy().reshape(9, 8, 12)
    for wanted, got in zip(means.reshape(9, 4, 6), found, strict=True):
        lines = np.stack([np.interp(rows, np.arange(4), column) for column in wanted.T], 1)
        whole = np.stack([np.interp(columns, np.arange(6), line) for line in lines])
        assert np.abs(whole - got).max() < 1e-5


def test_the_grids_of_the_models():
    """What the page on evaluation says: frame by frame, and in time."""
    grids = {
        "small": ((32, 33), (4, 64, 64)),
        "base": ((90, 91), (2, 224, 224)),
        "base-352x": ((45, 45), (2, 128, 129)),
    }
    for name, (area, moments) in grids.items():
        config = preset(name)
        values = values_of_latents(config)
        assert values == config.latents * config.latent_channels
        shape = config.modalities["image"].shape
        numbers = 3 * prod(shape)
        share = values * numbers // (numbers + config.modalities["audio"].shape[0])
        assert pooled_area(*shape[1:], share // 3 // shape[0]) == area
        assert pooled_moments((shape[0], shape[1], shape[2]), share // 3) == moments


@given(st.integers(1, 23), st.integers(1, 23))
@settings(deadline=None)
def test_pooling_is_means_of_equal_stretches(length, size):
    size = min(size, length)
    values = torch.rand(2, length, generator=torch.Generator().manual_seed(length))
    # Each point repeated `size` times: then every stretch is `length` whole points.
    fine = np.repeat(values.double().numpy(), size, axis=1)
    wanted = fine.reshape(2, size, length).mean(2)
    assert np.abs(pooled(values, 1, size).numpy() - wanted).max() < 1e-6


@given(st.integers(1, 23), st.integers(1, 23))
@settings(deadline=None)
def test_enlarging_is_interpolation_through_the_middles(size, length):
    values = torch.rand(size, generator=torch.Generator().manual_seed(length))
    middles = (np.arange(size) + 0.5) / size
    wanted = np.interp((np.arange(length) + 0.5) / length, middles, values.double().numpy())
    assert np.abs(enlarged(values, 0, length).numpy() - wanted).max() < 1e-6


def sums_of_cosines(length: int) -> np.ndarray:
    """The orthonormal DCT-II as a matrix, in float64."""
    k, n = np.ogrid[:length, :length]
    matrix = np.cos(np.pi * (n + 0.5) * k / length) * np.sqrt(2 / length)
    matrix[0] /= np.sqrt(2)
    return matrix


@pytest.mark.parametrize("shape", [(1,), (2,), (5,), (16,), (4, 7, 9)])
def test_cosines_are_sums_of_cosines(shape):
    values = torch.rand(shape, generator=torch.Generator().manual_seed(1))
    for dim, length in enumerate(shape):
        scale = np.sqrt(2 * length) * np.where(np.arange(length), 1, np.sqrt(2))
        matrix = sums_of_cosines(length) * scale[:, None]
        wanted = np.moveaxis(np.tensordot(matrix, values.double().numpy(), (1, dim)), 0, dim)
        waves = cosines(values, dim)
        assert np.abs(waves.numpy() - wanted).max() < 1e-5
        assert (from_cosines(waves, dim) - values).abs().max() < 1e-6


def test_zonal_dct_against_numpy():
    """The whole baseline in float64: colours, transform, zone, and back."""
    given, config = clip(), SMALL
    answer = ZonalDCT(values_of_latents(config))(given)
    assert given.image is not None
    assert given.audio is not None
    image, audio = given.image.double().numpy(), given.audio.double().numpy()[:2560]
    share = 53_760 * image.size // (image.size + 10_240)
    opponent = np.array([[1, 1, 1], [1, 0, -1], [1, -2, 1]]) / np.sqrt([[3], [2], [6]])
    maps = sums_of_cosines(16), opponent, sums_of_cosines(64), sums_of_cosines(64)
    waves = np.einsum("at,bc,dh,ew,tchw->abde", *maps, image, optimize=True).copy("C")
    t, c, h, w = np.ogrid[:16, :3, :64, :64]
    far = (144 * t**2 + h**2 + w**2) * np.where(c, 4, 1)
    order = np.argsort(far, axis=None, kind="stable")
    waves.ravel()[order[share:]] = 0
    wanted = np.einsum("at,bc,dh,ew,abde->tchw", *maps, waves, optimize=True).clip(0, 1)
    assert answer.image is not None
    assert np.abs(answer.image.numpy() - wanted).max() < 1e-4
    matrix = sums_of_cosines(2560)  # of the sound alone, and a quarter of it
    alone = ZonalDCT(700)(Clip(None, torch.from_numpy(audio).float(), 25.0, 16_000))
    assert alone.audio is not None
    assert np.abs(alone.audio.numpy() - matrix[:700].T @ (matrix[:700] @ audio)).max() < 1e-5


def test_the_zone_is_as_large_as_asked_for_and_the_same_for_every_clip():
    for count in (1, 2, 999, 51_099, 16 * 3 * 64 * 64, 10**6):
        zone = longest_waves((16, 3, 64, 64), count)
        assert int(zone.sum()) == min(count, zone.numel())
        assert zone[0, 0, 0, 0]


def test_trivial_answers():
    given = clip()
    assert given.image is not None
    assert given.audio is not None
    found = {each.name: each for each in baselines(SMALL, codecs=False)}
    colour = found["mean colour"](given)
    wanted = given.image.double().numpy().mean((0, 2, 3))
    assert colour.image is not None
    assert np.abs(colour.image.numpy() - wanted[:, None, None]).max() < 1e-5
    assert (colour.values, colour.audio) == (3, None)
    frame = found["mean frame"](given)
    assert frame.image is not None
    assert np.abs(frame.image.numpy() - given.image.double().numpy().mean(0)).max() < 1e-5
    assert frame.values == 3 * 64 * 64
    silence = found["silence"](given)
    assert silence.image is None
    assert mse(torch.zeros(10_240), silence.audio) == 0
    # On a real clip each step is better than the one before it.
    errors = [mse(given.image, found[n](given).image) for n in ("mean colour", "area pooling")]
    errors.append(mse(given.image, found["zonal DCT"](given).image))
    assert errors == sorted(errors, reverse=True)
    assert len({each.note for each in found.values()}) == len(found)


def test_files_beside_a_clip_take_their_part_of_the_latents():
    beside = Modality(
        shape=(16, 64, 64), channels=1, patch=(4, 8, 8), output_patch=(8, 8, 8), bands=8,
        resolution=(4, 8, 8), media="video", rate=25, beside="{stem}.depth.mp4",
    )  # fmt: skip
    more = SMALL.replace(modalities={**SMALL.modalities, "depth": beside})
    numbers = 3 * 16 * 64 * 64 + 10_240
    assert values_of_latents(more) == int(53_760 * numbers / (numbers + 16 * 64 * 64))
    assert bits_of_latents(more, "int8") < bits_of_latents(SMALL, "int8")


# ---- codecs


def test_codecs_stay_within_the_bits_and_give_the_rest_to_the_picture():
    given, errors = clip(), []
    for precision in PRECISIONS:
        assert bits_of_latents(SMALL, precision) == bits_of(precision, 168, 320)
    for budget in (bits_of_latents(SMALL, "int4"), 60_000, 40_000):
        answer = Codecs(budget, "int4")(given)
        assert answer.image_bits is not None
        assert answer.audio_bits is not None
        assert 0 < answer.image_bits + answer.audio_bits <= budget
        assert answer.audio_bits <= shared_bits(budget, given)[1]
        assert given.image is not None
        assert given.audio is not None
        errors.append((mse(given.image, answer.image), mse(given.audio, answer.audio)))
    assert errors == sorted(errors)  # fewer bits, more error
    again = Codecs(40_000, "int4")(given)
    assert (again.image_bits, again.audio_bits) == (answer.image_bits, answer.audio_bits)
    assert again.image is not None
    assert again.audio is not None
    assert torch.equal(again.image, answer.image)  # type: ignore[arg-type]
    assert torch.equal(again.audio, answer.audio)  # type: ignore[arg-type]


@pytest.mark.parametrize("index", range(len(CROOKED)))
def test_codecs_take_any_clip(index):
    given = CROOKED[index]
    for budget in (10, 20_000):
        answer = Codecs(budget, "int4")(given)
        assert answer.image_bits is not None
        assert answer.audio_bits is not None
        assert answer.image_bits + answer.audio_bits <= budget
        for wanted, got, bits in (
            (given.image, answer.image, answer.image_bits),
            (given.audio, answer.audio, answer.audio_bits),
        ):
            assert (got is None) == (bits == 0)  # nothing at all where nothing fits
            if got is not None:
                assert wanted is not None
                assert mse(wanted, got) < 0.3


def test_h264_keeps_order_and_colours():
    """Each frame another flat colour: what comes back is that colour, in that order."""
    colours = torch.rand(9, 3, 1, 1, generator=torch.Generator().manual_seed(5))
    back, bits = h264(colours.expand(9, 3, 18, 30), 25.0, 2)
    assert (back - colours).abs().max() < 0.02
    assert 0 < bits < 9 * 3 * 18 * 30


def test_h264_uses_up_what_it_is_given():
    image = clip().image
    assert image is not None
    for bits in (20_000, 60_000):
        back, used = fit_h264(image, 25.0, bits)
        assert 0.8 * bits < used <= bits
        assert mse(image, back) < 0.003


@pytest.mark.parametrize("rate", [8_000, 16_000, 44_100, 48_000])
def test_opus_is_aligned_to_the_sample(rate):
    """The cross-correlation of what went in and what came out has its peak at no shift."""
    samples = round(0.64 * rate)
    noise = np.random.default_rng(4).standard_normal(samples)
    spectrum = np.fft.rfft(noise)
    spectrum[round(2_000 * 0.64) :] = 0  # what every rate carries
    sound = (np.fft.irfft(spectrum, samples) * 0.5).astype(np.float32)
    back, bits = opus(torch.from_numpy(sound), rate, 48_000)
    assert back.shape == (samples,)
    padded = [np.fft.rfft(x, 2 * samples) for x in (back.numpy(), sound)]
    shifts = np.fft.irfft(padded[0] * padded[1].conj(), 2 * samples)
    assert shifts.argmax() == 0
    assert mse(torch.from_numpy(sound), back) < 0.1 * np.square(sound).mean()
    assert 0.6 * 48_000 * 0.64 < bits < 1.4 * 48_000 * 0.64


def test_opus_uses_up_what_it_is_given_up_to_where_it_helps():
    audio = clip().audio
    assert audio is not None
    errors = []
    for bits in (8_000, 16_000, 40_000, 10**6):
        back, used = fit_opus(audio, 16_000, bits)
        assert 0.85 * min(bits, 8 * 10_240) < used <= min(bits, 100_000)
        errors.append(mse(audio, back))
    assert errors == sorted(errors, reverse=True)
    assert fit_opus(audio, 16_000, 100) == (None, 0)
