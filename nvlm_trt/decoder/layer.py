"""One Qwen2 decoder layer in numpy float32, for calibration: readable first, and small in memory.

Several sequences are packed behind each other in one [tokens, hidden] array, so a weight is widened to float32 once for
all of them; attention alone looks at the sequence boundaries. Weights stay in their mapped 16-bit form and are widened
in blocks of output rows; attention scores exist for one group of heads and one block of queries at a time. The largest
temporary is the activation between the MLP's linears.

``observe`` is shown what enters each linear, and the keys and values as they would be cached.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nvlm_trt.checkpoint.base import Checkpoint
from nvlm_trt.model.config import DecoderConfig

__all__ = ["LayerWeights", "Observe", "decoder_layer"]

Floats = NDArray[np.float32]
Observe = Callable[[str, Floats], None]

_WEIGHT_ROWS = 1024  # output rows of a weight widened at once: 34 MB at width 8192, 121 MB at 29568
_QUERY_ROWS = 256  # queries scored at once


@dataclass(frozen=True, slots=True)
class LayerWeights:
    """One layer's tensors as they lie in the checkpoint; linears are [out, in]."""

    input_norm: NDArray[Any]
    q: NDArray[Any]
    k: NDArray[Any]
    v: NDArray[Any]
    q_bias: NDArray[Any]
    k_bias: NDArray[Any]
    v_bias: NDArray[Any]
    o: NDArray[Any]
    post_norm: NDArray[Any]
    gate: NDArray[Any]
    up: NDArray[Any]
    down: NDArray[Any]

    @classmethod
    def read(cls, checkpoint: Checkpoint, layer: int) -> LayerWeights:
        def tensor(name: str) -> NDArray[Any]:
            return checkpoint.read(f"language_model.model.layers.{layer}.{name}")

        return cls(
            input_norm=tensor("input_layernorm.weight"),
            q=tensor("self_attn.q_proj.weight"),
            k=tensor("self_attn.k_proj.weight"),
            v=tensor("self_attn.v_proj.weight"),
            q_bias=tensor("self_attn.q_proj.bias"),
            k_bias=tensor("self_attn.k_proj.bias"),
            v_bias=tensor("self_attn.v_proj.bias"),
            o=tensor("self_attn.o_proj.weight"),
            post_norm=tensor("post_attention_layernorm.weight"),
            gate=tensor("mlp.gate_proj.weight"),
            up=tensor("mlp.up_proj.weight"),
            down=tensor("mlp.down_proj.weight"),
        )


def decoder_layer(
    hidden: Floats, lengths: Sequence[int], weights: LayerWeights, config: DecoderConfig, observe: Observe
) -> Floats:
    """[tokens, hidden] through one layer. ``lengths`` are the packed sequences' token counts, in order.

    ``observe`` gets "qkv", "dense", "fc" and "proj" (what enters those linears; fc and gate share theirs), and
    "k_cache" and "v_cache".
    """
    x = _rms_norm(hidden, weights.input_norm, config.norm_eps)
    observe("qkv", x)
    positions = np.concatenate([np.arange(length) for length in lengths])
    cos, sin = _rotary(positions, config)
    q = _rotate(_heads(_linear(x, weights.q, weights.q_bias), config.num_heads), cos, sin)
    k = _rotate(_heads(_linear(x, weights.k, weights.k_bias), config.num_kv_heads), cos, sin)
    v = _heads(_linear(x, weights.v, weights.v_bias), config.num_kv_heads)
    observe("k_cache", k)
    observe("v_cache", v)
    attended = np.empty_like(q)
    start = 0
    for length in lengths:
        own = slice(start, start + length)
        _attend(q[own], k[own], v[own], attended[own])
        start += length
    attended = attended.reshape(len(hidden), config.q_size)
    observe("dense", attended)
    hidden = hidden + _linear(attended, weights.o)
    x = _rms_norm(hidden, weights.post_norm, config.norm_eps)
    observe("fc", x)
    gate = _linear(x, weights.gate)
    with np.errstate(over="ignore"):  # exp of a large negative gate overflows to infinity: the gate is then zero
        gate /= 1 + np.exp(-gate)
    gate *= _linear(x, weights.up)
    observe("proj", gate)
    return hidden + _linear(gate, weights.down)


def _linear(x: Floats, weight: NDArray[Any], bias: NDArray[Any] | None = None) -> Floats:
    out = np.empty((len(x), len(weight)), np.float32)
    for start in range(0, len(weight), _WEIGHT_ROWS):
        rows = slice(start, start + _WEIGHT_ROWS)
        np.matmul(x, weight[rows].astype(np.float32).T, out=out[:, rows])
    if bias is not None:
        out += bias.astype(np.float32)
    return out


def _rms_norm(x: Floats, weight: NDArray[Any], eps: float) -> Floats:
    variance = np.mean(np.square(x), axis=-1, keepdims=True)
    normed: Floats = x / np.sqrt(variance + np.float32(eps)) * weight.astype(np.float32)
    return normed


def _heads(x: Floats, count: int) -> Floats:
    return x.reshape(len(x), count, -1)


def _rotary(positions: NDArray[np.int64], config: DecoderConfig) -> tuple[Floats, Floats]:
    """Cosine and sine, [tokens, 1, head_dim / 2] each, in float32 throughout as the decoder engines compute them."""
    exponents = np.arange(0, config.head_dim, 2, dtype=np.float32) / np.float32(config.head_dim)
    frequencies = np.float32(1) / np.float32(config.rope_theta) ** exponents
    angles = (positions.astype(np.float32)[:, None] * frequencies)[:, None, :]
    return np.cos(angles), np.sin(angles)


def _rotate(x: Floats, cos: Floats, sin: Floats) -> Floats:
    """Half-split layout: element i is paired with element i + head_dim / 2."""
    first, second = np.split(x, 2, axis=-1)
    return np.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)


def _attend(q: Floats, k: Floats, v: Floats, out: Floats) -> None:
    """Causal attention of one sequence: q and out [n, heads, d], k and v [n, kv_heads, d]."""
    length, num_heads, head_dim = q.shape
    group = num_heads // k.shape[1]
    q = q / np.float32(np.sqrt(head_dim))
    for kv_head in range(k.shape[1]):
        own = slice(kv_head * group, (kv_head + 1) * group)
        for start in range(0, length, _QUERY_ROWS):
            end = min(start + _QUERY_ROWS, length)
            scores = q[start:end, own].transpose(1, 0, 2) @ k[:end, kv_head].T
            future = np.arange(end)[None, :] > np.arange(start, end)[:, None]
            scores[:, future] = -np.inf
            scores -= scores.max(axis=-1, keepdims=True)
            np.exp(scores, out=scores)
            scores /= scores.sum(axis=-1, keepdims=True)
            out[start:end, own] = (scores @ v[:end, kv_head]).transpose(1, 0, 2)
