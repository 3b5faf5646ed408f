from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
from numpy.typing import NDArray

from nvlm_trt.decoder.model_dtype import cast_to_model

EVERY_BFLOAT16 = np.arange(1 << 16, dtype=np.uint16).view(ml_dtypes.bfloat16)
FINITE = EVERY_BFLOAT16[np.isfinite(EVERY_BFLOAT16.astype(np.float32))]


def cast(values: NDArray[Any], dtype: Any) -> tuple[NDArray[Any], bool]:
    out = np.empty(values.shape, dtype)
    return out, cast_to_model(values, out)


def test_every_finite_bfloat16_stored_wide_comes_back_unchanged() -> None:
    out, exact = cast(FINITE.astype(np.float32).reshape(-1, 2), ml_dtypes.bfloat16)
    assert out.tobytes() == FINITE.tobytes()
    assert exact


@pytest.mark.parametrize("position", [0, 70_000, 199_999])
def test_one_value_that_is_rounded_is_noticed_wherever_it_is(position: int) -> None:
    values = np.ones(200_000, np.float32)
    values[position] += np.float32(2**-10)
    out, exact = cast(values, ml_dtypes.bfloat16)
    assert not exact
    assert np.array_equal(out, values.astype(ml_dtypes.bfloat16))


def test_rounding_is_to_nearest_with_ties_to_even() -> None:
    values = np.array([1 + 2**-8, 1 + 3 * 2**-8, 1 + 2**-8 + 2**-20], np.float32)
    assert cast(values, ml_dtypes.bfloat16)[0].astype(np.float32).tolist() == [1, 1 + 2**-6, 1 + 2**-7]


@pytest.mark.parametrize(("value", "exact"), [(0.5, True), (1e-30, False), (1e30, False)])
def test_float16_cannot_hold_what_bfloat16_can(value: float, exact: bool) -> None:
    assert cast(np.array([value], ml_dtypes.bfloat16), np.float16)[1] == exact
