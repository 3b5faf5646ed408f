"""The gate before an FP8 cache: planted biases do not get through, plain checkpoints do."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from nvlm_trt.checkpoint.base import Checkpoint
from nvlm_trt.checkpoint.registry import open_checkpoint
from nvlm_trt.decoder.calibration import calibrate
from nvlm_trt.decoder.key_biases import BiasReport, LayerBias, scan_key_biases
from nvlm_trt.decoder.kv_gate import (
    LOGIT_ERROR_LIMIT,
    OUTPUT_ERROR_LIMIT,
    KvLayer,
    KvReport,
    check_kv_cache,
    require_kv_cache,
)
from nvlm_trt.decoder.layer import DecoderLayer, LayerWeights
from nvlm_trt.decoder.numpy_ops import NumpyOps
from nvlm_trt.errors import ArtefactError, UsageError
from tests.decoder.killed_calibration import some_samples
from tests.decoder.planted import plant_biases

Floats = NDArray[np.float32]
AnyFloats = NDArray[np.floating[Any]]

figures = st.floats(0, 1e6)
reports = st.builds(
    KvReport,
    biases=st.lists(st.builds(LayerBias, *[figures] * 6), min_size=1, max_size=3).map(tuple).map(BiasReport),
    layers=st.lists(st.builds(KvLayer, *[figures] * 3), min_size=1, max_size=3).map(tuple),
)


def samples_of(checkpoint: Checkpoint) -> list[Floats]:
    return some_samples(checkpoint.config.decoder.hidden_size)


def check(checkpoint: Checkpoint) -> KvReport:
    samples = samples_of(checkpoint)
    return check_kv_cache(checkpoint, samples, calibrate(checkpoint, samples))


def test_a_plain_checkpoint_passes_near_the_error_of_rounding(small_checkpoint: Path) -> None:
    report = check(open_checkpoint(small_checkpoint))
    assert report.passed
    require_kv_cache(report)
    for layer in report.layers:
        assert layer.scale == 1
        assert 0.005 < layer.logit_error < LOGIT_ERROR_LIMIT / 4
        assert 0.01 < layer.output_error < OUTPUT_ERROR_LIMIT / 2


@pytest.mark.parametrize("bias", [450.0, -900.0])
def test_planted_key_biases_are_caught_by_the_scan_and_by_what_attention_does(
    small_checkpoint: Path, tmp_path: Path, bias: float
) -> None:
    checkpoint = plant_biases(small_checkpoint, tmp_path / "planted", 1, {5: bias, 17: bias, 70: bias})
    report = check(checkpoint)
    assert not report.biases.passed
    assert report.layers[1].scale > 1
    assert report.layers[1].logit_error > LOGIT_ERROR_LIMIT
    # Each layer gets exact inputs: the others show no more than on a plain checkpoint.
    assert all(report.layers[number].logit_error < LOGIT_ERROR_LIMIT / 4 for number in (0, 2, 3))
    assert any("attention logits" in reason and "layer 1" in reason for reason in report.reasons)


def test_a_refusal_says_why_and_can_be_overruled(small_checkpoint: Path, tmp_path: Path) -> None:
    checkpoint = plant_biases(small_checkpoint, tmp_path / "planted", 2, {9: 460.0})
    for report in (scan_key_biases(checkpoint), check(checkpoint)):
        with pytest.raises(UsageError) as caught:
            require_kv_cache(report)
        assert caught.value.code == "E-RECIPE-KV-CACHE"
        assert "layer 2" in caught.value.what
        assert "BF16" in caught.value.fix
        require_kv_cache(report, forced=True)


def test_the_measured_errors_are_those_of_attention_with_a_rounded_cache(small_checkpoint: Path) -> None:
    checkpoint = open_checkpoint(small_checkpoint)
    samples = samples_of(checkpoint)[:1]
    report = check_kv_cache(checkpoint, samples, calibrate(checkpoint, samples))
    seen: dict[str, Floats] = {}
    with NumpyOps(1) as ops:
        layer = DecoderLayer(ops, checkpoint.config.decoder, LayerWeights.read(checkpoint, 0, ops.put))
        layer.run(samples[0], [len(samples[0])], lambda name, values: seen.update({name: values}))
    rounded = {name: seen[name].astype(ml_dtypes.float8_e4m3fn).astype(np.float32) for name in ("k_cache", "v_cache")}
    exact, other = (attention(seen["query"], kept["k_cache"], kept["v_cache"]) for kept in (seen, rounded))
    expected = np.sqrt(np.square(other[1] - exact[1]).sum() / np.square(exact[1]).sum())
    assert report.layers[0].output_error == pytest.approx(expected, rel=1e-3)
    visible = np.tri(len(samples[0]), dtype=bool)
    change = np.where(visible, other[0] - exact[0], 0)
    change -= np.where(visible, change.sum(-1, keepdims=True) / visible.sum(-1, keepdims=True), 0)
    expected = np.sqrt(np.square(change).sum() / (visible.sum() * len(change)))
    assert report.layers[0].logit_error == pytest.approx(expected, rel=1e-3)


def attention(q: AnyFloats, k: AnyFloats, v: AnyFloats) -> tuple[AnyFloats, AnyFloats]:
    """Logits [heads, queries, keys] and output [heads, queries, head_dim], stated plainly in float64."""
    group = q.shape[1] // k.shape[1]
    q, k, v = (part.astype(np.float64).transpose(1, 0, 2) for part in (q, k, v))
    k, v = k.repeat(group, axis=0), v.repeat(group, axis=0)
    logits = q @ k.transpose(0, 2, 1) / np.sqrt(q.shape[-1])
    weights = np.where(np.tri(q.shape[1], dtype=bool), np.exp(logits), 0)
    return logits, weights / weights.sum(-1, keepdims=True) @ v


def test_the_check_gives_the_same_with_states_on_disk_and_resumes(small_checkpoint: Path, tmp_path: Path) -> None:
    checkpoint = open_checkpoint(small_checkpoint)
    samples = samples_of(checkpoint)
    calibration = calibrate(checkpoint, samples)

    def stop(done: int, _total: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        check_kv_cache(checkpoint, samples, calibration, scratch=tmp_path, progress=stop)
    done: list[int] = []
    report = check_kv_cache(
        checkpoint, samples, calibration, scratch=tmp_path, progress=lambda number, _: done.append(number)
    )
    assert done == [3, 4]
    assert report == check_kv_cache(checkpoint, samples, calibration)
    assert list(tmp_path.iterdir()) == []


@given(report=reports)
@settings(deadline=None, max_examples=50)
def test_json_is_an_exact_inverse(report: KvReport) -> None:
    assert KvReport.from_json(report.to_json()) == report
    data = json.loads(report.to_json())
    assert data["passed"] == report.passed == (not data["reasons"])


@pytest.mark.parametrize("change", [{"format": 9}, {"layers": 3}, {"biases": {}}, {"layers": [{"scale": 1.0}]}])
def test_a_damaged_report_is_refused(change: dict[str, object]) -> None:
    report = KvReport(BiasReport((LayerBias(*[1.0] * 6),)), (KvLayer(1.0, 0.0, 0.0),))
    for text in (json.dumps({**json.loads(report.to_json()), **change}), "", "[]", report.to_json()[:-5]):
        with pytest.raises(ArtefactError) as caught:
            KvReport.from_json(text)
        assert caught.value.code == "E-ARTEFACT-KV-REPORT"


def test_each_limit_is_judged_by_itself() -> None:
    fine = KvReport(BiasReport((LayerBias(0.1, 0.1, 0.0, 0.03, 0.1, 1.0),)), (KvLayer(1.0, 0.02, 0.02),))
    assert fine.passed
    for layer in (KvLayer(1.0, LOGIT_ERROR_LIMIT * 1.01, 0.02), KvLayer(1.0, 0.02, OUTPUT_ERROR_LIMIT * 1.01)):
        assert len(dataclasses.replace(fine, layers=(layer,)).reasons) == 1
