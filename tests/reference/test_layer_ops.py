"""Torch's arithmetic, on its CPU device, against numpy's. A CUDA device runs the same code; no test runs it there."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from numpy.typing import NDArray

from nvlm_trt.decoder.layer_ops import AttentionError
from nvlm_trt.decoder.numpy_ops import NumpyOps
from nvlm_trt.model.config import DecoderConfig
from nvlm_trt.reference.layer_ops import TorchOps

CONFIG = DecoderConfig(64, 128, 2, 4, 2, 16, 1e-6, 1e6, 1024, 256)
LENGTHS = [290, 1, 9]


@pytest.fixture
def both() -> Iterator[tuple[NumpyOps, TorchOps]]:
    with NumpyOps(1) as ours, TorchOps("cpu") as theirs:
        yield ours, theirs


def normals(*shape: int, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def agree(both: tuple[Any, Any], verb: str, *arguments: Any, rel: float = 1e-5, abs: float = 1e-5) -> None:
    """The verb on both, arrays put where they belong."""
    results = []
    for ops in both:
        placed = [ops.put(value.copy()) if isinstance(value, np.ndarray) else value for value in arguments]
        result = getattr(ops, verb)(*placed)
        results.append(ops.get(result) if hasattr(result, "shape") and verb != "histogram" else result)
    assert results[1] == pytest.approx(results[0], rel=rel, abs=abs)


@pytest.mark.parametrize("dtype", [ml_dtypes.bfloat16, np.float16, np.float32])
def test_linears_agree(both: tuple[NumpyOps, TorchOps], dtype: Any) -> None:
    x, weight, bias = normals(30, 64), normals(100, 64, seed=1).astype(dtype), normals(100, seed=2).astype(dtype)
    agree(both, "linear", x, weight, bias)
    agree(both, "linear", x, weight, None, np.float32(0.013))
    agree(both, "rms_norm", x, weight[0], 1e-6)
    agree(both, "amax", weight, rel=0, abs=0)


def test_the_rest_agrees(both: tuple[NumpyOps, TorchOps]) -> None:
    q, k, v = normals(300, 4, 16), normals(300, 2, 16, seed=1), normals(300, 2, 16, seed=2)
    agree(both, "rotate", q, LENGTHS, CONFIG, abs=1e-4)
    agree(both, "attend", q, k, v, LENGTHS)
    agree(both, "silu_product", 100 * normals(30, 64), normals(30, 64, seed=3))
    agree(both, "energy", q)
    agree(both, "histogram", q, rel=0, abs=0)
    agree(both, "fake_fp8", 100 * q, np.float32(0.7), rel=0, abs=0)


def test_attention_errors_agree(both: tuple[NumpyOps, TorchOps]) -> None:
    q, k, v = normals(300, 4, 16), normals(300, 2, 16, seed=1), normals(300, 2, 16, seed=2)
    others = k + normals(300, 2, 16, seed=4) / 8, v + normals(300, 2, 16, seed=5) / 8
    ours, theirs = (_attention_error(ops, [q, k, v, *others]) for ops in both)
    assert theirs.num_logits == ours.num_logits
    for name in ("logits", "output", "output_energy"):
        assert getattr(theirs, name) == pytest.approx(getattr(ours, name), rel=1e-4)


def _attention_error(ops: Any, arrays: list[NDArray[np.float32]]) -> AttentionError:
    found: AttentionError = ops.attention_error(*map(ops.put, arrays), LENGTHS)
    return found


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_no_amax_hides_what_is_not_finite(both: tuple[NumpyOps, TorchOps], bad: float) -> None:
    values = np.array([1, bad, 2], np.float32)
    assert not any(np.isfinite(ops.amax(ops.put(values))) for ops in both)
