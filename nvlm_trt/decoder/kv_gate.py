"""Decides whether this checkpoint's KV cache may be FP8, from its biases and from attention with a rounded cache.

The cache would save half its memory, and on Qwen2 decoders it has made engines answer nonsense while the build reported
nothing. So ``bf16`` is the default, and FP8 is allowed only where two checks pass:

* ``scan_key_biases``, from the checkpoint alone, in seconds;
* samples through the decoder with each layer's keys and values rounded as the cache would, against exact ones. Every
  layer gets exact inputs, so what is measured is what that layer's cache does.

The limits are judgements, not fits. They are stated here with their reasons, and a report shows every layer's figures,
so that somebody who knows better can force the choice.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nvlm_trt.checkpoint.base import Checkpoint
from nvlm_trt.decoder.calibration import Calibration
from nvlm_trt.decoder.key_biases import BiasReport, LayerBias, scan_key_biases
from nvlm_trt.decoder.layer import DecoderLayer
from nvlm_trt.decoder.layer_ops import AttentionError, open_ops
from nvlm_trt.decoder.layer_stream import stream_layers
from nvlm_trt.decoder.sample_source import Samples, as_samples
from nvlm_trt.errors import ArtefactError, UsageError

__all__ = ["LOGIT_ERROR_LIMIT", "OUTPUT_ERROR_LIMIT", "KvLayer", "KvReport", "check_kv_cache", "require_kv_cache"]

_FORMAT = 1
# Root mean square over query-key pairs, in nats, each query's mean taken off. An error of 0.2 multiplies a key's weight
# by 1.2 or divides it by that; beyond, the order of the keys a head looks at begins to change.
LOGIT_ERROR_LIMIT = 0.2
# Of a layer's attention output, relative. Rounding values alone costs 2.6 %, so it cannot be far below; at four times
# that the cache costs more than the FP8 linears around it.
OUTPUT_ERROR_LIMIT = 0.1


@dataclass(frozen=True, slots=True)
class KvLayer:
    """Root mean squares over all samples: of the attention logits' error, and of the output's error relative to the
    output."""

    scale: float
    logit_error: float
    output_error: float


@dataclass(frozen=True, slots=True)
class KvReport:
    biases: BiasReport
    layers: tuple[KvLayer, ...]

    @property
    def reasons(self) -> tuple[str, ...]:
        """Sentences that speak against an FP8 cache."""
        measured = (
            ("attention logits, in nats", LOGIT_ERROR_LIMIT, [layer.logit_error for layer in self.layers]),
            ("attention's output, relative", OUTPUT_ERROR_LIMIT, [layer.output_error for layer in self.layers]),
        )
        reasons = list(self.biases.reasons)
        for what, limit, errors in measured:
            if beyond := sum(error > limit for error in errors):
                worst = int(np.argmax(errors))
                reasons.append(
                    f"The error of {what}, is above {limit:g} in {beyond} of {len(errors)} layers; "
                    f"layer {worst} has {errors[worst]:.2g}."
                )
        return tuple(reasons)

    @property
    def passed(self) -> bool:
        return not self.reasons

    def to_json(self) -> str:
        """Data, and the verdict for readers without this program."""
        data = {"format": _FORMAT, "passed": self.passed, "reasons": self.reasons, **dataclasses.asdict(self)}
        return json.dumps(data, indent=2, sort_keys=True) + "\n"

    @classmethod
    def from_json(cls, text: str) -> KvReport:
        """Inverse of ``to_json``; the verdict is found anew. Raises ``ArtefactError`` E-ARTEFACT-KV-REPORT."""
        try:
            data = json.loads(text)
            if data["format"] != _FORMAT:
                raise ValueError
            report = cls(
                BiasReport(tuple(LayerBias(**layer) for layer in data["biases"]["layers"])),
                tuple(KvLayer(**layer) for layer in data["layers"]),
            )
            values = [value for layer in report.biases.layers for value in dataclasses.astuple(layer)]
            values += [value for layer in report.layers for value in dataclasses.astuple(layer)]
            if not all(isinstance(value, float) and math.isfinite(value) for value in values):
                raise ValueError
        except (ValueError, TypeError, KeyError):
            raise ArtefactError(
                "E-ARTEFACT-KV-REPORT", "The KV cache report is damaged or of another version.", "Build again."
            ) from None
        return report


def check_kv_cache(
    checkpoint: Checkpoint,
    samples: Samples | Sequence[NDArray[np.float32]],
    calibration: Calibration,
    *,
    device: str = "cpu",
    scratch: Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> KvReport:
    """Scan the biases, and run the samples with the cache's scales from the calibration. Errors as ``calibrate``'s."""
    samples = as_samples(samples)
    with open_ops(device) as ops:
        stream = stream_layers(
            checkpoint,
            samples,
            ops,
            lambda number, layer: _CacheError(layer, calibration.kv_scale(number)),
            name="kv-cache",
            depends_on=(hashlib.sha256(calibration.to_json().encode()).hexdigest(), device),
            scratch=scratch,
            progress=progress,
        )
        with stream as streamed:
            return KvReport(scan_key_biases(checkpoint), tuple(KvLayer(**result) for result in streamed.results))


def require_kv_cache(report: KvReport | BiasReport, forced: bool = False) -> None:
    """Raises ``UsageError`` E-RECIPE-KV-CACHE with the reasons unless the check has passed, or the user insists."""
    if not report.passed and not forced:
        raise UsageError(
            "E-RECIPE-KV-CACHE",
            f"An FP8 KV cache would damage this checkpoint's answers. {' '.join(report.reasons)}",
            "Leave the cache in BF16, or force FP8 if you have measured your answers.",
        )


class _CacheError:
    """``LayerWork``: one layer's attention with rounded keys and values against exact ones."""

    def __init__(self, layer: DecoderLayer, scale: np.float32) -> None:
        self._layer = layer
        self._scale = scale
        self._error = AttentionError()

    def run(self, hidden: Any, lengths: Sequence[int]) -> Any:
        seen: dict[str, Any] = {}

        def observe(name: str, values: Any) -> None:
            if name in ("query", "k_cache", "v_cache"):
                seen[name] = values
            elif name == "dense":  # the attention is over; nothing is kept through the MLP
                self._error += self._compare(lengths, **seen)
                seen.clear()

        return self._layer.run(hidden, lengths, observe)

    def result(self) -> dict[str, float]:
        found = self._error
        return {
            "scale": float(self._scale),
            "logit_error": math.sqrt(found.logits / found.num_logits),
            "output_error": math.sqrt(found.output / found.output_energy) if found.output_energy else 0.0,
        }

    def _compare(self, lengths: Sequence[int], query: Any, k_cache: Any, v_cache: Any) -> AttentionError:
        ops = self._layer.ops
        cached = ops.fake_fp8(k_cache, self._scale), ops.fake_fp8(v_cache, self._scale)
        return ops.attention_error(query, k_cache, v_cache, *cached, lengths)
