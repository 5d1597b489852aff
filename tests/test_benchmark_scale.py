"""The counts that docs/scale.md rests on, against torch's own counter; and its arithmetic."""

import pytest

from benchmarks import flop, plan, roofline, training
from perceivio.config import preset
from perceivio.training.settings import read_settings


@pytest.fixture(scope="module")
def step():
    return roofline.of_step(preset("small"), read_settings("small"), [plan.CARD])


def test_flop_by_formula_are_those_that_torch_counts(step):
    config = preset("small")
    points = training.some_points(config)
    asked = {name: 1 if chosen is None else len(chosen) for name, chosen in points.items()}
    factored, plain = (sum(flop.training(config, asked, form).values()) for form in (False, True))
    assert step.flop[1] == pytest.approx(factored, rel=0.01)
    assert roofline.of_plain_module(config, points) == pytest.approx(plain, rel=0.01)


def test_a_run_on_many_gpus_adds_up(step):
    inputs = plan.Inputs()
    for row in plan.rows(inputs, step, 80_000_000, 50.0):
        slowest = max(row.kernels, row.launches, row.reading)
        assert row.step == pytest.approx(slowest + row.all_reduce)
        assert row.gpu_hours == pytest.approx(inputs.steps * row.step / 3600 * row.gpus)
        assert row.clips_a_second * row.step == pytest.approx(inputs.batch)
        assert 0 < row.utilisation < row.share
