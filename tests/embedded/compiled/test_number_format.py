"""Every stored number is widened to itself, on every kind of processor."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from nvlm_trt.embedded.compiled.number_format import Bfloat16, Float8, Float16
from nvlm_trt.embedded.compiled.vector_writer import FLOAT, VectorWriter
from nvlm_trt.machine_code import MachineCode, host_features
from tests.embedded.compiled.runners import PROCESSORS

FORMATS = {
    "float8": (Float8(), np.uint8, ml_dtypes.float8_e4m3fn),
    "float16": (Float16(), np.uint16, np.float16),
    "bfloat16": (Bfloat16(), np.uint16, ml_dtypes.bfloat16),
}


@pytest.mark.parametrize("processor", PROCESSORS)
def test_widening_is_exact(processor):
    features = {key: has and not key.startswith(PROCESSORS[processor]) for key, has in host_features().items()}
    w = VectorWriter(features)
    for name, (of, _, _) in FORMATS.items():
        with w.function(name, "aia") as (stored, vectors, widened), w.loop(vectors) as at:
            values = of.widen(w, w.at(stored, (at.index, w.columns * of.num_bytes)))
            for half, vector in enumerate(values):
                w.store(vector, w.at(widened, (at.index, w.columns * FLOAT), half * w.lanes * FLOAT))
    code = MachineCode(w.module, features)
    for name, (of, raw, dtype) in FORMATS.items():
        stored = np.arange(256**of.num_bytes).astype(raw)
        widened = np.empty(len(stored), np.float32)
        code.function(name, "aia")(stored.ctypes.data, len(stored) // w.columns, widened.ctypes.data)
        expected = stored.view(dtype).astype(np.float32)
        numbers = np.isfinite(expected)
        assert numbers.mean() > 0.95
        assert np.array_equal(widened[numbers] * np.float32(of.factor), expected[numbers])
        assert np.array_equal(np.signbit(widened[numbers]), np.signbit(expected[numbers]))
