"""Activation scales: the largest magnitudes that enter each linear, over a set of samples.

Weights have their own amax, but activations only exist while the model runs. So it is run, one layer at a time, in
float32 on the unquantised weights (see ``layer_stream``). Repeating it on the CPU gives equal bytes with any number of
threads, and whether hidden states wait in memory or on disk; another BLAS, or another kind of processor, may change the
last bits.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nvlm_trt.checkpoint.base import Checkpoint
from nvlm_trt.decoder import fp8
from nvlm_trt.decoder.layer import DecoderLayer
from nvlm_trt.decoder.layer_ops import LayerOps, open_ops
from nvlm_trt.decoder.layer_stream import stream_layers
from nvlm_trt.decoder.range_method import RangeMethod
from nvlm_trt.decoder.sample_source import Samples, as_samples
from nvlm_trt.errors import ArtefactError, CheckpointError, UsageError

__all__ = ["Calibration", "LayerAmax", "calibrate", "calibrate_with"]

_FORMAT = 2


@dataclass(frozen=True, slots=True)
class LayerAmax:
    """Magnitudes in one layer: of the linears' inputs (fc's input is gate's as well), and of what is cached.

    For a linear's input it is the magnitude that becomes FP8's largest number, which is the largest seen unless the
    calibration's method is another. For keys and values it is always the largest seen; keys are taken after rotation,
    as they lie in the cache.
    """

    qkv: float
    dense: float
    fc: float
    proj: float
    k_cache: float
    v_cache: float


@dataclass(frozen=True, slots=True)
class Calibration:
    """Magnitudes per layer, how they were chosen, and which samples they come from.

    ``samples_sha256`` is over shapes and values; ``method`` is the text of a ``RangeMethod``.
    """

    layers: tuple[LayerAmax, ...]
    samples_sha256: str
    num_samples: int
    num_tokens: int
    method: str = "amax"

    def kv_scale(self, layer: int) -> np.float32:
        """The multiplier that restores FP8 keys and values of a layer, one for both: amax / 448, but never below 1.

        TensorRT-LLM's exporters raise smaller ones to 1 as well: e4m3 is as fine at small magnitudes as at large ones,
        so a smaller scale gains nothing but the risk to clip what calibration has not seen.
        """
        largest = max(self.layers[layer].k_cache, self.layers[layer].v_cache)
        return max(fp8.scale_for(np.float32(largest)), np.float32(1))

    def to_json(self) -> str:
        """Exact: a float is written with all digits it needs to be read back as it was."""
        return json.dumps({"format": _FORMAT, **dataclasses.asdict(self)}, indent=2, sort_keys=True) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Calibration:
        """Inverse of ``to_json``. Raises ``ArtefactError`` E-ARTEFACT-CALIBRATION."""
        try:
            data = json.loads(text)
            if data.pop("format") != _FORMAT:
                raise ValueError
            layers = tuple(LayerAmax(**layer) for layer in data.pop("layers"))
            calibration = cls(layers=layers, **data)
            RangeMethod.parse(calibration.method)
            amaxes = [getattr(layer, field.name) for layer in layers for field in fields(LayerAmax)]
            counts = (calibration.num_samples, calibration.num_tokens)
            if not (
                all(isinstance(amax, float) and math.isfinite(amax) and amax >= 0 for amax in amaxes)
                and all(isinstance(count, int) for count in counts)
                and isinstance(calibration.samples_sha256, str)
            ):
                raise ValueError
        except (ValueError, TypeError, KeyError, AttributeError, UsageError):
            raise ArtefactError(
                "E-ARTEFACT-CALIBRATION",
                "calibration.json is damaged or of another version.",
                "Delete it and build again.",
            ) from None
        return calibration


def calibrate(
    checkpoint: Checkpoint,
    samples: Samples | Sequence[NDArray[np.float32]],
    progress: Callable[[int, int], None] | None = None,
    *,
    method: str = "amax",
    device: str = "cpu",
    scratch: Path | None = None,
) -> Calibration:
    """Run the samples, float32 [tokens, hidden] embedding rows each, through the decoder; ``progress`` counts layers.

    ``method`` is ``amax``, ``mse``, ``percentile`` or ``percentile:99.9``; ``device`` is ``cpu`` or ``cuda``. Hidden
    states wait in memory, or in files in the folder ``scratch``, where a killed run is also resumed from.

    Raises ``UsageError`` E-USAGE-CALIBRATION without samples, E-USAGE-METHOD and E-USAGE-DEVICE; ``CheckpointError``
    E-CKPT-NAN when a layer's activations are not finite; ``MissingToolError`` E-TOOL-TORCH and E-TOOL-CUDA;
    ``BuildError`` E-BUILD-SPACE and E-BUILD-WRITE about the scratch folder.
    """
    chosen = RangeMethod.parse(method)
    with open_ops(device) as ops:
        return calibrate_with(ops, checkpoint, as_samples(samples), chosen, device, scratch, progress)


def calibrate_with(
    ops: LayerOps,
    checkpoint: Checkpoint,
    samples: Samples,
    method: RangeMethod,
    device: str = "cpu",
    scratch: Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Calibration:
    """``calibrate`` with arithmetic that is already open; ``device`` only says which it is."""
    stream = stream_layers(
        checkpoint,
        samples,
        ops,
        lambda number, layer: _Ranges(number, layer, method),
        name="calibration",
        depends_on=(str(method), device),
        scratch=scratch,
        progress=progress,
    )
    with stream as streamed:
        return Calibration(
            layers=tuple(LayerAmax(**result) for result in streamed.results),
            samples_sha256=streamed.samples_sha256,
            num_samples=len(samples),
            num_tokens=sum(samples.lengths),
            method=str(method),
        )


class _Ranges:
    """``LayerWork``: the magnitudes of one layer's activations."""

    def __init__(self, number: int, layer: DecoderLayer, method: RangeMethod) -> None:
        self._number = number
        self._layer = layer
        self._method = method
        self._amax = {field.name: 0.0 for field in fields(LayerAmax)}
        self._histograms: dict[str, NDArray[np.int64]] = {}

    def run(self, hidden: Any, lengths: Sequence[int]) -> Any:
        return self._layer.run(hidden, lengths, self._observe)

    def result(self) -> dict[str, float]:
        if not all(math.isfinite(amax) for amax in self._amax.values()):
            raise CheckpointError(
                "E-CKPT-NAN",
                f"Layer {self._number} of the decoder computes values that are not finite numbers.",
                "Check the checkpoint's weights: nvlm-trt inspect.",
            )
        return {name: self._method.choose(amax, self._histograms.get(name)) for name, amax in self._amax.items()}

    def _observe(self, name: str, values: Any) -> None:
        if name not in self._amax:
            return
        # Not max(): it would lose a NaN, depending on the order of its arguments.
        self._amax[name] = float(np.maximum(self._amax[name], self._layer.ops.amax(values)))
        if self._method.needs_histogram and not name.endswith("_cache"):
            counts = self._layer.ops.histogram(values)
            self._histograms[name] = self._histograms.get(name, 0) + counts
