"""What the scan of key biases finds, and where it draws the line."""

from __future__ import annotations

from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from nvlm_trt.checkpoint.registry import open_checkpoint
from nvlm_trt.decoder.key_biases import NOISE_LIMIT, RANGE_SHARE_LIMIT, e4m3_step, scan_key_biases
from nvlm_trt.decoder.layer import layer_tensor
from tests.decoder.planted import plant_biases


def test_a_plain_checkpoint_passes(small_checkpoint: Path) -> None:
    report = scan_key_biases(open_checkpoint(small_checkpoint))
    assert report.passed
    assert report.reasons == ()
    assert len(report.layers) == 4
    for layer in report.layers:
        # Rows of deviation 1/sqrt(hidden) behind a norm of weight one: keys of deviation one.
        assert layer.spread == pytest.approx(1, rel=0.05)
        assert layer.k_bias < 0.3
        assert layer.noise < NOISE_LIMIT / 2


def test_the_magnitude_is_that_of_the_pair_that_rotation_turns(small_checkpoint: Path, tmp_path: Path) -> None:
    # Head size 64: channels 3 and 35 of the second head are one pair.
    checkpoint = plant_biases(small_checkpoint, tmp_path / "planted", 2, {64 + 3: 120.0, 64 + 35: -160.0})
    layer = scan_key_biases(checkpoint).layers[2]
    assert layer.k_bias == pytest.approx(200)
    assert layer.range_share == pytest.approx(200 / 448)
    assert layer.step == 16


@pytest.mark.parametrize("bias", [450.0, 1000.0, -300.0])
def test_biases_like_qwen2s_are_caught_and_their_layer_named(
    small_checkpoint: Path, tmp_path: Path, bias: float
) -> None:
    report = scan_key_biases(plant_biases(small_checkpoint, tmp_path / "planted", 1, {5: bias}))
    assert not report.passed
    assert any("range" in reason and "layer 1 has" in reason for reason in report.reasons)
    assert any("in layer 1 rounding" in reason for reason in report.reasons)
    assert all("in 1 layer" in reason for reason in report.reasons)


def test_a_bias_well_inside_the_range_is_caught_by_what_it_leaves_of_the_signal(
    small_checkpoint: Path, tmp_path: Path
) -> None:
    report = scan_key_biases(plant_biases(small_checkpoint, tmp_path / "planted", 0, {5: 90.0}))
    [reason] = report.reasons
    assert "too few steps" in reason
    assert report.layers[0].range_share < RANGE_SHARE_LIMIT


def test_a_value_bias_out_of_range_is_caught(small_checkpoint: Path, tmp_path: Path) -> None:
    checkpoint = plant_biases(small_checkpoint, tmp_path / "planted", 3, {0: -400.0}, field="v_bias")
    report = scan_key_biases(checkpoint)
    assert report.layers[3].v_bias == 400
    [reason] = report.reasons
    assert "layer 3 has 89%" in reason


def test_the_spread_is_that_of_real_keys(small_checkpoint: Path) -> None:
    checkpoint = open_checkpoint(small_checkpoint)
    x = np.random.default_rng(0).normal(size=(2000, 256))
    x /= np.sqrt(np.square(x).mean(axis=1, keepdims=True))
    x *= checkpoint.read(layer_tensor(0, "input_norm")).astype(np.float64)
    keys = x @ checkpoint.read(layer_tensor(0, "k")).astype(np.float64).T
    found = scan_key_biases(checkpoint).layers[0].spread
    deviations = np.sqrt(np.square(keys).mean(axis=0)).reshape(-1, 2, 32)
    pairs = np.sqrt(np.square(deviations).mean(axis=1))
    assert pairs.min() * 0.95 <= found <= pairs.max() * 1.05


def test_a_step_is_the_distance_between_neighbours() -> None:
    numbers = np.arange(127, dtype=np.uint8).view(ml_dtypes.float8_e4m3fn).astype(np.float64)
    assert np.array_equal(e4m3_step(numbers[:-1]), np.diff(numbers))


def test_progress_counts_layers(small_checkpoint: Path) -> None:
    calls: list[tuple[int, int]] = []
    scan_key_biases(open_checkpoint(small_checkpoint), lambda done, total: calls.append((done, total)))
    assert calls == [(1, 4), (2, 4), (3, 4), (4, 4)]
