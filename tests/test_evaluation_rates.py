"""Latents in bits: the bits are those of quantise.py, the curves those of the codecs, and the
table and the plot say what was measured."""

from __future__ import annotations

import json
import math
import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch

import perceivio
from perceivio.clips import read_windows
from perceivio.errors import PerceivioError
from perceivio.evaluation import rates as rates_module
from perceivio.evaluation.codecs import h264, opus
from perceivio.evaluation.plot import Line, Panel, drawn
from perceivio.evaluation.rates import ALONE, LATENTS, WHOLE, Curve, Point, Rates, measure_rates
from perceivio.evaluation.rates_told import plot, table
from perceivio.pipeline import clip_format
from perceivio.quantise import PRECISIONS, bits_of
from perceivio.writer import MediaWriter

ASSETS = Path(__file__).parents[1] / "assets"
BAND = ASSETS / "band.3gp"
SECONDS = 16 / 25


@cache
def model():
    return perceivio.load("small")


@pytest.fixture(scope="module")
def found():
    """Two windows of a concert, and the codecs at few of their settings."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rates_module, "CRFS", (40, 12))
        patch.setattr(rates_module, "OPUS_RATES", (8, 64))
        return measure_rates(model(), [BAND], start=20, duration=1.3)


def originals() -> tuple[np.ndarray, np.ndarray]:
    windows = read_windows(BAND, clip_format(model().config), 20, 1.28)
    parts = [(w.inputs["image"][0].numpy(), w.inputs["audio"][0, :, 0].numpy()) for w in windows]
    assert len(parts) == 2
    return np.concatenate([p[0] for p in parts]), np.concatenate([p[1] for p in parts])


def psnr(wanted: np.ndarray, got: np.ndarray) -> float:
    return -10 * math.log10(np.square(wanted.astype(np.float64) - got).mean())


def snr(wanted: np.ndarray, got: np.ndarray) -> float:
    wanted = wanted.astype(np.float64)
    return 10 * math.log10(np.square(wanted).sum() / np.square(wanted - got).sum())


def test_latents_take_the_bits_of_quantise_and_lose_what_it_loses(found):
    picture, sound = (found.curve(medium, LATENTS) for medium in ("picture", "sound"))
    assert {p.setting for p in picture.points} == set(PRECISIONS)
    for ours, theirs in zip(picture.points, sound.points, strict=True):
        bits = (ours.kilobits + theirs.kilobits) * 1000 * SECONDS
        assert abs(bits - bits_of(ours.setting, 168, 320)) <= 2  # in whole bits for each
    image, audio = originals()
    shape = {"image": (2, 16, 3, 64, 64), "audio": (2, 10_240, 1)}
    given = {k: torch.from_numpy(v).view(shape[k]) for k, v in (("image", image), ("audio", audio))}
    back = model().reconstruct(given)
    whole = next(p for p in picture.points if p.setting == "float32")
    wanted = psnr(image, back["image"].clamp(0, 1).numpy().reshape(image.shape))
    assert abs(whole.decibels - wanted) < 1e-3
    heard = next(p for p in sound.points if p.setting == "float32")
    assert abs(heard.decibels - snr(audio, back["audio"].clamp(-1, 1).numpy().ravel())) < 1e-3
    quality = [p.decibels for p in picture.points]
    assert quality[0] < quality[1]  # int4 loses, int8 hardly
    assert quality[1] == pytest.approx(quality[-1], abs=0.3)


def test_codec_curves_are_the_codecs(found):
    image, audio = originals()
    for way, pieces in ((WHOLE, 1), (ALONE, 2)):
        got = [h264(torch.from_numpy(x), 25, 12) for x in np.split(image, pieces)]
        point = found.curve("picture", way).points[-1]
        assert point.setting == "crf 12"
        assert point.kilobits == pytest.approx(sum(b for _, b in got) / 2 / SECONDS / 1000)
        assert point.decibels == pytest.approx(psnr(image, torch.cat([x for x, _ in got]).numpy()))
        got = [opus(torch.from_numpy(x), 16_000, 64_000) for x in np.split(audio, pieces)]
        point = found.curve("sound", way).points[-1]
        assert point.setting == "64 kbit/s"
        assert point.kilobits == pytest.approx(sum(b for _, b in got) / 2 / SECONDS / 1000)
        assert point.decibels == pytest.approx(snr(audio, torch.cat([x for x, _ in got]).numpy()))


def test_the_table_says_what_was_measured(found):
    rows = [[cell.strip() for cell in row.split("|")[1:-1]] for row in table(found).splitlines()]
    assert len({len(row) for row in rows}) == 1
    heads, told = rows[0], {row[0]: dict(zip(rows[0], row, strict=True)) for row in rows[2:]}
    assert set(told) == set(PRECISIONS)
    assert told["float32"]["kbit/s"] == "2,688"  # 168 x 320 x 32 / 0.64 s
    picture = found.curve("picture", LATENTS).points[-1]
    assert told["float32"]["picture: PSNR"] == f"{picture.decibels:.2f} dB"
    pixels = 64 * 64 * 25
    assert told["float32"]["bits a pixel"] == f"{picture.kilobits * 1000 / pixels:.2f}"
    assert "H.264 for the same, whole file" in heads
    assert "fewer" in told["float32"]["H.264 for the same, whole file"]
    json.dumps(found.to_dict(), allow_nan=False)


def test_what_a_codec_needs_is_read_off_its_curve():
    points = (Point("a", 10, 20.0), Point("b", 40, 30.0), Point("c", 90, None))
    curve = Curve("picture", ALONE, points)
    assert curve.kilobits_for(20) == pytest.approx(10)
    assert curve.kilobits_for(25) == pytest.approx(20)  # half-way, over the logarithm
    assert curve.kilobits_for(30.1) is None
    assert curve.kilobits_for(19.9) is None
    ours = Curve("picture", LATENTS, tuple(Point(p, 400, d) for p, d in
                 zip(PRECISIONS, (25.0, 31.0, 19.0, None), strict=True)))  # fmt: skip
    kilobits = dict(zip(PRECISIONS, (1, 2, 3, 4), strict=True))
    told = table(Rates("m", ("f",), 1, 1000, kilobits, (ours, curve))).splitlines()
    assert "20.0 kbit/s, 20x fewer" in told[2]
    assert "not reached" in told[3]
    assert "below 10.0 kbit/s, over 40x fewer" in told[4]
    assert told[5].count("| - ") == 3


def test_the_plot_holds_every_point_within_its_axes(found):
    text = plot(found)
    picture = ElementTree.fromstring(text)
    spots = [c.attrib for c in picture.iter("{http://www.w3.org/2000/svg}circle")]
    known = [p for c in found.curves for p in c.points if p.decibels is not None]
    assert len(spots) == len(known)
    for spot in spots:
        assert 52 <= float(spot["cx"]) <= 460 - 14
        assert 84 <= float(spot["cy"]) <= 390 - 44
    for words in ("latents of small", "H.264, whole file", "Opus, each window alone", "int4"):
        assert f">{words}</text>" in text


def test_a_plot_is_to_scale():
    """Ten times the rate is equally far everywhere, more dB are higher."""
    line = Line("a & b", "#123456", ((1, 10.0), (10, 20.0), (100, 30.0)))
    text = drawn([Panel("t", "x", "y", (line,))])
    spots = [tuple(map(float, xy)) for xy in re.findall(r'cx="([\d.]+)" cy="([\d.]+)"', text)]
    (x0, y0), (x1, y1), (x2, y2) = spots
    assert x1 - x0 == pytest.approx(x2 - x1, abs=0.2)
    assert y0 - y1 == pytest.approx(y1 - y2, abs=0.2)
    assert x0 < x1
    assert y0 > y1
    assert "a &amp; b" in text
    flat = Line("flat", "#123456", ((5, 7.0),))
    ElementTree.fromstring(drawn([Panel("t", "x", "y", (flat,))]))  # no division by nothing


def test_sound_alone_and_pictures_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(rates_module, "CRFS", (30,))
    monkeypatch.setattr(rates_module, "OPUS_RATES", (32,))
    sound, silent = tmp_path / "tone.wav", tmp_path / "silent.mp4"
    tone = 0.3 * np.sin(np.arange(16_000) * 0.2).astype(np.float32)
    with MediaWriter(sound, None, None, 16_000) as writer:
        writer.write(None, tone)
    with MediaWriter(silent, 25, (64, 64)) as writer:
        writer.write(np.random.default_rng(1).integers(0, 255, (20, 64, 64, 3), np.uint8))
    heard = measure_rates(model(), [sound])
    assert {c.medium for c in heard.curves} == {"sound"}
    assert heard.curve("sound", LATENTS).points[-1].kilobits == pytest.approx(2688)
    seen = measure_rates(model(), [silent])
    assert {c.medium for c in seen.curves} == {"picture"}
    assert seen.windows == 1  # the four frames behind it are no whole window
    for rates in (heard, seen):
        assert len(table(rates).splitlines()) == 2 + len(PRECISIONS)
        assert plot(rates).startswith("<svg")


def test_files_without_a_whole_window_are_told(tmp_path):
    short = tmp_path / "short.wav"
    with MediaWriter(short, None, None, 16_000) as writer:
        writer.write(None, np.full(4_000, 0.1, np.float32))
    with pytest.raises(PerceivioError, match=r"whole window of 0\.64 s"):
        measure_rates(model(), [short])


def test_evaluate_writes_rates_and_passes_over_what_cannot_be_read(tmp_path):
    data, output = tmp_path / "data", tmp_path / "out"
    data.mkdir()
    (data / "broken.mp4").write_bytes(b"no film")
    with MediaWriter(data / "noise.mp4", 25, (64, 64), 16_000) as writer:
        frames = np.random.default_rng(1).integers(0, 255, (16, 64, 64, 3), np.uint8)
        writer.write(frames, np.sin(np.arange(10_240) * 0.1).astype(np.float32))
    command = [sys.executable, "-m", "perceivio.cli", "evaluate", "small", str(data), "--rates"]
    command += ["--no-codecs", "-o", str(output)]
    ran = subprocess.run(command, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    assert "rates.svg" in ran.stdout
    assert "noise.mp4: 1 windows, small" in (output / "rates.md").read_text()
    ElementTree.parse(output / "rates.svg")
    told = json.loads((output / "rates.json").read_text())
    assert told["files"] == ["noise.mp4"]
    assert {c["way"] for c in told["curves"]} == {LATENTS, ALONE, WHOLE}
    assert not list(output.glob("*.part"))
    assert not list(output.glob(".*"))
