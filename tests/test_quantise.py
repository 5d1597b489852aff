"""Latents kept in fewer bits: what comes back, how far it is, how many bits it takes."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from perceivio.errors import PerceivioError
from perceivio.quantise import BITS, PRECISIONS, bits_of, error_bound, pack, unpack


@given(
    st.integers(1, 9),
    st.integers(1, 7),
    st.sampled_from(PRECISIONS),
    st.sampled_from([1e-6, 1e-2, 1.0, 300.0]),
    st.sampled_from([0.0, -1.0, 1e3]),
    st.integers(0, 2**31),
)
@settings(deadline=None, max_examples=200)
def test_what_comes_back_is_within_the_bound(n, d, precision, scale, shift, seed):
    latents = torch.randn(n, d, generator=torch.Generator().manual_seed(seed)) * scale + shift
    kept = pack(latents, precision)
    back = unpack(kept, precision, n, d)
    assert back.shape == latents.shape
    assert back.dtype == torch.float32
    assert ((back - latents).abs() <= error_bound(kept, precision)).all()
    in_parts = sum(part.numel() * part.element_size() * 8 for part in kept.values())
    half_a_byte = 4 * (n * d % 2) if precision == "int4" else 0
    assert in_parts == bits_of(precision, n, d) + half_a_byte


def test_int8_and_int4_against_numpy():
    """The ruler written down once more, in NumPy and in float64."""
    latents = torch.randn(168, 320, generator=torch.Generator().manual_seed(1)) * 3
    for precision in ("int8", "int4"):
        kept = pack(latents, precision)
        x = latents.double().numpy()
        steps = 2 ** BITS[precision] - 1
        step = (x.max(0) - x.min(0)) / steps
        wanted = x.min(0) + np.round((x - x.min(0)) / step) * step
        got = unpack(kept, precision, 168, 320).numpy()
        # Another ruler by a thousandth: nearly all codes are the same, none is two steps away.
        assert np.abs(got - x).mean() < 1.02 * np.abs(wanted - x).mean()
        assert np.abs(got - wanted).max() < 1.1 * step.max()


@pytest.mark.parametrize("precision", ["float16", "int8", "int4"])
def test_too_large_or_not_finite_is_refused(precision):
    with pytest.raises(PerceivioError, match="choose float32"):
        pack(torch.full((2, 3), 1e5), precision)
    with pytest.raises(PerceivioError, match="not finite"):
        pack(torch.tensor([[float("nan")]]), precision)


def test_parts_of_other_latents_are_refused():
    kept = pack(torch.randn(4, 6), "int8")
    for n, d, precision in ((4, 6, "int4"), (6, 4, "int8"), (4, 6, "float32")):
        with pytest.raises(PerceivioError, match="these are not"):
            unpack(kept, precision, n, d)
