"""What holds for every model and every file, tried on random ones: partitions, order, batches,
round trips, search, times. Engine against module is in test_engine.py, windows of any two lengths
in test_clips.py; here are the properties that join them."""

from __future__ import annotations

import copy
import os
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from media_files import make_media, numbered, read_number
from test_clips import rejoined
from test_engine import (
    TOLERANCE,
    always_factored,  # noqa: F401, a fixture
    configs,
    difference,
    inputs_of,
    weights,
)

from perceivio import names
from perceivio.clip_format import ClipFormat
from perceivio.clips import read_windows
from perceivio.config import Config
from perceivio.embedding_table import Facts, Table, TableWriter
from perceivio.engine import Engine
from perceivio.identity import identity
from perceivio.quantise import PRECISIONS, error_bound, pack, unpack
from perceivio.searching import Query, nearest, unit
from perceivio.weights import load_module, save_module
from perceivio.writer import as_bytes

# `make test-long` sets how many times as many examples are tried.
TIMES = int(os.environ.get("PERCEIVIO_EXAMPLES", "1"))


def property_of(examples: int):
    """The same examples in every run, as many as asked for."""
    return settings(
        max_examples=examples * TIMES,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )


# ---- models ------------------------------------------------------------------------------------


@pytest.mark.usefixtures("always_factored")
@property_of(20)
@given(st.data(), configs(), st.integers(0, 99))
def test_decode_of_any_partition_is_the_whole(data, config, seed):
    module = weights(config, seed)
    engine = Engine(module)
    inputs = inputs_of(config, 2, seed)
    with torch.no_grad():
        latents = module.encode(inputs)
    # A point may come in any part, in any order; together they are all.
    parts = data.draw(st.integers(1, 4))
    random = np.random.default_rng(data.draw(st.integers(0, 2**31)))
    for side in (module, engine):
        with torch.no_grad():
            whole = side.decode(latents)
        for name, modality in config.modalities.items():
            if modality.is_classes:
                continue
            order = random.permutation(modality.queries)
            pieces = [torch.from_numpy(part) for part in np.array_split(order, parts)]
            with torch.no_grad():
                found = [side.decode(latents, {name: piece})[name] for piece in pieces]
            values = torch.empty(2, modality.queries, modality.output_values)
            values[:, torch.from_numpy(order)] = torch.cat(found, 1)
            assembled = module.modalities[name].assemble(values)
            assert difference(assembled, whole[name]) < TOLERANCE, name


@pytest.mark.usefixtures("always_factored")
@property_of(12)
@given(st.data(), configs(), st.integers(0, 99))
def test_the_order_of_modalities_does_not_matter(data, config, seed):
    module = weights(config, seed)
    order = data.draw(st.permutations(list(config.modalities)))
    other = Config.from_dict(
        {**config.to_dict(), "modalities": {k: config.to_dict()["modalities"][k] for k in order}}
    )
    assert other == config
    inputs = inputs_of(config, 1, seed)
    shuffled = {name: inputs[name] for name in order}
    for side in (module, Engine(module)):
        with torch.no_grad():
            latents = side.encode(inputs)
            assert torch.equal(side.encode(shuffled), latents)
            one, two = (side.decode(latents, dict.fromkeys(keys)) for keys in (inputs, order))
        assert set(one) == set(two)
        assert all(torch.equal(values, two[name]) for name, values in one.items())


@pytest.mark.usefixtures("always_factored")
@property_of(12)
@given(st.data(), configs(), st.integers(0, 99), st.integers(2, 4))
def test_a_batch_is_its_examples(data, config, seed, batch):
    module = weights(config, seed)
    given_names = data.draw(st.sets(st.sampled_from(list(config.modalities)), min_size=1))
    inputs = {k: v for k, v in inputs_of(config, batch, seed).items() if k in given_names}
    for side in (module, Engine(module)):
        with torch.no_grad():
            latents = side.encode(inputs)
            outputs = side.decode(latents)
            ones = ({k: v[i : i + 1] for k, v in inputs.items()} for i in range(batch))
            single = [side.encode(one) for one in ones]
            apart = [side.decode(latents[i : i + 1]) for i in range(batch)]
        assert difference(torch.cat(single), latents) < TOLERANCE
        for name, values in outputs.items():
            assert difference(torch.cat([one[name] for one in apart]), values) < TOLERANCE, name


@property_of(8)
@given(configs(), st.integers(0, 99))
def test_what_is_saved_is_loaded_as_it_was(tmp_path_factory, config, seed):
    module = weights(config, seed)
    again = load_module(save_module(module, tmp_path_factory.mktemp("m") / "m"))
    assert again.config == module.config
    assert identity(again) == identity(module)
    assert identity(copy.deepcopy(module).double()) == identity(module)


@property_of(20)
@given(st.integers(1, 40))
def test_names_are_mapped_one_to_one(self_attends):
    for table in (names.huggingface, names.deepmind):
        rows = table(self_attends)
        assert len({row.ours for row in rows}) == len({row.theirs for row in rows}) == len(rows)
        for row in rows:
            value = torch.arange(6.0).view(2, 3) if row.form != "row" else torch.arange(6.0)
            assert torch.equal(row.to_ours(row.to_theirs(value)), value)


# ---- latents -----------------------------------------------------------------------------------


@property_of(200)
@given(
    st.sampled_from(PRECISIONS),
    st.integers(1, 40),
    st.integers(1, 8),
    st.sampled_from(["even", "outlier", "equal", "tiny", "large", "two values"]),
    st.integers(0, 2**31),
)
def test_kept_latents_are_within_the_stated_error(precision, n, d, shape, seed):
    """The bound that docs/latents.md states, written down once more in float64."""
    random = np.random.default_rng(seed)
    values = random.normal(size=(n, d))
    if shape == "outlier":
        values[0] *= 1e4
    elif shape == "equal":
        values[:] = values[0]
    elif shape == "tiny":
        values *= 1e-7
    elif shape == "large":
        values *= 3e4 / np.abs(values).max()
    elif shape == "two values":
        values = np.where(values > 0, 1.0, -1.0) * 1e3
    latents = torch.from_numpy(values.astype(np.float32))
    x = latents.double().numpy()
    kept = pack(latents, precision)
    away = np.abs(unpack(kept, precision, n, d).double().numpy() - x)
    if precision == "float32":
        stated = np.zeros(d)
    elif precision == "float16":
        stated = np.abs(x) * 2**-11 + 2.0**-25
    else:
        steps = {"int8": 255, "int4": 15}[precision]
        size = np.abs(x).max(0)
        # Half a step, and what the ruler is longer than the values for its float16 marks.
        stated = ((x.max(0) - x.min(0)) * 1.003 + size * 2**-8 + 2**-12) / steps / 2 + size * 2**-20
        stated += 2**-15
    assert (away <= stated * (1 + 1e-6) + 1e-30).all()
    # And the bound that the code gives, of what is kept alone, is never exceeded either.
    assert (away <= error_bound(kept, precision).double().numpy()).all()


# ---- windows -----------------------------------------------------------------------------------

RATES = [
    Fraction(24000, 1001), Fraction(30000, 1001), Fraction(60000, 1001), Fraction(1), Fraction(7),
    Fraction(24), Fraction(25), Fraction(50), Fraction(240), Fraction(1000, 33),
]  # fmt: skip



@st.composite
def formats(draw):
    """Clips of any length at any rate; the sound lasts as long as the picture, exactly."""
    rate = draw(st.sampled_from([*RATES, Fraction(25, 2), Fraction(12)]))
    frames = draw(st.integers(1, 4 if rate == 1 else 40))
    times = draw(st.integers(8_000 // rate.numerator + 1, max(1, 48_000 // rate.numerator)))
    samples, sample_rate = times * frames * rate.denominator, times * rate.numerator
    return ClipFormat(frames, 64, 96, rate, samples, sample_rate)


@property_of(40)
@given(
    st.one_of(st.sampled_from(RATES), st.fractions(1, 240, max_denominator=1001)),
    st.integers(1, 70),
    st.one_of(st.just(ClipFormat(16, 64, 96, 25, 10_240, 16_000)), formats()),
    st.data(),
)
def test_windows_rejoined_are_the_files_timeline(tmp_path_factory, fps, count, clip, data):
    """At every moment the frame that the file shows then: the last that has begun."""
    count = min(count, max(1, int(4 * fps)))
    overlap = data.draw(st.integers(0, clip.frames // 2))
    times = [index / fps for index in range(count)]
    seconds, rate = count / fps, Fraction(clip.frame_rate)
    noise = np.random.default_rng(count).uniform(-1, 1, int(seconds * clip.sample_rate))
    path = make_media(
        tmp_path_factory.mktemp("w") / "a.mkv", [numbered(i) for i in range(count)], times, noise,
        fps=fps, rate=clip.sample_rate, sound_codec="pcm_f32le",
    )  # fmt: skip
    image, audio = rejoined(read_windows(path, clip, overlap=overlap), clip, overlap)
    assert abs(len(image) - max(1, seconds * rate)) <= 1
    assert abs(len(audio) - seconds * clip.sample_rate) <= 1 + clip.sample_rate / rate
    slack = Fraction(2, 1000)  # the container counts in milliseconds
    for index, frame in enumerate(as_bytes(image)):
        now = index / rate
        allowed = {
            max((i for i, time in enumerate(times) if time <= now + off), default=0)
            for off in (-slack, slack)
        }
        assert read_number(frame) in allowed, (index, fps, count)
    same = min(len(noise), len(audio))
    assert np.abs(audio[:same].numpy() - noise[:same]).max(initial=0) < 1e-5
    assert not audio[same:].any()


# ---- search ------------------------------------------------------------------------------------


@property_of(40)
@given(
    st.integers(1, 60), st.integers(1, 12), st.integers(1, 5), st.integers(1, 70),
    st.integers(0, 2**31),
)  # fmt: skip
def test_search_is_what_brute_force_finds(tmp_path_factory, n, f, q, top, seed):
    random = np.random.default_rng(seed)
    vectors = random.normal(size=(n, f)).astype(np.float32)
    asked = random.normal(size=(q, f)).astype(np.float32)
    path = tmp_path_factory.mktemp("t") / "t.parquet"
    with TableWriter(path, Facts("ab" * 32, "small", "mean", f)) as writer:
        for i, row in enumerate(vectors):
            writer.add(f"{i}.mp4", [(float(i), i + 1.0)], row[None])
    hits = nearest(Query("q", [0.5 * i for i in range(q)], unit(asked)), Table(path), top)
    x, y = vectors.astype(float), asked.astype(float)
    cosines = (x @ y.T) / np.outer(np.linalg.norm(x, axis=1), np.linalg.norm(y, axis=1))
    best = cosines.max(1).round(9)
    wanted = np.lexsort((np.arange(n), -best))[:top]
    assert [hit.row for hit in hits] == list(wanted)
    assert [hit.file for hit in hits] == [f"{i}.mp4" for i in wanted]
    assert np.allclose([hit.cosine for hit in hits], best[wanted], atol=1e-8)
