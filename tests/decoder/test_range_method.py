"""How a range is chosen from amax and histogram."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nvlm_trt.decoder import fp8
from nvlm_trt.decoder.numpy_ops import NumpyOps, fake_e4m3
from nvlm_trt.decoder.range_method import RangeMethod

magnitudes = st.lists(st.floats(0, 2.0**40, width=32), min_size=1, max_size=200)


def choose(method: str, values: np.ndarray) -> float:  # type: ignore[type-arg]
    ops = NumpyOps(1)
    return RangeMethod.parse(method).choose(ops.amax(values), ops.histogram(values))


def squared_error(values: np.ndarray, limit: float) -> float:  # type: ignore[type-arg]
    restored = fake_e4m3(values, fp8.scale_for(np.float32(limit)))
    return float(np.square((restored - values).astype(np.float64)).sum())


@given(values=magnitudes, percentile=st.floats(50, 100))
@settings(deadline=None, max_examples=200)
def test_a_percentile_has_its_share_inside_and_is_no_more_than_a_codes_width_too_large(
    values: list[float], percentile: float
) -> None:
    array = np.array(values, np.float32)
    limit = choose(f"percentile:{percentile!r}", array)
    assert 0 <= limit <= array.max()
    assert (array <= limit).mean() >= percentile / 100 - 1e-9
    exact = np.sort(array)[max(0, int(np.ceil(percentile / 100 * len(array))) - 1)]
    assert exact <= limit <= max(float(exact) * (1 + 2.0**-7), 2.0**-133)


@given(values=magnitudes)
@settings(deadline=None, max_examples=100)
def test_amax_is_the_largest(values: list[float]) -> None:
    array = np.array(values, np.float32)
    assert choose("amax", array) == array.max() == choose("percentile:100", array)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("shape", ["normal", "uniform", "laplace", "standard_cauchy", "lognormal"])
def test_the_error_method_has_no_more_error_than_amax(shape: str, seed: int) -> None:
    values = getattr(np.random.default_rng(seed), shape)(size=20_000).astype(np.float32)
    # A thousandth for what a code's middle does not know of its values.
    assert squared_error(values, choose("mse", values)) <= 1.001 * squared_error(values, np.abs(values).max())


def test_without_a_gain_nothing_is_clipped() -> None:
    powers = np.array([448.0, 224, 112, 56, 1], np.float32)  # all representable as they are
    assert choose("mse", powers) == 448


@given(values=magnitudes)
@settings(deadline=None, max_examples=100)
def test_the_error_method_stays_within_its_candidates(values: list[float]) -> None:
    array = np.array(values, np.float32)
    assert array.max() / 8.0001 <= choose("mse", array) <= array.max()


@pytest.mark.parametrize("method", ["amax", "percentile", "mse"])
def test_zeros_have_no_range(method: str) -> None:
    assert choose(method, np.zeros(5, np.float32)) == 0


@given(percentile=st.floats(50, 100))
def test_a_methods_text_is_read_back_as_it_was(percentile: float) -> None:
    for method in (RangeMethod(), RangeMethod("mse"), RangeMethod("percentile", percentile)):
        assert RangeMethod.parse(str(method)) == method
    assert RangeMethod.parse("percentile") == RangeMethod("percentile", 99.99)
