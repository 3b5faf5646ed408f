"""What FP8 in each layer does to the next-token distribution: with this layer alone rounded, and with all others.

The two differ where the errors of several layers interact. In a rounded layer every linear computes as FP8 linears do,
with rounded weights and inputs; everything else is exact, in calibration's arithmetic. Each prompt is followed by the
reference's answer.

One pass over the checkpoint computes several variants of the model. To ``stream_layers`` they are just more samples;
only this module knows which sample sees a layer as it is and which sees it rounded. So the weights are read once for as
many variants as ``_SCRATCH_BYTES`` of hidden states allow, and a killed pass resumes at its layer.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nvlm_trt.checkpoint.base import Checkpoint
from nvlm_trt.decoder.calibration import Calibration
from nvlm_trt.decoder.layer import DecoderLayer
from nvlm_trt.decoder.layer_ops import LayerOps, open_ops
from nvlm_trt.decoder.layer_stream import Streamed, stream_layers
from nvlm_trt.decoder.linear_groups import GroupKind
from nvlm_trt.decoder.sensitivity import group_scales
from nvlm_trt.precision.answer_samples import AnswerSamples, Repeated
from nvlm_trt.precision.divergence import divergence

__all__ = ["LayerDivergences", "layer_divergences", "variants_per_pass"]

_FINAL_NORM = "language_model.model.norm.weight"
_HEAD = "language_model.lm_head.weight"
# Of hidden states on disk, in two files.
_SCRATCH_BYTES = 16 << 30

Floats = NDArray[np.float32]
Rounded = frozenset[int]


@dataclass(frozen=True, slots=True)
class LayerDivergences:
    """KL from the exact model in nats, summed over each answer's positions: [answers] with every layer rounded, and
    [layers][answers] with one ``alone`` and with all but one, ``without``."""

    everything: tuple[float, ...]
    alone: tuple[tuple[float, ...], ...]
    without: tuple[tuple[float, ...], ...]


def layer_divergences(
    checkpoint: Checkpoint,
    samples: AnswerSamples,
    calibration: Calibration,
    *,
    device: str = "cpu",
    scratch: Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> LayerDivergences:
    """There are two variants for each layer and one more, computed ``variants_per_pass`` at a time. ``progress`` counts
    the layers of all passes. Raises what ``calibrate`` raises.
    """
    count = checkpoint.config.decoder.num_layers
    every = frozenset(range(count))
    alone: list[Rounded] = [frozenset([layer]) for layer in range(count)]
    variants = [every, *alone, *(every - one for one in alone)]
    at_once = variants_per_pass(sum(samples.lengths), checkpoint.config.decoder.hidden_size)
    groups = [variants[start : start + at_once] for start in range(0, len(variants), at_once)]
    found: list[tuple[float, ...]] = []
    with open_ops(device) as ops:
        for number, group in enumerate(groups):

            def advanced(done: int, _total: int, before: int = number * count) -> None:
                if progress:
                    progress(before + done, len(groups) * count)

            found += _one_pass(checkpoint, samples, calibration, ops, device, group, scratch, advanced)
    return LayerDivergences(found[0], tuple(found[1 : count + 1]), tuple(found[count + 1 :]))


def variants_per_pass(num_tokens: int, hidden_size: int) -> int:
    """How many variants one pass computes beside the exact model; at least one."""
    return max(1, _SCRATCH_BYTES // (2 * 4 * hidden_size * num_tokens) - 1)


def _one_pass(
    checkpoint: Checkpoint,
    samples: AnswerSamples,
    calibration: Calibration,
    ops: LayerOps,
    device: str,
    variants: Sequence[Rounded],
    scratch: Path | None,
    progress: Callable[[int, int], None],
) -> list[tuple[float, ...]]:
    together: list[Rounded] = [frozenset(), *variants]

    def work(number: int, layer: DecoderLayer) -> _Variants:
        amaxes = calibration.layers[number]
        scales = {kind: group_scales(layer, kind, getattr(amaxes, kind.value)) for kind in GroupKind}
        rounded = layer.with_rounded(scales)
        return _Variants([rounded if number in variant else layer for variant in together], len(samples))

    stream = stream_layers(
        checkpoint,
        Repeated(samples, len(together)),
        ops,
        work,
        name="layers",
        depends_on=(calibration.to_json(), device, str([sorted(variant) for variant in together])),
        scratch=scratch,
        progress=progress,
    )
    with stream as streamed:
        rows = _predicting(streamed, samples.positions, samples.lengths)
        logits = (_logits(checkpoint, ops, one) for one in rows)
        exact, ends = next(logits), np.cumsum(samples.positions)[:-1]
        return [tuple(float(part.sum()) for part in np.split(divergence(exact, other), ends)) for other in logits]


class _Variants:
    """``LayerWork``: runs each sample through its variant's form of the layer. Batches come in the samples' order."""

    def __init__(self, layers: Sequence[DecoderLayer], num_samples: int) -> None:
        self._layers, self._num_samples, self._seen = layers, num_samples, 0

    def run(self, hidden: Any, lengths: Sequence[int]) -> Any:
        """A batch may hold the last samples of one variant and the first of the next."""
        parts, row = [], 0
        numbers = range(self._seen, self._seen + len(lengths))
        for variant, group in itertools.groupby(zip(numbers, lengths, strict=True), self._variant):
            own = [length for _, length in group]
            parts.append(self._layers[variant].run(hidden[row : row + sum(own)], own))
            row += sum(own)
        self._seen += len(lengths)
        if len(parts) == 1:
            return parts[0]
        ops = self._layers[0].ops
        return ops.put(np.concatenate([ops.get(part) for part in parts]))

    def result(self) -> dict[str, float]:
        return {}

    def _variant(self, numbered: tuple[int, int]) -> int:
        return numbered[0] // self._num_samples


def _predicting(streamed: Streamed, positions: Sequence[int], lengths: Sequence[int]) -> Iterator[Floats]:
    """For each variant, the rows [positions, hidden] that predict the answers, from batches cut elsewhere."""
    rows, batches = np.empty((0, 0), np.float32), streamed.outputs()
    while True:
        picked = []
        for count, length in zip(positions, lengths, strict=True):
            while len(rows) < length:
                batch = next(batches, None)
                if batch is None:
                    return
                rows = batch if not len(rows) else np.concatenate([rows, batch])
            picked.append(rows[length - count : length])
            rows = rows[length:]
        yield np.concatenate(picked)


def _logits(checkpoint: Checkpoint, ops: LayerOps, rows: Floats) -> Floats:
    norm, head = (ops.put(checkpoint.read(name)) for name in (_FINAL_NORM, _HEAD))
    normed = ops.rms_norm(ops.put(rows), norm, checkpoint.config.decoder.norm_eps)
    return np.asarray(ops.get(ops.linear(normed, head)))
