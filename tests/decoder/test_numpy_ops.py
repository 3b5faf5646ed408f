"""The CPU's arithmetic against plain statements of the same thing."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import threadpoolctl
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from nvlm_trt.decoder import fp8
from nvlm_trt.decoder.layer_ops import AttentionError
from nvlm_trt.decoder.numpy_ops import NumpyOps, fake_e4m3

Floats = NDArray[np.float32]

finite = st.floats(width=32, allow_nan=False, allow_infinity=False)


@pytest.fixture
def ops() -> Iterator[NumpyOps]:
    with NumpyOps(2) as opened:
        yield opened


def normals(*shape: int, seed: int = 0) -> Floats:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize("scale", [1.0, 0.0123, 77.0, 2.0**-20])
def test_rounding_to_fp8_in_float32_is_the_writers_rounding_for_every_bfloat16(scale: float) -> None:
    every = np.arange(1 << 16, dtype=np.uint16).view(ml_dtypes.bfloat16).astype(np.float32)
    values = every[np.isfinite(every)]
    expected = fp8.restore(fp8.quantize(values, np.float32(scale)), np.float32(scale))
    assert np.array_equal(fake_e4m3(values, np.float32(scale)), expected)


@given(value=finite, scale=st.floats(2.0**-60, 2.0**60, width=32))
@settings(max_examples=300, deadline=None)
def test_rounding_to_fp8_is_the_writers_rounding_for_any_float(value: float, scale: float) -> None:
    values = np.array([value, -value], np.float32)
    expected = fp8.restore(fp8.quantize(values, np.float32(scale)), np.float32(scale))
    assert np.array_equal(fake_e4m3(values, np.float32(scale)), expected)


def test_ties_go_to_even_and_subnormals_are_kept() -> None:
    values = np.array([17, 19, 2.0**-10, 3 * 2.0**-10, 1e6, -500], np.float32)
    assert fake_e4m3(values, np.float32(1)).tolist() == [16, 20, 0, 2.0**-8, 448, -448]


def test_blas_is_held_to_one_thread_inside_and_let_go_outside() -> None:
    def threads() -> list[int]:
        return [lib["num_threads"] for lib in threadpoolctl.threadpool_info() if lib["user_api"] == "blas"]

    before = threads()
    with NumpyOps():
        assert set(threads()) <= {1}
    assert threads() == before


@pytest.mark.parametrize("dtype", [ml_dtypes.bfloat16, np.float16, np.float32])
def test_a_linear_widens_its_weight_and_adds_its_bias(ops: NumpyOps, dtype: Any) -> None:
    x, weight, bias = normals(5, 64), normals(3000, 64, seed=1).astype(dtype), normals(3000, seed=2).astype(dtype)
    expected = x.astype(np.float64) @ weight.astype(np.float64).T + bias.astype(np.float64)
    assert ops.linear(x, weight, bias) == pytest.approx(expected, rel=1e-4, abs=1e-5)


def test_a_rounded_linear_multiplies_with_restored_weights(ops: NumpyOps) -> None:
    x, weight = normals(5, 64), normals(70, 64, seed=1).astype(ml_dtypes.bfloat16)
    scale = fp8.scale_for(fp8.amax(weight))
    restored = fp8.restore(fp8.quantize(weight, scale), scale)
    assert ops.linear(x, weight, weight_scale=scale) == pytest.approx(x @ restored.T, rel=1e-4, abs=1e-5)


def test_a_histogram_counts_every_magnitude_once_whatever_its_sign(ops: NumpyOps) -> None:
    values = np.array([[0, -0.0, 1, -1], [1.007, 1.008, 3, 2.0**-140]], np.float32)
    counts = ops.histogram(values)
    codes = {int(np.float32(x).view(np.uint32) >> 16) for x in (0, 1, 1.008, 3, 2.0**-140)}
    assert set(np.flatnonzero(counts)) == codes
    assert counts.sum() == values.size
    assert counts[int(np.float32(1).view(np.uint32) >> 16)] == 3


@given(parts=st.lists(st.lists(finite, min_size=1, max_size=5), min_size=1, max_size=5))
@settings(deadline=None, max_examples=50)
def test_histograms_of_parts_add_up_in_any_order(parts: list[list[float]]) -> None:
    ops = NumpyOps(1)
    whole = ops.histogram(np.concatenate([np.array(part, np.float32) for part in parts]))
    added = sum(ops.histogram(np.array(part, np.float32)) for part in reversed(parts))
    assert np.array_equal(whole, added)


def test_an_energy_is_the_sum_of_squares_of_a_view_too(ops: NumpyOps) -> None:
    values = normals(300, 1000)
    assert ops.energy(values.T) == pytest.approx(float(np.square(values.astype(np.float64)).sum()), rel=1e-12)


def test_attention_looks_back_within_its_sequence_only(ops: NumpyOps) -> None:
    q, k, v = normals(7, 4, 8), normals(7, 2, 8, seed=1), normals(7, 2, 8, seed=2)
    together = ops.attend(q, k, v, [3, 4])
    for start, end in ((0, 3), (3, 7)):
        for token in range(start, end):
            for head in range(4):
                scores = k[start : token + 1, head // 2] @ q[token, head] / math.sqrt(8)
                weights = np.exp(scores) / np.exp(scores).sum()
                assert together[token, head] == pytest.approx(weights @ v[start : token + 1, head // 2], abs=1e-5)


def test_the_same_keys_and_values_make_no_error(ops: NumpyOps) -> None:
    q, k, v = normals(300, 4, 8), normals(300, 2, 8, seed=1), normals(300, 2, 8, seed=2)
    found = ops.attention_error(q, k, v, k.copy(), v.copy(), [290, 10])
    assert (found.logits, found.output) == (0, 0)
    assert found.num_logits == 4 * (290 * 291 // 2 + 10 * 11 // 2)
    assert found.output_energy == pytest.approx(ops.energy(ops.attend(q, k, v, [290, 10])), rel=1e-6)


def test_what_shifts_all_of_a_querys_logits_is_no_error(ops: NumpyOps) -> None:
    q, k, v = normals(6, 2, 8), normals(6, 2, 8, seed=1), normals(6, 2, 8, seed=2)
    shifted = ops.attention_error(q, k, v, k + np.float32(0.5), v, [6])
    assert shifted.logits == pytest.approx(0, abs=1e-9)
    other = ops.attention_error(q, k, v, k + normals(6, 2, 8, seed=3), v, [6])
    assert other.logits > 1
    assert other.output > 0.1


def test_errors_of_parts_add_up() -> None:
    assert AttentionError(1, 2, 3, 4) + AttentionError(10, 20, 30, 40) == AttentionError(11, 22, 33, 44)
