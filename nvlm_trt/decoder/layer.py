"""One Qwen2 decoder layer, for calibration and the checks that go with it: readable first, and small in memory.

Several sequences are packed behind each other in one [tokens, hidden] array, so a weight is widened once for all of
them; only attention uses the sequence boundaries. The largest temporary is the activation between the MLP's linears. A
layer can have some of its linear groups rounded to FP8, weights and inputs, as in the engine; everything else stays
exact, which shows what a group costs.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nvlm_trt.checkpoint.base import Checkpoint
from nvlm_trt.decoder.layer_ops import LayerOps
from nvlm_trt.decoder.linear_groups import GroupKind
from nvlm_trt.model.config import DecoderConfig

__all__ = ["LAYER_TENSORS", "DecoderLayer", "Fp8Scales", "LayerWeights", "Observe", "layer_tensor"]

Array = Any  # of the LayerOps in use
Observe = Callable[[str, Array], None]

LAYER_TENSORS = {
    "input_norm": "input_layernorm.weight",
    "q": "self_attn.q_proj.weight",
    "k": "self_attn.k_proj.weight",
    "v": "self_attn.v_proj.weight",
    "q_bias": "self_attn.q_proj.bias",
    "k_bias": "self_attn.k_proj.bias",
    "v_bias": "self_attn.v_proj.bias",
    "o": "self_attn.o_proj.weight",
    "post_norm": "post_attention_layernorm.weight",
    "gate": "mlp.gate_proj.weight",
    "up": "mlp.up_proj.weight",
    "down": "mlp.down_proj.weight",
}


def layer_tensor(layer: int, field: str) -> str:
    """The release's name of a field of ``LayerWeights``."""
    return f"language_model.model.layers.{layer}.{LAYER_TENSORS[field]}"


@dataclass(frozen=True, slots=True)
class LayerWeights:
    """One layer's tensors in their stored dtype; linears are [out, in]."""

    input_norm: Array
    q: Array
    k: Array
    v: Array
    q_bias: Array
    k_bias: Array
    v_bias: Array
    o: Array
    post_norm: Array
    gate: Array
    up: Array
    down: Array

    @classmethod
    def read(cls, checkpoint: Checkpoint, layer: int, put: Callable[[NDArray[Any]], Array]) -> LayerWeights:
        return cls(**{field: put(checkpoint.read(layer_tensor(layer, field))) for field in LAYER_TENSORS})

    @staticmethod
    def drop(checkpoint: Checkpoint, layer: int) -> None:
        """Release the pages that reading has filled."""
        for field in LAYER_TENSORS:
            checkpoint.drop_pages(layer_tensor(layer, field))

    def of(self, kind: GroupKind) -> tuple[Array, ...]:
        """The weights of one linear group."""
        return {
            GroupKind.QKV: (self.q, self.k, self.v),
            GroupKind.DENSE: (self.o,),
            GroupKind.FC: (self.gate, self.up),
            GroupKind.PROJ: (self.down,),
        }[kind]


@dataclass(frozen=True, slots=True)
class Fp8Scales:
    """Multipliers that restore a linear group's input and its weights."""

    activation: np.float32
    weight: np.float32


@dataclass(frozen=True, slots=True)
class DecoderLayer:
    """A layer and the arithmetic it runs on; the groups in ``rounded`` compute as FP8 linears do."""

    ops: LayerOps
    config: DecoderConfig
    weights: LayerWeights
    rounded: Mapping[GroupKind, Fp8Scales] = dataclasses.field(default_factory=dict)

    def with_rounded(self, rounded: Mapping[GroupKind, Fp8Scales]) -> DecoderLayer:
        return dataclasses.replace(self, rounded=rounded)

    def run(self, hidden: Array, lengths: Sequence[int], observe: Observe = lambda _name, _values: None) -> Array:
        """[tokens, hidden] through the layer. ``lengths`` are the packed sequences' token counts, in order.

        ``observe`` gets "qkv", "dense", "fc" and "proj" (what enters those groups), and "query", "k_cache" and
        "v_cache": queries after rotation, keys and values as they would be cached.
        """
        x = self.attention_input(hidden)
        observe("qkv", x)
        q, k, v = self.rotated(*self.qkv(x), lengths)
        observe("query", q)
        observe("k_cache", k)
        observe("v_cache", v)
        attended = self.attended(q, k, v, lengths)
        observe("dense", attended)
        hidden = hidden + self.dense(attended)
        x = self.mlp_input(hidden)
        observe("fc", x)
        inner = self.inner(x)
        observe("proj", inner)
        return hidden + self.proj(inner)

    def attention_input(self, hidden: Array) -> Array:
        return self.ops.rms_norm(hidden, self.weights.input_norm, self.config.norm_eps)

    def qkv(self, x: Array) -> tuple[Array, Array, Array]:
        """[tokens, heads, head_dim] each, before rotation."""
        weights, config = self.weights, self.config
        q, k, v = self._linears(GroupKind.QKV, x, (weights.q_bias, weights.k_bias, weights.v_bias))
        heads, kv_heads, head_dim = config.num_heads, config.num_kv_heads, config.head_dim
        return q.reshape(-1, heads, head_dim), k.reshape(-1, kv_heads, head_dim), v.reshape(-1, kv_heads, head_dim)

    def rotated(self, q: Array, k: Array, v: Array, lengths: Sequence[int]) -> tuple[Array, Array, Array]:
        return self.ops.rotate(q, lengths, self.config), self.ops.rotate(k, lengths, self.config), v

    def attended(self, q: Array, k: Array, v: Array, lengths: Sequence[int]) -> Array:
        return self.ops.attend(q, k, v, lengths).reshape(-1, self.config.q_size)

    def dense(self, attended: Array) -> Array:
        return self._linears(GroupKind.DENSE, attended)[0]

    def mlp_input(self, hidden: Array) -> Array:
        return self.ops.rms_norm(hidden, self.weights.post_norm, self.config.norm_eps)

    def gate_up(self, x: Array) -> tuple[Array, Array]:
        gate, up = self._linears(GroupKind.FC, x)
        return gate, up

    def inner(self, x: Array) -> Array:
        return self.ops.silu_product(*self.gate_up(x))

    def proj(self, inner: Array) -> Array:
        return self._linears(GroupKind.PROJ, inner)[0]

    def _linears(self, kind: GroupKind, x: Array, biases: Sequence[Array | None] = ()) -> list[Array]:
        weights = self.weights.of(kind)
        scales, weight_scale = self.rounded.get(kind), None
        if scales is not None:
            x, weight_scale = self.ops.fake_fp8(x, scales.activation), scales.weight
        pairs = zip(weights, biases or [None] * len(weights), strict=True)
        return [self.ops.linear(x, weight, bias, weight_scale) for weight, bias in pairs]
