"""The fast way to train computes the plain module's function and gradients, whatever the model:
random sizes and random weights, with the plain module's autograd in float64 as the oracle."""

import copy

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_engine import configs, difference, inputs_of, points_of, weights
from test_model import tiny

from perceivio import fast_layers
from perceivio import scores as scores_file
from perceivio.config import Attend, preset
from perceivio.linear import linear
from perceivio.training import fast
from perceivio.training.gather import gather

EXACT = 1e-8  # of a gradient's largest number, in float64
ROUNDED = 2e-3  # the same in float32, where small models divide by small deviations
PUBLISHED = 2e-3  # the same for all of `base`


@pytest.fixture
def always_factored(monkeypatch):
    """Small models too, which would be read plainly, and with attention head by head."""
    monkeypatch.setattr(fast, "encode_pays", lambda config: True)
    monkeypatch.setattr(fast_layers, "SCORES", (0, 2**22))


@pytest.fixture
def small_tiles(monkeypatch):
    monkeypatch.setattr(scores_file, "TILE", 20)
    monkeypatch.setattr(scores_file, "PIECE", 2)
    monkeypatch.setattr(scores_file, "FEW", 2)
    monkeypatch.setattr(fast, "CHUNK", 5)


def loss(outputs: dict[str, torch.Tensor]) -> torch.Tensor:
    """Of every number of every output, each with a weight of its own."""
    every = torch.cat([values.flatten() for values in outputs.values()])
    return (every * torch.linspace(0, 50, len(every)).cos().to(every)).sum()


def gradients(module, outputs) -> dict[str, torch.Tensor | None]:
    module.zero_grad()
    if any(values.numel() for values in outputs.values()):
        loss(outputs).backward()
    return {name: p.grad for name, p in module.named_parameters() if p.numel()}


def check(got, wanted, tolerance: float) -> None:
    """Gradients of every parameter, each over its own largest number (or a part of the largest of
    all, for those that cancel)."""
    largest = max((g.abs().max().item() for g in wanted.values() if g is not None), default=0.0)
    for name, gradient in wanted.items():
        if gradient is None:
            assert got[name] is None or not got[name].any(), name
            continue
        assert got[name] is not None, name
        scale = max(gradient.abs().max().item(), 5e-3 * largest, 1e-30)
        assert (got[name].double() - gradient).abs().max().item() / scale < tolerance, name


def masks_of(draw, inputs) -> dict[str, torch.Tensor] | None:
    if draw(st.booleans()):
        return None
    batch = len(next(iter(inputs.values())))
    flags = st.lists(st.booleans(), min_size=batch, max_size=batch)
    chosen = draw(st.sets(st.sampled_from(list(inputs))))
    return {name: torch.tensor(draw(flags)) for name in chosen}


@pytest.mark.usefixtures("always_factored", "small_tiles")
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@settings(max_examples=25, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(st.data(), configs(), st.integers(0, 99), st.integers(1, 3), st.booleans())
def test_any_model_any_inputs(dtype, data, config, seed, batch, again):
    module = weights(config, seed).to(dtype)
    exact = copy.deepcopy(module).double()
    inputs = inputs_of(config, batch, seed)
    names = data.draw(st.sets(st.sampled_from(list(inputs)), min_size=1))
    inputs = {name: inputs[name].to(dtype) for name in sorted(names)}
    masked = masks_of(data.draw, inputs)
    points = data.draw(st.sampled_from([None, points_of(data.draw, config)]))
    doubled = {name: values.double() for name, values in inputs.items()}
    wanted = exact.decode(exact.encode(doubled, masked), points)
    got = fast.forward(module, inputs, masked, points, again=again)
    assert list(got) == list(wanted)
    limit = EXACT if dtype == torch.float64 else 2e-4
    for name, values in wanted.items():
        assert got[name].dtype == dtype
        assert difference(got[name], values) < limit, name
    check(
        gradients(module, got),
        gradients(exact, wanted),
        EXACT if dtype == torch.float64 else ROUNDED,
    )


@pytest.mark.usefixtures("small_tiles")
@pytest.mark.parametrize("grid", [(), (5,), (2, 3), (2, 2, 3)])
@pytest.mark.parametrize("batch", [0, 2])
def test_gradients_of_what_is_gathered(grid, batch):
    generator = torch.Generator().manual_seed(0)

    def random(*shape):
        x = torch.randn(shape, generator=generator, dtype=torch.float64)
        return x.requires_grad_()

    tokens = torch.Size(grid).numel()
    std = random(batch, tokens, 1).detach().exp().requires_grad_()
    tables = [random(n, 4) for n in grid or (1,)]

    def gathered(content, std, queries, *tables):
        lse, contents, along = gather(content, std, queries, tables, grid)
        return lse, contents, *along

    arguments = (random(batch, tokens, 3), std, random(4, 3), *tables)
    assert torch.autograd.gradcheck(gathered, arguments)


@pytest.mark.parametrize("threads", [1, 3])
def test_scores_far_apart_neither_overflow_nor_vanish(monkeypatch, threads):
    """Scores that rise by hundreds from tile to tile, and fall again."""
    monkeypatch.setattr(scores_file, "TILE", 8)
    monkeypatch.setattr(scores_file, "PIECE", 4)
    height = torch.tensor([-300.0, 0.0, 500.0, 490.0, -1000.0, 100.0, 3.0, 499.0])
    content = height.repeat_interleave(3)[None, :, None].requires_grad_()
    queries = torch.tensor([[1.0], [-1.0]], requires_grad=True)
    std, table = torch.ones(1, 24, 1), torch.zeros(24, 2)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        lse, contents, _ = gather(content, std, queries, [table], (24,))
        (lse.sum() + contents.sum()).backward()
    finally:
        torch.set_num_threads(before)
    scores = (content.detach() @ queries.detach().T)[0]
    assert torch.allclose(lse[0], scores.logsumexp(0), rtol=1e-6)
    wanted = (scores.softmax(0) * content.detach()[0]).sum(0)
    assert torch.allclose(contents[0, 0], wanted, rtol=1e-4)  # 500 rounded in float32
    assert content.grad is not None
    assert content.grad.isfinite().all()


def test_gradients_of_attention_head_by_head():
    generator = torch.Generator().manual_seed(0)
    shapes = (2, 3, 5, 2), (2, 3, 4, 2), (2, 3, 4, 6)
    qkv = [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]
    qkv = [x.requires_grad_() for x in qkv]
    assert torch.autograd.gradcheck(fast_layers._ByHead.apply, qkv)


def test_gradients_of_linear_maps():
    generator = torch.Generator().manual_seed(0)
    shapes = (2, 33, 70), (51, 70), (51,), (2, 33, 51)
    x, weight, bias, given = (torch.randn(shape, generator=generator) for shape in shapes)
    wide = torch.randn(51, 90, generator=generator)
    for of in (weight, wide[:, 10:80], wide.T.contiguous().T[:, :70]):
        for gelu in (None, "none", "tanh"):
            found = []
            for dtype in (torch.float32, torch.float64):
                leaves = [t.detach().to(dtype).requires_grad_() for t in (x, of, bias)]
                y = linear(*leaves, gelu)
                found.append((y, *torch.autograd.grad(y, leaves, given.to(dtype))))
            for ours, exact in zip(*found, strict=True):
                assert difference(ours, exact) < 1e-5


@pytest.mark.usefixtures("always_factored")
def test_every_parameter_has_a_gradient_even_where_all_is_masked():
    """Or distributed training would wait for those without."""
    module = weights(tiny(), 0)
    inputs = inputs_of(module.config, 2, 0)
    for flag in (True, False):
        masked = {name: torch.tensor([flag, flag]) for name in inputs}
        found = gradients(module, fast.forward(module, inputs, masked))
        assert all(gradient is not None for gradient in found.values())
        wanted = gradients(module, module.decode(module.encode(inputs, masked)))
        check(found, {k: None if g is None else g.double() for k, g in wanted.items()}, ROUNDED)


@pytest.mark.usefixtures("always_factored")
@pytest.mark.parametrize("whole", [True, False], ids=["weights", "autocast"])
def test_bfloat16(whole):
    """All weights, or only what autocast rounds. The oracle computes with what is stored."""
    module = weights(tiny(process=Attend(heads=2)), 1)
    module = module.bfloat16() if whole else module
    exact = copy.deepcopy(module).double()
    inputs = inputs_of(module.config, 3, 1)
    if whole:
        inputs = {name: values.bfloat16() for name, values in inputs.items()}
    wanted = exact({name: values.double() for name, values in inputs.items()})
    with torch.autocast("cpu", torch.bfloat16, enabled=not whole):
        got = fast.forward(module, inputs)
    for name, values in wanted.items():
        assert got[name].dtype == torch.bfloat16
        assert difference(got[name], values) < 0.1
    found, expected = gradients(module, got), gradients(exact, wanted)
    for name, gradient in expected.items():
        if gradient is not None and "key.bias" not in name:
            assert found[name].dtype == module.get_parameter(name).dtype
            angle = torch.cosine_similarity(found[name].double().flatten(), gradient.flatten(), 0)
            assert angle > 0.97, name


@pytest.mark.usefixtures("always_factored")
def test_without_gradients():
    module = weights(tiny(), 0)
    inputs = inputs_of(module.config, 2, 0)
    with torch.inference_mode():
        outputs = fast.forward(module, inputs)
        for name, values in module(inputs).items():
            assert difference(outputs[name], values) < 2e-4


def test_plainly_where_that_is_less_work():
    config = tiny(encode=Attend(heads=1, qk_channels=1, v_channels=1), latents=1)
    module = weights(config, 0).double()
    inputs = {name: values.double() for name, values in inputs_of(config, 2, 0).items()}
    for pays in (lambda _: False, lambda _: True):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(fast, "encode_pays", pays)
            found = gradients(module, fast.forward(module, inputs))
        check(found, gradients(module, module(inputs)), EXACT)


def test_no_array_of_all_tokens_and_channels_is_kept():
    config = preset("base-352x")
    module = weights(config, 0)
    inputs = inputs_of(config, 1, 0)
    kept: dict[int, int] = {}

    def keep(x):
        storage = x.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return x

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        latents = fast.encode(module, inputs)
    assert latents.requires_grad
    array = 4 * config.tokens * config.input_channels
    assert max(kept.values()) < array / 10
    held = sum(4 * p.numel() for p in module.encoder.parameters())
    assert sum(kept.values()) - held < array / 2


def test_the_published_size():
    """All of `base`: every gradient, with 512 pixels, 512 pieces of sound and the label."""
    module = weights(preset("base"), 0)
    inputs = inputs_of(module.config, 1, 0)
    generator = torch.Generator().manual_seed(0)
    points = {
        "image": torch.randint(16 * 224 * 224, (512,), generator=generator),
        "audio": torch.randint(1920, (512,), generator=generator),
        "label": None,
    }
    wanted = module.decode(module.encode(inputs), points)
    got = fast.forward(module, inputs, None, points)
    for name, values in wanted.items():
        assert difference(got[name], values) < 2e-4, name
    expected = {k: None if g is None else g.double() for k, g in gradients(module, wanted).items()}
    check(gradients(module, got), expected, PUBLISHED)
