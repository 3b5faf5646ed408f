"""What FP8 costs per group: against plain arithmetic, and the promise that a chosen set keeps the bound."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from nvlm_trt.checkpoint.base import Checkpoint
from nvlm_trt.decoder import fp8
from nvlm_trt.decoder.calibration import Calibration, calibrate
from nvlm_trt.decoder.layer import DecoderLayer, LayerWeights
from nvlm_trt.decoder.linear_groups import GroupKind, LinearGroup, all_groups, exclude_modules, select_groups
from nvlm_trt.decoder.numpy_ops import NumpyOps
from nvlm_trt.decoder.sensitivity import confirm_exclusion, measure_error, measure_sensitivity
from nvlm_trt.decoder.sensitivity_report import GroupError, SensitivityReport
from nvlm_trt.errors import ArtefactError, UsageError
from tests.decoder.killed_calibration import some_samples

Floats = NDArray[np.float32]

errors = st.floats(0, 10)
reports = st.builds(
    lambda pairs, final: SensitivityReport(
        tuple(GroupError(*where, *pair) for where, pair in zip(_places(len(pairs)), pairs, strict=True)), final
    ),
    st.lists(st.tuples(errors, errors), max_size=12),
    errors,
)


def _places(count: int) -> list[tuple[int, GroupKind]]:
    return [(group.layer, group.kind) for group in all_groups(3)[:count]]


@pytest.fixture(scope="module")
def samples(checkpoint: Checkpoint) -> list[Floats]:
    return some_samples(checkpoint.config.decoder.hidden_size)


@pytest.fixture(scope="module")
def calibration(checkpoint: Checkpoint, samples: list[Floats]) -> Calibration:
    return calibrate(checkpoint, samples)


@pytest.fixture(scope="module")
def report(checkpoint: Checkpoint, samples: list[Floats], calibration: Calibration) -> SensitivityReport:
    return measure_sensitivity(checkpoint, samples, calibration)


def test_every_group_of_every_layer_is_measured(report: SensitivityReport) -> None:
    assert [error.group for error in report.groups] == all_groups(4)
    # Weights and inputs of e4m3, each off by 2.6 % at random.
    assert all(0.02 < error.own_error < 0.06 for error in report.groups)
    assert all(0 < error.layer_error < error.own_error * 2 for error in report.groups)


def test_an_error_is_that_of_rounding_this_group_alone(
    checkpoint: Checkpoint, samples: list[Floats], calibration: Calibration, report: SensitivityReport
) -> None:
    config, hidden = checkpoint.config.decoder, np.concatenate(samples)
    lengths = [len(sample) for sample in samples]
    with NumpyOps(1) as ops:
        layer = DecoderLayer(ops, config, LayerWeights.read(checkpoint, 0, ops.put))
        inputs: dict[str, Floats] = {}
        exact = layer.run(hidden, lengths, lambda name, values: inputs.update({name: values.copy()}))
    for kind, weight in ((GroupKind.DENSE, layer.weights.o), (GroupKind.PROJ, layer.weights.down)):
        x = inputs[kind.value]
        scale = fp8.scale_for(np.float32(getattr(calibration.layers[0], kind.value)))
        weight_scale = fp8.scale_for(fp8.amax(weight))
        rounded = fp8.restore(fp8.quantize(x, scale), scale)
        restored = fp8.restore(fp8.quantize(weight, weight_scale), weight_scale)
        output = x @ weight.astype(np.float32).T
        change = rounded @ restored.T - output
        found = next(error for error in report.groups if error.group == LinearGroup(0, kind))
        assert found.own_error == pytest.approx(np.linalg.norm(change) / np.linalg.norm(output), rel=1e-3)
        assert found.layer_error == pytest.approx(np.linalg.norm(change) / np.linalg.norm(exact), rel=1e-3)


def test_the_final_error_is_measured_with_every_group_rounded(
    checkpoint: Checkpoint, samples: list[Floats], calibration: Calibration, report: SensitivityReport
) -> None:
    assert measure_error(checkpoint, samples, calibration, []) == report.final_error
    assert measure_error(checkpoint, samples, calibration, all_groups(4)) == 0
    assert report.predicted_error([]) == pytest.approx(report.final_error)
    assert report.predicted_error(all_groups(4)) == 0


@pytest.mark.parametrize("share", [0.9, 0.6, 0.3, 0.1, 0.0])
def test_a_chosen_set_brings_the_measured_error_below_the_bound(
    checkpoint: Checkpoint, samples: list[Floats], calibration: Calibration, report: SensitivityReport, share: float
) -> None:
    bound = share * report.final_error
    chosen = confirm_exclusion(checkpoint, samples, calibration, report, bound)
    assert chosen.measured_error <= bound
    assert measure_error(checkpoint, samples, calibration, chosen.groups) == chosen.measured_error
    # The model is near enough that confirming it seldom takes more than a group or two.
    assert len(chosen.groups) <= len(report.smallest_exclusion(bound)) + 2
    predicted = report.predicted_error(chosen.groups)
    assert predicted == pytest.approx(chosen.measured_error, rel=0.35, abs=1e-9)
    assert select_groups(exclude_modules(chosen.groups), 4) == set(chosen.groups)


def test_a_bound_that_is_met_excludes_nothing(
    checkpoint: Checkpoint, samples: list[Floats], calibration: Calibration, report: SensitivityReport
) -> None:
    assert report.smallest_exclusion(report.final_error * 1.0001) == ()
    chosen = confirm_exclusion(checkpoint, samples, calibration, report, 1.0)
    assert (chosen.groups, chosen.measured_error) == ((), report.final_error)


@given(report=reports, bound=errors)
@settings(deadline=None, max_examples=200)
def test_no_smaller_set_meets_the_bound_under_the_model(report: SensitivityReport, bound: float) -> None:
    kept = report.smallest_exclusion(bound)
    assert report.predicted_error(kept) <= bound
    if kept:
        worst = sorted(report.groups, key=lambda error: -error.layer_error)[: len(kept) - 1]
        assert report.predicted_error(error.group for error in worst) > bound


@pytest.mark.parametrize("bound", [-0.1, math.nan])
def test_a_bound_that_is_no_error_is_refused(report: SensitivityReport, bound: float) -> None:
    with pytest.raises(UsageError) as caught:
        report.smallest_exclusion(bound)
    assert caught.value.code == "E-USAGE-BOUND"


def test_measuring_resumes_in_either_pass(
    checkpoint: Checkpoint,
    samples: list[Floats],
    calibration: Calibration,
    report: SensitivityReport,
    tmp_path: Path,
) -> None:
    def stop_at(deadly: int) -> None:
        calls = 0

        def count(_done: int, _total: int) -> None:
            nonlocal calls
            calls += 1
            if calls == deadly:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            measure_sensitivity(checkpoint, samples, calibration, scratch=tmp_path, progress=count)

    stop_at(2)  # in the first pass
    stop_at(3)  # two layers of the first are left, so in the second
    done: list[int] = []
    resumed = measure_sensitivity(
        checkpoint, samples, calibration, scratch=tmp_path, progress=lambda number, _: done.append(number)
    )
    assert done == [2, 3, 4]
    assert resumed == report
    assert list(tmp_path.iterdir()) == []


@given(report=reports)
@settings(deadline=None, max_examples=50)
def test_json_is_an_exact_inverse(report: SensitivityReport) -> None:
    assert SensitivityReport.from_json(report.to_json()) == report


@pytest.mark.parametrize(
    "change", [{"format": 2}, {"groups": 1}, {"groups": [{"layer": 0}]}, {"final_error": None}, {"final_error": -1.0}]
)
def test_a_damaged_report_is_refused(report: SensitivityReport, change: dict[str, object]) -> None:
    for text in (json.dumps({**json.loads(report.to_json()), **change}), "", "[]"):
        with pytest.raises(ArtefactError) as caught:
            SensitivityReport.from_json(text)
        assert caught.value.code == "E-ARTEFACT-SENSITIVITY"
