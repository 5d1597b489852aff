"""The engine computes the function of the plain module, whatever the model: random sizes and
random weights, with the plain module in float64 as the oracle."""

import copy
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from math import prod

import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from test_model import tiny

from perceivio import engine as engine_file
from perceivio import fast_layers
from perceivio.config import Attend, Config, Modality, preset
from perceivio.engine import Engine, decode_pays, encode_pays
from perceivio.layers import Attention
from perceivio.linear import linear
from perceivio.model import InputError, MultimodalAutoencoder
from perceivio.position import Grid
from perceivio.scores import Scores
from perceivio.workers import share

TOLERANCE = 2e-4  # of the standard deviation of what is compared, in float32
TOLERANCE_BFLOAT16 = 0.1  # largest; the mean must be under a tenth of it

few = st.integers(1, 3)


@st.composite
def modalities(draw) -> Modality:
    dims = draw(st.integers(0, 3))
    pairs = [(draw(few), draw(few), draw(few)) for _ in range(dims)]
    return Modality(
        shape=tuple(prod(three) for three in pairs),
        channels=draw(few),
        patch=tuple(a for a, _, _ in pairs),
        output_patch=tuple(b for _, b, _ in pairs),
        bands=draw(few) if dims else 0,
        resolution=tuple(draw(st.integers(1, 40)) for _ in pairs),
        channel_axis=draw(st.sampled_from([0, -1])),
        embed=draw(st.sampled_from([None, 3, 6])),
        query=draw(st.integers(0, 4)),
        mean=draw(st.sampled_from([0.0, 0.4])),
        std=draw(st.sampled_from([1.0, 0.2])),
    )


@st.composite
def attends(draw) -> Attend:
    heads = draw(few)
    return Attend(
        heads=heads,
        qk_channels=heads * draw(st.integers(1, 5)),
        v_channels=heads * draw(st.integers(1, 5)),
        widening=draw(st.integers(1, 2)),
        query_residual=draw(st.booleans()),
    )


@st.composite
def configs(draw) -> Config:
    config = Config(
        modalities={name: draw(modalities()) for name in "abcd"[: draw(st.integers(1, 4))]},
        latents=draw(st.integers(1, 6)),
        latent_channels=draw(st.integers(4, 9)),
        encode=draw(attends()),
        process=draw(attends()),
        self_attends=draw(st.integers(1, 2)),
        blocks=draw(st.integers(1, 2)),
        decode=draw(attends()),
        output_channels=draw(st.integers(1, 6)),
        input_padding=draw(st.integers(0, 3)),
        query_padding=draw(st.integers(0, 3)),
        activation=draw(st.sampled_from(["gelu", "gelu_tanh"])),
    )
    # A LayerNorm over one or two channels turns rounding into signs.
    assume(config.input_channels > 3 and config.query_channels > 3)
    return config


def weights(config: Config, seed: int, zero_bias: bool = False) -> MultimodalAutoencoder:
    """Random weights of the scale of trained ones, norms and biases that matter."""
    generator = torch.Generator().manual_seed(seed)
    module = MultimodalAutoencoder(config).eval()
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if "norm" in name and name.endswith("weight"):
                parameter.copy_(1 + 0.3 * noise)
            elif name.endswith("weight"):
                parameter.copy_(1.5 * parameter.shape[1] ** -0.5 * noise)
            else:
                parameter.copy_(0.5 * noise)
        if zero_bias:
            module.decoder.cross_attend.attention.output.bias.zero_()
    return module


def inputs_of(config: Config, batch: int, seed: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shapes = {name: (batch, *m.value_shape) for name, m in config.modalities.items()}
    return {name: torch.rand(shape, generator=generator) for name, shape in shapes.items()}


@pytest.fixture
def always_factored(monkeypatch):
    """Small models too, which would be computed plainly."""
    monkeypatch.setattr(engine_file, "encode_pays", lambda config: True)
    monkeypatch.setattr(engine_file, "decode_pays", lambda *_: True)


def difference(got: torch.Tensor, wanted: torch.Tensor) -> float:
    """The largest, over the standard deviation of what is wanted (or its size, if it has none)."""
    assert got.shape == wanted.shape
    if not wanted.numel():
        return 0.0
    scale = max(wanted.double().std(correction=0).item(), 0.1 * wanted.abs().max().item())
    return (got.double() - wanted.double()).abs().max().item() / scale


def points_of(draw, config: Config) -> dict[str, torch.Tensor | None]:
    chosen = {}
    for name in draw(st.sets(st.sampled_from(list(config.modalities)))):
        modality = config.modalities[name]
        indices = st.lists(st.integers(0, modality.queries - 1), max_size=9)
        some = None if modality.is_classes else draw(st.none() | indices | grids(modality))
        is_indices = isinstance(some, list)
        chosen[name] = torch.tensor(some, dtype=torch.long) if is_indices else some
    return chosen


def grids(modality: Modality):
    """Grids of a modality's own: up to five coordinates anywhere along each dimension."""

    def axis(count: int):
        found = st.lists(st.floats(0, count - 1, width=32), min_size=1, max_size=5)
        return found.map(lambda values: torch.tensor(values, dtype=torch.float64))

    return st.tuples(*(axis(n) for n in modality.query_grid)).map(Grid)


@pytest.mark.usefixtures("always_factored")
@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(st.data(), configs(), st.integers(0, 99), st.integers(1, 3), st.booleans())
def test_any_model_any_points(data, config, seed, batch, zero_bias):
    module = weights(config, seed, zero_bias)
    engine = Engine(module)
    exact = copy.deepcopy(module).double()
    inputs = inputs_of(config, batch, seed)
    given_names = data.draw(st.sets(st.sampled_from(list(inputs)), min_size=1))
    inputs = {name: inputs[name] for name in given_names}
    with torch.no_grad():
        latents = exact.encode({name: values.double() for name, values in inputs.items()})
    assert difference(engine.encode(inputs), latents) < TOLERANCE
    for points in (None, points_of(data.draw, config)):
        with torch.no_grad():
            wanted = exact.decode(latents, points)
        got = engine.decode(latents.float(), points)
        assert list(got) == list(wanted)
        for name, values in wanted.items():
            assert difference(got[name], values) < TOLERANCE, name


@pytest.mark.usefixtures("always_factored")
@pytest.mark.parametrize("size", [1, 7, 100])
def test_tiles_of_any_size_give_the_same(monkeypatch, size):
    module = weights(tiny(encode=Attend(heads=2, qk_channels=6)), 0)
    inputs = inputs_of(module.config, 2, 0)
    latents = Engine(module).encode(inputs)
    outputs = Engine(module).decode(latents)
    monkeypatch.setattr("perceivio.scores.TILE", size * 12)
    monkeypatch.setattr("perceivio.scores.PIECE", 5)
    monkeypatch.setattr("perceivio.factored_decode.TILE", size * 44)
    monkeypatch.setattr("perceivio.engine.GROUP", 1)
    assert difference(Engine(module).encode(inputs), latents) < 1e-5
    for name, values in Engine(module).decode(latents).items():
        assert difference(values, outputs[name]) < 1e-5


@pytest.mark.usefixtures("always_factored")
def test_scores_beyond_the_range_of_powers(monkeypatch):
    """Attention so sharp that powers of the scores overflow, the highest among the last tokens."""
    monkeypatch.setattr("perceivio.scores.TILE", 30)
    monkeypatch.setattr("perceivio.scores.FEW", 3)
    module = weights(tiny(), 3)
    with torch.no_grad():
        module.encoder.cross_attend.attention.query.weight *= 150
        module.decoder.cross_attend.attention.query.weight *= 150
    inputs = inputs_of(module.config, 2, 3)
    exact = copy.deepcopy(module).double()
    with torch.no_grad():
        latents = exact.encode({name: values.double() for name, values in inputs.items()})
        wanted = exact.decode(latents)
    gathered = []
    gather = Scores._gather
    monkeypatch.setattr(Scores, "_gather", lambda *a: gathered.append(gather(*a)) or gathered[-1])
    assert difference(Engine(module).encode(inputs), latents) < 1e-2
    assert not all(part.count.isfinite().all() for part in gathered)  # some had to be done again
    for name, values in Engine(module).decode(latents.float()).items():
        assert difference(values, wanted[name]) < 1e-2


@pytest.mark.parametrize("heads", [1, 4])
@pytest.mark.parametrize("batch", [1, 3])
def test_few_queries_of_many_rows(heads, batch):
    """The label's one query, for which no keys and values are made."""
    generator = torch.Generator().manual_seed(0)
    layer = Attention(20, 24, Attend(heads=heads, qk_channels=16, v_channels=12)).eval()
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter, generator=generator)
    queries = torch.randn(1, 1, 20, generator=generator)
    attended = torch.randn(batch, 300, 24, generator=generator)
    with torch.no_grad():
        assert fast_layers._are_few(layer, queries, attended)
        found = fast_layers.attention(layer, queries, attended, fast_layers.as_they_are)
        wanted = layer.double()(queries.double().expand(batch, -1, -1), attended.double())
    assert difference(found, wanted) < 1e-5


def test_plain_chunks_make_no_difference(monkeypatch):
    module = weights(tiny(), 0)
    latents = Engine(module).encode(inputs_of(module.config, 3, 0))
    whole = Engine(module).decode(latents)
    monkeypatch.setattr(engine_file, "decode_pays", lambda *_: False)
    monkeypatch.setattr(engine_file, "CHUNK", 15)  # 5 points of each of three examples
    for name, values in Engine(module).decode(latents).items():
        assert difference(values, whole[name]) < 1e-5


@pytest.mark.parametrize(("threads", "batch"), [(2, 1), (3, 1), (7, 2), (2, 2), (2, 5)])
def test_threads_with_a_part_of_their_own_make_no_difference(monkeypatch, threads, batch):
    """Rows of an example where threads are more, examples where these are."""
    process = Attend(heads=2, qk_channels=6, v_channels=10, widening=2)
    module = weights(tiny(self_attends=2, blocks=2, process=process), 0)
    inputs = inputs_of(module.config, batch, 0)
    monkeypatch.setattr("perceivio.fast_layers.WORK", 1e18)
    plain = Engine(module).encode(inputs)
    monkeypatch.setattr("perceivio.fast_layers.WORK", 0)
    used = []
    for name in ("_by_rows", "_in_turn"):
        of_name = getattr(fast_layers, name)
        monkeypatch.setattr(
            fast_layers, name, lambda *a, name=name, f=of_name: used.append(name) or f(*a)
        )
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        found = Engine(module).encode(inputs)
    finally:
        torch.set_num_threads(before)
    assert used == (["_by_rows"] if batch < threads else ["_in_turn"] * threads)
    assert difference(found, plain) < 1e-5
    with torch.no_grad():
        assert difference(found, module.encode(inputs)) < TOLERANCE


@pytest.mark.parametrize("pays", [False, True])
def test_a_batch_of_none(monkeypatch, pays):
    monkeypatch.setattr(engine_file, "encode_pays", lambda *_: pays)
    monkeypatch.setattr(engine_file, "decode_pays", lambda *_: pays)
    engine = Engine(weights(tiny(), 0))
    latents = engine.encode(inputs_of(engine.module.config, 0, 0))
    assert latents.shape == (0, 6, 8)
    for name, values in engine.decode(latents).items():
        assert values.shape == (0, *engine.module.config.modalities[name].value_shape)


def test_the_form_is_chosen_by_counting():
    base, small = preset("base"), preset("small")
    assert encode_pays(base)
    assert not decode_pays(base, "label", 1)
    assert not decode_pays(base, "image", 100)
    assert decode_pays(base, "image", 1000)
    assert decode_pays(base, "audio", 1920)
    assert not decode_pays(small, "label", 1)


@pytest.mark.usefixtures("always_factored")
def test_bfloat16_keeps_positions_and_statistics_exact():
    """What is rounded are weights and products; the oracle has the same rounded weights."""
    module = weights(tiny(), 1).bfloat16()
    exact = copy.deepcopy(module).double()
    inputs = inputs_of(module.config, 3, 1)
    engine = Engine(module)
    rounded = {name: values.bfloat16() for name, values in inputs.items()}
    with torch.no_grad():
        latents = exact.encode({name: values.double() for name, values in rounded.items()})
        wanted = exact.decode(latents.bfloat16().double())
    got = engine.decode(latents.bfloat16())
    pairs = [(engine.encode(rounded), latents), *((got[name], wanted[name]) for name in wanted)]
    for ours, theirs in pairs:
        assert ours.dtype == torch.bfloat16
        assert difference(ours, theirs) < TOLERANCE_BFLOAT16
        mean = (ours.double() - theirs).abs().mean() / theirs.std()
        assert mean < TOLERANCE_BFLOAT16 / 10


@pytest.mark.usefixtures("always_factored")
def test_constants_follow_the_weights():
    module, other = weights(tiny(), 0), weights(tiny(), 7)
    inputs = inputs_of(module.config, 1, 0)
    engine = Engine(module)

    def check() -> None:
        fresh = Engine(copy.deepcopy(module))
        latents = engine.encode(inputs)
        assert torch.equal(latents, fresh.encode(inputs))
        for name, values in fresh.decode(latents).items():
            assert torch.equal(engine.decode(latents)[name], values)

    check()
    before = engine.encode(inputs)
    module.load_state_dict(other.state_dict())
    check()
    assert not torch.equal(engine.encode(inputs), before)
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    sum(values.sum() for values in module(inputs).values()).backward()
    optimizer.step()
    check()
    module.load_state_dict(weights(tiny(), 8).state_dict(), assign=True)
    check()
    module.decoder.output.weight.data.mul_(2.0)  # torch does not count this
    engine.forget()
    check()
    module.bfloat16()
    inputs = {name: values.bfloat16() for name, values in inputs.items()}
    check()


@pytest.mark.usefixtures("always_factored")
def test_a_model_in_float64_keeps_its_weights():
    module = weights(tiny(), 0).double()
    before = copy.deepcopy(module.state_dict())
    inputs = {n: values.double() for n, values in inputs_of(module.config, 2, 0).items()}
    outputs = Engine(module).decode(Engine(module).encode(inputs))
    with torch.no_grad():
        for name, values in module.reconstruct(inputs).items():
            assert difference(outputs[name], values) < TOLERANCE
    assert all(torch.equal(values, before[name]) for name, values in module.state_dict().items())


@pytest.mark.usefixtures("always_factored")
def test_weights_made_in_inference_mode_can_be_used():
    with torch.inference_mode():
        module = weights(tiny(), 0)
        inputs = inputs_of(module.config, 1, 0)
        latents = Engine(module).encode(inputs)
        assert difference(latents, module.encode(inputs)) < TOLERANCE


@pytest.mark.usefixtures("always_factored")
def test_constants_are_made_once(monkeypatch):
    engine = Engine(weights(tiny(), 0))
    inputs = inputs_of(engine.module.config, 1, 0)
    latents = engine.encode(inputs)
    outputs = engine.decode(latents)
    monkeypatch.setattr("perceivio.factored_decode.exact", None)
    monkeypatch.setattr("perceivio.factored_encode.exact", None)
    assert torch.equal(engine.encode(inputs), latents)
    for name, values in engine.decode(latents).items():
        assert torch.equal(values, outputs[name])


@pytest.mark.usefixtures("always_factored")
def test_an_engine_can_be_copied_and_pickled():
    engine = Engine(weights(tiny(), 0))
    inputs = inputs_of(engine.module.config, 1, 0)
    latents = engine.encode(inputs)
    outputs = engine.decode(latents)
    for copied in (copy.deepcopy(engine), pickle.loads(pickle.dumps(engine))):
        assert copied.module is not engine.module
        assert torch.equal(copied.encode(inputs), latents)
        assert all(torch.equal(v, outputs[name]) for name, v in copied.decode(latents).items())


@pytest.mark.usefixtures("always_factored")
def test_inputs_that_do_not_fit_are_refused_like_the_modules():
    engine = Engine(weights(tiny(), 0))
    with pytest.raises(InputError, match="no input given"):
        engine.encode({})
    with pytest.raises(InputError, match="no modality is called 'sound'"):
        engine.decode(torch.zeros(1, 6, 8), {"sound": None})
    assert engine.decode(torch.zeros(1, 6, 8), {}) == {}


def test_linear_is_exact():
    generator = torch.Generator().manual_seed(0)
    x, weight, bias = (torch.randn(n, generator=generator) for n in ((2, 33, 70), (51, 70), (51,)))
    product = x.double() @ weight.double().T + bias.double()
    for gelu in (None, "none", "tanh"):
        wanted = product if gelu is None else F.gelu(product, approximate=gelu)
        assert (linear(x, weight, bias, gelu) - wanted).abs().max() < 2e-5
    assert linear(x[:, :0], weight, bias).shape == (2, 0, 51)


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


CPU = torch.device("cpu")


@pytest.mark.usefixtures("two_threads")
def test_shared_work_runs_on_threads_that_are_kept():
    meeting = threading.Barrier(2, timeout=10)  # passes only where two are at work at once

    def work(item: int) -> tuple[int, int]:
        if item < 2:
            meeting.wait()
        assert torch.is_inference_mode_enabled()
        return item * item, torch.get_num_threads()

    assert share(work, range(9), CPU) == [(item * item, 1) for item in range(9)]
    assert share(torch.sqrt, [torch.tensor(4.0)], CPU) == [2.0]  # one item: no thread
    fresh = []
    thread = threading.Thread(target=lambda: fresh.append(torch.get_num_threads()))
    thread.start()
    thread.join()
    assert [torch.get_num_threads(), *fresh] == [2, 2]
    kept = workers()
    for _ in range(5):
        share(abs, range(9), CPU)
    assert workers() == kept


def workers() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if thread.name.startswith("perceivio")}


@pytest.mark.usefixtures("two_threads")
def test_a_forked_process_has_threads_of_its_own():
    assert share(abs, range(4), CPU) == [0, 1, 2, 3]
    child = os.fork()
    if not child:
        os._exit(0 if share(abs, range(-4, 0), CPU) == [4, 3, 2, 1] else 1)
    until = time.monotonic() + 30
    while (ended := os.waitpid(child, os.WNOHANG)) == (0, 0) and time.monotonic() < until:
        time.sleep(0.01)
    if ended == (0, 0):
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    assert ended == (child, 0)


@pytest.mark.usefixtures("two_threads")
def test_an_exception_of_a_thread_is_raised_and_ends_the_others():
    done = []

    def work(item: int) -> None:
        if item == 3:
            raise ValueError("three")
        done.append(item)

    with pytest.raises(ValueError, match="three"):
        share(work, range(100_000), CPU)
    assert len(done) < 99_999
    assert torch.get_num_threads() == 2
    count = len(done)
    time.sleep(0.05)
    assert len(done) == count  # nothing is still at work
    assert share(abs, range(3), CPU) == [0, 1, 2]


@pytest.mark.usefixtures("two_threads")
def test_the_published_size_at_random_points():
    """All of `base`, on one thread and on two."""
    module = weights(preset("base"), 0)
    inputs = inputs_of(module.config, 1, 0)
    del inputs["label"]
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(16 * 224 * 224, (300,), generator=generator)
    points = {"image": pixels, "audio": torch.arange(0, 1920, 9), "label": None}
    sides = torch.linspace(0.3, 222.7, 40)
    grid = {"image": Grid((torch.tensor([4.5, 11.0]), sides, sides.flip(0)))}
    with torch.no_grad():
        latents = module.encode(inputs)
        wanted = module.decode(latents, points)
        between = module.decode(latents, grid)
    engine = Engine(module)
    assert difference(engine.decode(latents, grid)["image"], between["image"]) < TOLERANCE
    for threads in (1, 2):
        torch.set_num_threads(threads)
        assert difference(engine.encode(inputs), latents) < TOLERANCE
        for name, values in engine.decode(latents, points).items():
            assert difference(values, wanted[name]) < TOLERANCE, name


MEMORY = """
import resource, torch
from perceivio.config import preset
from perceivio.engine import Engine
from perceivio.model import MultimodalAutoencoder
torch.set_num_threads(2)
engine = Engine(MultimodalAutoencoder(preset("base-352x")).eval())
inputs = {"image": torch.rand(1, 16, 3, 224, 224)}
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
torch.rand(64, 64) @ torch.rand(64, 64)
before = peak()
latents = engine.encode(inputs)
print(peak() - before)
engine.decode(latents, {"image": torch.randint(16 * 224 * 224, (100_000,))})
print(peak() - before)
"""


def test_memory_is_bounded():
    """Encode a whole clip of `base` size and decode many points, in a process of its own."""
    done = subprocess.run([sys.executable, "-c", MEMORY], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    encode, both = map(float, done.stdout.split())
    print(f"{encode:.0f} MB more to encode, {both:.0f} MB with decode")
    assert both < 300
