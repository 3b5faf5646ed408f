"""FP8 arithmetic against torch's own e4m3 casts: bytes must be equal, not close."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from nvlm_trt.decoder import fp8

BF16 = np.dtype(ml_dtypes.bfloat16)
TORCH = {BF16: torch.bfloat16, np.dtype(np.float16): torch.float16, np.dtype(np.float32): torch.float32}

scales = st.floats(min_value=2.0**-40, max_value=2.0**40, width=32).map(np.float32)


def torch_bytes(values: NDArray[Any], scale: np.float32) -> NDArray[Any]:
    """The formula of the reference exporter: widen, divide by the scale, clip, cast."""
    bits = torch.from_numpy(values.view(np.int32 if values.dtype == np.float32 else np.int16).copy())
    wide = bits.view(TORCH[values.dtype]).float()
    cast = (wide / torch.tensor(scale)).clamp(-448, 448).to(torch.float8_e4m3fn)
    stored: NDArray[np.uint8] = cast.view(torch.uint8).numpy()
    return stored


def finite_codes(dtype: np.dtype[Any]) -> NDArray[Any]:
    every = np.arange(1 << 16, dtype=np.uint16).view(dtype)
    finite: NDArray[Any] = every[np.isfinite(every.astype(np.float32))]
    return finite


@pytest.mark.parametrize("dtype", [BF16, np.dtype(np.float16)], ids=["bfloat16", "float16"])
@given(scale=scales)
@settings(max_examples=25, deadline=None)
def test_every_16_bit_value_becomes_the_byte_torch_gives(dtype: np.dtype[Any], scale: np.float32) -> None:
    values = finite_codes(dtype)
    assert np.array_equal(fp8.quantize(values, scale).view(np.uint8), torch_bytes(values, scale))


@given(values=hnp.arrays(np.float32, st.integers(1, 300), elements=st.floats(-1e6, 1e6, width=32)), scale=scales)
@settings(max_examples=100, deadline=None)
def test_float32_values_become_the_bytes_torch_gives(values: NDArray[Any], scale: np.float32) -> None:
    assert np.array_equal(fp8.quantize(values, scale).view(np.uint8), torch_bytes(values, scale))


@given(scale=scales)
@settings(max_examples=10, deadline=None)
def test_bfloat16_values_stored_as_float32_become_the_same_bytes(scale: np.float32) -> None:
    values = finite_codes(BF16)
    assert np.array_equal(
        fp8.quantize(values.astype(np.float32), scale).view(np.uint8), fp8.quantize(values, scale).view(np.uint8)
    )


def test_ties_go_to_the_even_neighbour_and_large_values_saturate() -> None:
    # Neighbours of 16.0 in e4m3 are 18.0 and 20.0; 17.0 and 19.0 are ties.
    values = np.array([17.0, 19.0, -17.0, 448.0, 1e30, -1e30, 2.0**-10, 2.0**-9], np.float32)
    stored = fp8.quantize(values, np.float32(1)).astype(np.float32)
    assert stored.tolist() == [16.0, 20.0, -16.0, 448.0, 448.0, -448.0, 0.0, 2.0**-9]


@given(values=hnp.arrays(np.float32, st.integers(1, 300), elements=st.floats(-1e4, 1e4, width=32)))
@settings(max_examples=100, deadline=None)
def test_restored_values_are_within_half_a_step(values: NDArray[Any]) -> None:
    scale = fp8.scale_for(fp8.amax(values))
    restored = fp8.restore(fp8.quantize(values, scale), scale)
    # Three mantissa bits: half a step is at most 1/16 of the value, or half the smallest subnormal. A little slack for
    # the roundings of the scale and of the two multiplications.
    allowed = np.maximum(np.abs(values) / 16, scale * 2.0**-10) * 1.001
    assert np.all(np.abs(restored - values) <= allowed)


@given(
    values=hnp.arrays(
        np.float32, hnp.array_shapes(max_dims=2, max_side=400), elements=st.floats(-(2.0**99), 2.0**99, width=32)
    )
)
@settings(max_examples=100, deadline=None)
def test_amax_is_the_largest_magnitude(values: NDArray[Any]) -> None:
    assert fp8.amax(values) == np.abs(values).max()


@pytest.mark.parametrize("dtype", [BF16, np.dtype(np.float16), np.dtype(np.float32)])
@pytest.mark.parametrize("poison", [np.nan, np.inf, -np.inf])
def test_amax_of_a_poisoned_tensor_is_not_finite(dtype: np.dtype[Any], poison: float) -> None:
    values = np.ones(100_000, dtype)
    values[77_777] = poison
    assert not np.isfinite(fp8.amax(values))


def test_a_tensor_larger_than_a_block_and_its_strided_slices_quantize_alike() -> None:
    values = np.random.default_rng(1).normal(size=(300, 1000)).astype(BF16)
    whole = fp8.quantize(values, np.float32(0.01))
    assert np.array_equal(whole.view(np.uint8), torch_bytes(values, np.float32(0.01)))
    columns = values[:, 250:500]
    assert np.array_equal(fp8.quantize(columns, np.float32(0.01)).view(np.uint8), whole[:, 250:500].view(np.uint8))
    assert fp8.amax(columns) == np.abs(columns.astype(np.float32)).max()


def test_scale_is_a_float32_division_and_zero_becomes_one() -> None:
    assert fp8.scale_for(np.float32(3)) == np.float32(3) / np.float32(448)
    assert fp8.scale_for(np.float32(3)).dtype == np.float32
    assert fp8.scale_for(np.float32(0)) == 1
    # The smallest float32 divided by 448 is zero, which could not divide.
    assert fp8.scale_for(np.float32(1e-45)) == 1


def test_quotients_are_divided_because_the_reciprocal_would_give_other_bytes() -> None:
    """Weights of 3/64 of an amax of 69 lie on the tie between 20 and 22 by division, beside it by multiplication."""
    amax = np.float32(69)
    values = np.array([69, 3 * 69 / 64], np.float32).astype(BF16)
    scale = fp8.scale_for(amax)
    by_reciprocal = (values.astype(np.float32) * (np.float32(1) / scale)).astype(ml_dtypes.float8_e4m3fn)
    assert fp8.quantize(values, scale).astype(np.float32).tolist() == [448, 20]
    assert by_reciprocal.astype(np.float32).tolist() == [448, 22]
