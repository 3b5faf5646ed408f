"""What the key biases alone say about an FP8 cache.

Qwen2 adds a learnt bias to its keys, and in some channels it is far larger than what the input moves. A cached key is
then a large constant with a small signal on top, and e4m3, whose steps grow with magnitude, rounds the signal by the
constant's step. With scale 1, which is what the cache gets while everything stays inside ±448:

    bias 3 -> step 0.25        bias 50 -> step 4        bias 300 -> step 32        above 448 the scale must grow

The signal's size can be computed without running anything. The input of ``k_proj`` is normalised to a mean square of
one and multiplied by the norm's weight g, so a channel with weights w has a deviation near ``sqrt(sum((w * g)^2))``: an
estimate, exact where the input's components are uncorrelated. Keys are cached after rotation, which rotates channel i
with channel i + head_dim / 2, so magnitudes and deviations are those of the pair.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nvlm_trt.checkpoint.base import Checkpoint
from nvlm_trt.decoder.fp8 import E4M3_MAX
from nvlm_trt.decoder.layer import layer_tensor

__all__ = [
    "NOISE_LIMIT",
    "RANGE_SHARE_LIMIT",
    "BiasReport",
    "LayerBias",
    "e4m3_step",
    "scan_key_biases",
]

# Half of the range, 224. What the input adds comes on top of the bias and is not known here; quantisers for this format
# warn from the same point on.
RANGE_SHARE_LIMIT = 0.5
# Rounding a value with no bias costs e4m3 2.6 % (its relative error's root mean square). Four times that means two of
# its three mantissa bits are spent on the constant.
NOISE_LIMIT = 0.1
_ROWS = 256  # of a weight, widened at once


@dataclass(frozen=True, slots=True)
class LayerBias:
    """One layer at scale 1, or at the least scale that does not clip.

    ``k_bias`` and ``v_bias`` are the largest magnitudes, keys' of rotated pairs. ``range_share`` is the larger one's
    part of 448. ``noise`` is the rounding error next to the signal, root mean squares over a head's channels, of the
    worst head; ``step`` and ``spread`` are e4m3's step and the signal's deviation in its worst channel.
    """

    k_bias: float
    v_bias: float
    range_share: float
    noise: float
    step: float
    spread: float


@dataclass(frozen=True, slots=True)
class BiasReport:
    layers: tuple[LayerBias, ...]

    @property
    def reasons(self) -> tuple[str, ...]:
        """Sentences that speak against an FP8 cache; none means that the biases do not."""
        shares = [(layer.range_share, number) for number, layer in enumerate(self.layers)]
        noises = [(layer.noise, number) for number, layer in enumerate(self.layers)]
        reasons = []
        if beyond := [number for share, number in shares if share > RANGE_SHARE_LIMIT]:
            share, worst = max(shares)
            reasons.append(
                f"Key or value biases take more than {RANGE_SHARE_LIMIT:.0%} of FP8's range of ±448 in "
                f"{_layers(len(beyond))}; layer {worst} has {share:.0%}."
            )
        if beyond := [number for noise, number in noises if noise > NOISE_LIMIT]:
            noise, worst = max(noises)
            layer = self.layers[worst]
            reasons.append(
                f"Key biases leave FP8 too few steps for the signal in {_layers(len(beyond))}: in layer {worst} "
                f"rounding is {noise:.0%} of it, and {NOISE_LIMIT:.0%} is allowed (a step of {layer.step:g} on a "
                f"deviation of {layer.spread:.2g})."
            )
        return tuple(reasons)

    @property
    def passed(self) -> bool:
        return not self.reasons


def scan_key_biases(checkpoint: Checkpoint, progress: Callable[[int, int], None] | None = None) -> BiasReport:
    """Check every layer's biases and ``k_proj``; ``progress`` counts layers. Reads half a per cent of the model."""
    layers = []
    total = checkpoint.config.decoder.num_layers
    for number in range(total):
        layers.append(_scan(checkpoint, number))
        if progress:
            progress(number + 1, total)
    return BiasReport(tuple(layers))


def e4m3_step(magnitudes: NDArray[np.float64]) -> NDArray[np.float64]:
    """The distance between e4m3's numbers around magnitudes up to 448.

    Three mantissa bits: an eighth of the power of two below, and no less than the subnormals' 2^-9.
    """
    step: NDArray[np.float64] = 2.0 ** (np.floor(np.log2(np.maximum(magnitudes, 2.0**-6))) - 3)
    return step


def _scan(checkpoint: Checkpoint, number: int) -> LayerBias:
    config = checkpoint.config.decoder
    names = {field: layer_tensor(number, field) for field in ("input_norm", "k", "k_bias", "v_bias")}
    norm = _wide(checkpoint.read(names["input_norm"]))
    weight = checkpoint.read(names["k"])
    spreads = np.empty(config.kv_size)
    for start in range(0, len(weight), _ROWS):
        rows = slice(start, start + _ROWS)
        spreads[rows] = np.sqrt(np.square(_wide(weight[rows]) * norm).sum(axis=1))
    k_bias = _pairs(_wide(checkpoint.read(names["k_bias"])), config.head_dim)
    v_bias = float(np.abs(_wide(checkpoint.read(names["v_bias"]))).max())
    for name in names.values():
        checkpoint.drop_pages(name)
    # A pair's energy is in both channels by turns, so each has half of it on average.
    spread = _pairs(spreads, config.head_dim) / np.sqrt(2)
    # The signal moves the key around its bias: what counts is the step where it usually is.
    usual = np.hypot(k_bias, spread)
    scale = max(float(usual.max()) / float(E4M3_MAX), 1.0)
    step = e4m3_step(usual / scale) * scale
    noises = np.sqrt(np.square(step).sum(axis=1) / 12 / np.maximum(np.square(spread).sum(axis=1), 1e-30))
    channel = np.unravel_index(int(np.argmax(step / np.maximum(spread, 1e-30))), step.shape)
    largest = float(k_bias.max())
    return LayerBias(
        k_bias=largest,
        v_bias=v_bias,
        range_share=max(largest, v_bias) / float(E4M3_MAX),
        noise=float(noises.max()),
        step=float(step[channel]),
        spread=float(spread[channel]),
    )


def _pairs(channels: NDArray[np.float64], head_dim: int) -> NDArray[np.float64]:
    """Lengths of the pairs that rotation turns, [kv heads, head_dim / 2]."""
    halves = channels.reshape(-1, 2, head_dim // 2)
    return np.hypot(halves[:, 0], halves[:, 1])


def _wide(stored: NDArray[Any]) -> NDArray[np.float64]:
    return stored.astype(np.float32).astype(np.float64)


def _layers(count: int) -> str:
    return f"{count} layer" if count == 1 else f"{count} layers"
