from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from nvlm_trt.errors import CheckpointError
from nvlm_trt.model.config import VisionConfig
from nvlm_trt.vision.dummy_heads import strip_dummy_heads

CONFIG = VisionConfig(
    image_size=28,
    patch_size=14,
    hidden_size=6,
    intermediate_size=8,
    num_layers=1,
    num_heads=3,
    num_dummy_heads=2,
    norm_eps=1e-6,
    projector_hidden_size=8,
    projector_norm_eps=1e-5,
    output_size=4,
)
REAL, PADDED = CONFIG.hidden_size, CONFIG.padded_width
LAYER = "vision_model.encoder.layers.0"


def padded(name: str) -> tuple[NDArray[Any], NDArray[Any]]:
    """A padded tensor and the part of it that is real."""
    values = np.arange(1, 1 + 3 * REAL * REAL, dtype=np.float32)
    if name == "qkv":
        real = values.reshape(3, REAL, REAL)
        return np.pad(real, [(0, 0), (0, PADDED - REAL), (0, 0)]).reshape(3 * PADDED, REAL), real.reshape(-1, REAL)
    if name == "proj":
        real = values[: REAL * REAL].reshape(REAL, REAL)
        return np.pad(real, [(0, 0), (0, PADDED - REAL)]), real
    return np.pad(values[:REAL], (0, PADDED - REAL)), values[:REAL]


@pytest.mark.parametrize("name", ["qkv", "q_norm", "k_norm", "proj"])
def test_the_real_heads_stay(name: str):
    array, real = padded(name)
    np.testing.assert_array_equal(strip_dummy_heads(f"{LAYER}.attn.{name}.weight", array, CONFIG), real)


@pytest.mark.parametrize("name", ["qkv", "q_norm", "k_norm", "proj"])
@pytest.mark.parametrize("value", [1e-30, float("nan")])
def test_a_dummy_head_that_is_not_zero_is_refused(name: str, value: float):
    array, _ = padded(name)
    array[array == 0] = [0] * (int((array == 0).sum()) - 1) + [value]
    with pytest.raises(CheckpointError, match="E-CKPT-DUMMY"):
        strip_dummy_heads(f"{LAYER}.attn.{name}.weight", array, CONFIG)


def test_other_tensors_and_unpadded_models_pass_through():
    array, _ = padded("qkv")
    assert strip_dummy_heads(f"{LAYER}.mlp.fc1.weight", array, CONFIG) is array
    bare = dataclasses.replace(CONFIG, num_dummy_heads=0)
    assert strip_dummy_heads(f"{LAYER}.attn.qkv.weight", array, bare) is array
