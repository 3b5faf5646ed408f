"""Functions of vectors against numpy."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from nvlm_trt.embedded.compiled.vector_writer import FLOAT, VectorWriter
from nvlm_trt.machine_code import MachineCode, host_features
from tests.embedded.numbers import hard_values


@pytest.fixture(scope="module")
def applied():
    """A function of the writer over an array, whose length is a multiple of 16."""
    w = VectorWriter(host_features())
    for name in ("exp", "e4m3"):
        with w.function(name, "aia") as (values, vectors, results), w.loop(vectors) as at:
            place = (at.index, w.lanes * FLOAT)
            w.store(getattr(w, name)(w.load_floats(w.at(values, place))), w.at(results, place))
    code = MachineCode(w.module)

    def apply(name, values):
        results = np.empty_like(values)
        code.function(name, "aia")(values.ctypes.data, len(values) // w.lanes, results.ctypes.data)
        return results

    return apply


def test_exp_is_within_two_units_of_the_last_place(applied):
    values = np.linspace(-87, 88, 1 << 20, dtype=np.float32)
    expected = np.exp(values.astype(np.float64))
    assert (np.abs(applied("exp", values) - expected) / np.spacing(expected.astype(np.float32))).max() < 2
    assert applied("exp", np.zeros(16, np.float32))[0] == 1


def test_exp_is_cut_where_float32_ends(applied):
    values = np.array([-np.inf, -1e30, -88, 89, 1e30, np.inf, np.nan, 0] * 2, np.float32)
    results = applied("exp", values)[:8]
    assert (results[:3] < 1.7e-38).all()
    assert np.isfinite(results).all()


def test_rounding_is_that_of_e4m3_casts_to_the_last_bit(applied):
    values = hard_values()
    values = values[: len(values) // 16 * 16]
    expected = np.clip(values, -448, 448).astype(ml_dtypes.float8_e4m3fn).astype(np.float32)
    assert np.array_equal(applied("e4m3", values), expected)
