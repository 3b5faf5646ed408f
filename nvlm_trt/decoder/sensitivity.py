"""Measures what FP8 costs, linear group by linear group, and finds the groups to keep in BF16 for a wanted error.

Each group of each layer is rounded alone, weights and inputs, with everything else exact, and what that does to the
layer's output is compared with the output. A second pass rounds every group and finds the error of the final hidden
state. ``sensitivity_report`` says how errors are assumed to add up and which groups to keep. That is only a model, so
``confirm_exclusion`` runs the decoder with these groups and adds more until the measured error is below the bound.

Errors are root mean squares over all tokens, relative to what they are errors of. The final hidden state is the one
after the final norm, which ``lm_head`` (never quantised) turns into logits linearly.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nvlm_trt.checkpoint.base import Checkpoint
from nvlm_trt.decoder import fp8
from nvlm_trt.decoder.calibration import Calibration
from nvlm_trt.decoder.group_errors import GroupErrors
from nvlm_trt.decoder.layer import DecoderLayer, Fp8Scales
from nvlm_trt.decoder.layer_ops import LayerOps, open_ops
from nvlm_trt.decoder.layer_stream import Streamed, stream_layers
from nvlm_trt.decoder.linear_groups import GroupKind, LinearGroup, all_groups
from nvlm_trt.decoder.sample_source import Samples, as_samples
from nvlm_trt.decoder.sensitivity_report import GroupError, SensitivityReport

__all__ = ["Exclusion", "confirm_exclusion", "group_scales", "measure_error", "measure_sensitivity"]

_FINAL_NORM = "language_model.model.norm.weight"


@dataclass(frozen=True, slots=True)
class Exclusion:
    """Groups to keep in BF16, and the error of the final hidden state that was measured with them."""

    groups: tuple[LinearGroup, ...]
    measured_error: float


def measure_sensitivity(
    checkpoint: Checkpoint,
    samples: Samples | Sequence[NDArray[np.float32]],
    calibration: Calibration,
    *,
    device: str = "cpu",
    scratch: Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> SensitivityReport:
    """Two passes over the decoder, of about four times and one time a calibration's work. Errors as ``calibrate``'s.

    ``progress`` counts the layers of both.
    """
    with open_ops(device) as ops:
        run = _Run(checkpoint, as_samples(samples), calibration, ops, device, scratch, progress)
        everything = all_groups(checkpoint.config.decoder.num_layers)
        with run.stream("sensitivity", GroupErrors, everything) as exact, run.rounded("rounded", everything) as other:
            groups = [
                GroupError(number, kind, result[f"{kind.value}.own"], result[f"{kind.value}.layer"])
                for number, result in enumerate(exact.results)
                for kind in GroupKind
            ]
            return SensitivityReport(tuple(groups), run.final_error(exact, other))


def measure_error(
    checkpoint: Checkpoint,
    samples: Samples | Sequence[NDArray[np.float32]],
    calibration: Calibration,
    kept: Iterable[LinearGroup],
    *,
    device: str = "cpu",
    scratch: Path | None = None,
) -> float:
    """The final hidden state's error with all groups but ``kept`` rounded: two passes."""
    with open_ops(device) as ops:
        run = _Run(checkpoint, as_samples(samples), calibration, ops, device, scratch, None)
        with run.rounded("exact", []) as exact:
            return run.error_without(exact, kept)


def confirm_exclusion(
    checkpoint: Checkpoint,
    samples: Samples | Sequence[NDArray[np.float32]],
    calibration: Calibration,
    report: SensitivityReport,
    bound: float,
    *,
    device: str = "cpu",
    scratch: Path | None = None,
) -> Exclusion:
    """The report's smallest exclusion, grown until the measured error is at most ``bound``: two passes, seldom more."""
    with open_ops(device) as ops:
        run = _Run(checkpoint, as_samples(samples), calibration, ops, device, scratch, None)
        with run.rounded("exact", []) as exact:
            aim, groups = bound, report.smallest_exclusion(bound)
            while (measured := run.error_without(exact, groups)) > bound:
                aim *= bound / measured
                grown = report.smallest_exclusion(aim)
                # Ever closer aims may choose no more than before; all groups kept is an error of zero.
                groups = grown if len(grown) > len(groups) else _one_more(report, groups)
            return Exclusion(groups, measured)


def _one_more(report: SensitivityReport, groups: Sequence[LinearGroup]) -> tuple[LinearGroup, ...]:
    left = [error for error in report.groups if error.group not in groups]
    worst = max(left, key=lambda error: error.layer_error).group
    return tuple(error.group for error in report.groups if error.group in groups or error.group == worst)


@dataclass(frozen=True, slots=True)
class _Run:
    """What the passes of one measurement share."""

    checkpoint: Checkpoint
    samples: Samples
    calibration: Calibration
    ops: LayerOps
    device: str
    scratch: Path | None
    progress: Callable[[int, int], None] | None

    def stream(
        self, name: str, work: Callable[[DecoderLayer, DecoderLayer], Any], groups: Iterable[LinearGroup]
    ) -> contextlib.AbstractContextManager[Streamed]:
        """``work`` is made from each layer as it is, and with its share of ``groups`` rounded."""
        groups = frozenset(groups)
        calibration = hashlib.sha256(self.calibration.to_json().encode()).hexdigest()
        rounded = ",".join(sorted(module for group in groups for module in group.modules))

        def make(number: int, layer: DecoderLayer) -> Any:
            kinds = [group.kind for group in groups if group.layer == number]
            scales = {
                kind: group_scales(layer, kind, getattr(self.calibration.layers[number], kind.value)) for kind in kinds
            }
            return work(layer, layer.with_rounded(scales))

        return stream_layers(
            self.checkpoint,
            self.samples,
            self.ops,
            make,
            name=name,
            depends_on=(calibration, self.device, rounded),
            scratch=self.scratch,
            progress=self.progress,
        )

    def rounded(self, name: str, groups: Iterable[LinearGroup]) -> contextlib.AbstractContextManager[Streamed]:
        return self.stream(name, lambda _exact, rounded: _Plain(rounded), groups)

    def error_without(self, exact: Streamed, kept: Iterable[LinearGroup]) -> float:
        groups = set(all_groups(self.checkpoint.config.decoder.num_layers)) - set(kept)
        with self.rounded("rounded", groups) as other:
            return self.final_error(exact, other)

    def final_error(self, exact: Streamed, other: Streamed) -> float:
        norm = self.ops.put(self.checkpoint.read(_FINAL_NORM))
        error = energy = 0.0
        for one, two in zip(exact.outputs(), other.outputs(), strict=True):
            final, changed = (self._normed(hidden, norm) for hidden in (one, two))
            error += self.ops.energy(changed - final)
            energy += self.ops.energy(final)
        return math.sqrt(error / energy)

    def _normed(self, hidden: NDArray[np.float32], norm: Any) -> Any:
        return self.ops.rms_norm(self.ops.put(hidden), norm, self.checkpoint.config.decoder.norm_eps)


def group_scales(layer: DecoderLayer, kind: GroupKind, amax: float) -> Fp8Scales:
    """As the checkpoint's writer chooses them: one weight scale for all weights of a group."""
    largest = max(layer.ops.amax(weight) for weight in layer.weights.of(kind))
    return Fp8Scales(fp8.scale_for(np.float32(amax)), fp8.scale_for(np.float32(largest)))


class _Plain:
    """``LayerWork`` that only computes."""

    def __init__(self, layer: DecoderLayer) -> None:
        self._layer = layer

    def run(self, hidden: Any, lengths: Sequence[int]) -> Any:
        return self._layer.run(hidden, lengths)

    def result(self) -> dict[str, float]:
        return {}
