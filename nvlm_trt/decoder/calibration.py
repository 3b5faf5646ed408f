"""Activation scales by layer streaming: how large what enters each linear gets, over a set of samples.

Weights tell their own amax; activations only exist while the model runs. So it is run, one layer at a time: all
samples' hidden states go through a layer, then that layer's weights are let go and the next is mapped. The memory is
one layer's working set and the hidden states, whatever the number of layers; the checkpoint is read once. The result is
that of running the whole model on the samples, bit for bit, because the same operations see the same numbers.

Calibration runs in float32 on the unquantised weights. Repeating it gives equal bytes; another number of BLAS threads
sums in another order and may move the last bits.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nvlm_trt.checkpoint.base import Checkpoint
from nvlm_trt.decoder import fp8
from nvlm_trt.decoder.layer import LayerWeights, decoder_layer
from nvlm_trt.errors import ArtefactError, CheckpointError, UsageError

__all__ = ["Calibration", "LayerAmax", "calibrate", "layer_by_layer"]

_FORMAT = 1
# Samples are packed until this many tokens: enough to make widening a weight cheap beside multiplying with it, few
# enough that the MLP's inner activations stay near 0.5 GB at full size (2048 x 29568 float32, twice).
_BATCH_TOKENS = 2048


@dataclass(frozen=True, slots=True)
class LayerAmax:
    """Largest magnitudes in one layer: what enters the linears (fc's input is gate's as well), and what is cached.

    Keys are taken after rotation, as they lie in the cache.
    """

    qkv: float
    dense: float
    fc: float
    proj: float
    k_cache: float
    v_cache: float


@dataclass(frozen=True, slots=True)
class Calibration:
    """Amax per layer, and which samples they come from: SHA-256 over shapes and values, count, tokens in all."""

    layers: tuple[LayerAmax, ...]
    samples_sha256: str
    num_samples: int
    num_tokens: int

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
            amaxes = [getattr(layer, field.name) for layer in layers for field in fields(LayerAmax)]
            counts = (calibration.num_samples, calibration.num_tokens)
            if not (
                all(isinstance(amax, float) and math.isfinite(amax) and amax >= 0 for amax in amaxes)
                and all(isinstance(count, int) for count in counts)
                and isinstance(calibration.samples_sha256, str)
            ):
                raise ValueError
        except (ValueError, TypeError, KeyError, AttributeError):
            raise ArtefactError(
                "E-ARTEFACT-CALIBRATION",
                "calibration.json is damaged or of another version.",
                "Delete it and build again.",
            ) from None
        return calibration


def calibrate(
    checkpoint: Checkpoint, samples: Sequence[NDArray[np.float32]], progress: Callable[[int, int], None] | None = None
) -> Calibration:
    """Run the samples, float32 [tokens, hidden] embedding rows each, through the decoder; ``progress`` counts layers.

    Raises ``UsageError`` E-USAGE-CALIBRATION without samples, ``CheckpointError`` E-CKPT-NAN when a layer's output is
    not finite.
    """
    if not samples or any(len(sample) == 0 for sample in samples):
        raise UsageError(
            "E-USAGE-CALIBRATION", "There is no calibration sample, or an empty one.", "Give at least one prompt."
        )
    total = checkpoint.config.decoder.num_layers
    layers = []
    for layer_amax in layer_by_layer(checkpoint, samples):
        layers.append(layer_amax)
        if progress:
            progress(len(layers), total)
    return Calibration(
        layers=tuple(layers),
        samples_sha256=_digest(samples),
        num_samples=len(samples),
        num_tokens=sum(len(sample) for sample in samples),
    )


def layer_by_layer(checkpoint: Checkpoint, samples: Sequence[NDArray[np.float32]]) -> Iterator[LayerAmax]:
    """One ``LayerAmax`` after the other. Between two of them nothing but the hidden states is held."""
    config = checkpoint.config.decoder
    batches = [(np.concatenate(group), [len(sample) for sample in group]) for group in _packed(samples)]
    for layer in range(config.num_layers):
        weights = LayerWeights.read(checkpoint, layer)
        largest = {field.name: 0.0 for field in fields(LayerAmax)}

        def observe(name: str, values: NDArray[np.float32], largest: dict[str, float] = largest) -> None:
            # Not max(): it would lose a NaN, depending on the order of its arguments.
            largest[name] = float(np.maximum(largest[name], fp8.amax(values)))

        for index, (hidden, lengths) in enumerate(batches):
            batches[index] = decoder_layer(hidden, lengths, weights, config, observe), lengths
        if not all(math.isfinite(amax) for amax in largest.values()):
            raise CheckpointError(
                "E-CKPT-NAN",
                f"Layer {layer} of the decoder computes values that are not finite numbers.",
                "Check the checkpoint's weights: nvlm-trt inspect.",
            )
        yield LayerAmax(**largest)


def _packed(samples: Sequence[NDArray[np.float32]]) -> Iterator[list[NDArray[np.float32]]]:
    """Neighbouring samples together while they fit; one that is longer than a batch stays whole and alone."""
    group: list[NDArray[np.float32]] = []
    for sample in samples:
        if group and sum(map(len, group)) + len(sample) > _BATCH_TOKENS:
            yield group
            group = []
        group.append(sample)
    yield group


def _digest(samples: Sequence[NDArray[Any]]) -> str:
    digest = hashlib.sha256()
    for sample in samples:
        digest.update(f"{sample.shape}".encode())
        digest.update(np.ascontiguousarray(sample, "<f4").tobytes())
    return digest.hexdigest()
