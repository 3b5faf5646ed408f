"""The decoder as an ONNX graph, one step of it: embedded rows in, last row's logits out, keys and values in place.

    rows [B,S,H] ─► (norm ─► qkv ─► GroupQueryAttention ─► dense ─► norm ─► fc, gate ─► proj) per layer ─► logits [B,V]

Each linear computes what an FP8 engine does, ``(e4m3(x / x_scale) @ stored.T) * (x_scale * w_scale)``. The product of
two e4m3 numbers is exact in float32, so only the sum's order differs from the hardware's. Weights enter as FLOAT8E4M3FN
initializers in the checkpoint's own layout; Cast and Transpose fold when the session loads them, and the scale folds
into the MatMul.

**Rounding to e4m3 by arithmetic.** ONNX Runtime's QuantizeLinear is exact but goes element by element, which took 40 %
of a batched step. ``e4m3`` does it with six vectorised float32 operations. Subtracted from a number about 2^20 times as
large, x is rounded to that number's spacing, and subtracting that from the number again leaves x with its four leading
bits, ties to even. The factor is 2^20 - 1, because with 2^20 or more the difference can pass a power of two, where the
spacing doubles. Where e4m3 is subnormal the large number is 1.5 * 2^14, whose spacing is e4m3's, 2^-9. The result
equals a cast on every float32 from 2^-13 to 512, of both signs.

**An FP8 cache** is emulated: keys, after rotation, and values are rounded as they would be stored, and kept in float32.
TensorRT-LLM's FP8 attention also rounds queries and probabilities; that is not done here.

**A row's bits do not depend on its company.** This was measured on ONNX Runtime 1.31 (AVX-512, one and two threads),
and a test keeps it true. MatMul with a constant right side gives a row the same bits for every number of rows from 1 to
300, because the packed kernel sums along K in fixed blocks. Norms and SiLU work row by row. GroupQueryAttention treats
each (sequence, head) alone, so neither batch size, nor neighbours, nor stale rows beyond the length have an effect. One
thing does: attention over one row (S = 1) takes another kernel than over several, about 1e-7 apart. Hence the
scheduler's rule that a prompt is cut into the same chunks whoever else is running, and that generated tokens always go
one by one.

**What quantised activations cost in agreement.** Two correct implementations differ in float32's last bit, and an
activation that close to the border of two e4m3 numbers falls to one side in one and to the other in the other. On a
small random decoder with prompts of 20 to 80 positions, 5 of 16 prompts met one such value here, 13 of 16 in a plain
float32 forward, both against float64, and it moved the logits by up to 0.2 of their deviation. Without quantised
activations all agree to 5e-6.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper

from nvlm_trt.embedded.config import CheckpointConfig, linear_shapes
from nvlm_trt.graph_writer import GraphWriter

__all__ = ["LENGTHS", "LOGITS", "ROTARY", "ROWS", "TOTAL", "decoder_graph"]

# Inputs, the logits, and the two float32 [max_seq_len, head_dim / 2] tables of cosines and sines, an initializer each.
ROWS, LENGTHS, TOTAL, LOGITS = "rows", "last_positions", "total_length", "logits"
ROTARY = ("rotary.cos", "rotary.sin")

_OPSET = 20
_ONNX_DTYPES = {"BF16": TensorProto.BFLOAT16, "F16": TensorProto.FLOAT16}


def decoder_graph(config: CheckpointConfig, max_seq_len: int, quantize_activations: bool) -> onnx.ModelProto:
    """Inputs ``rows`` float32 [B, S, hidden], ``last_positions`` int32 [B] (of each sequence's last row),
    ``total_length`` int32 [1] (of the longest), then keys and values per layer, float32 [B, kv_heads, max_seq_len,
    head_dim].

    Outputs ``logits`` float32 [B, vocab] and the same keys and values in the same order, to be bound to the same
    memory. All weights are external initializers under the checkpoint's names.
    """
    return _DecoderGraph(config, max_seq_len, quantize_activations).write()


class _DecoderGraph:
    def __init__(self, config: CheckpointConfig, max_seq_len: int, quantize_activations: bool) -> None:
        self.config = config.decoder
        self.dtype = _ONNX_DTYPES[config.dtype]
        self.quantized = config.quantized
        self.fp8_cache = config.fp8_cache
        self.max_seq_len = max_seq_len
        self.quantize_activations = quantize_activations
        self.shapes = linear_shapes(config.decoder)
        self.writer = GraphWriter()
        self.node = self.writer.node
        self.past: list[str] = []
        self.present: list[str] = []

    def write(self) -> onnx.ModelProto:
        config, node = self.config, self.node
        hidden = ROWS
        for index in range(config.num_layers):
            with self.writer.scope(f"layers.{index}"):
                hidden = self.layer(hidden, index)
        hidden = self.norm(hidden, "transformer.ln_f.weight")
        head = node("Transpose", self.plain("lm_head.weight", config.vocab_size, config.hidden_size), perm=[1, 0])
        self.writer.rename(node("MatMul", hidden, head), LOGITS)
        cache = ["batch", config.num_kv_heads, self.max_seq_len, config.head_dim]
        inputs = [
            helper.make_tensor_value_info(ROWS, TensorProto.FLOAT, ["batch", "rows", config.hidden_size]),
            helper.make_tensor_value_info(LENGTHS, TensorProto.INT32, ["batch"]),
            helper.make_tensor_value_info(TOTAL, TensorProto.INT32, [1]),
            *(helper.make_tensor_value_info(name, TensorProto.FLOAT, cache) for name in self.past),
        ]
        outputs = [
            helper.make_tensor_value_info(LOGITS, TensorProto.FLOAT, ["batch", config.vocab_size]),
            *(helper.make_tensor_value_info(name, TensorProto.FLOAT, cache) for name in self.present),
        ]
        model = self.writer.model("nvlm_decoder", inputs, outputs, _OPSET)
        model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
        return model

    def layer(self, hidden: str, index: int) -> str:
        prefix = f"transformer.layers.{index}"
        branch = self.attention(self.norm(hidden, f"{prefix}.input_layernorm.weight"), f"{prefix}.attention")
        if index == self.config.num_layers - 1:  # from here on only the last row leads to the logits
            last = self.writer.constant(np.array(-1, np.int64))
            hidden, branch = (self.node("Gather", value, last, axis=1) for value in (hidden, branch))
        hidden = self.node("Add", hidden, *self.linears(branch, f"{prefix}.attention.dense"))
        branch = self.mlp(self.norm(hidden, f"{prefix}.post_layernorm.weight"), f"{prefix}.mlp")
        return self.node("Add", hidden, branch)

    def attention(self, hidden: str, prefix: str) -> str:
        config, writer = self.config, self.writer
        with writer.scope("attention"):
            (qkv,) = self.linears(hidden, f"{prefix}.qkv")
            qkv = self.node("Add", qkv, self.plain(f"{prefix}.qkv.bias", config.qkv_size))
            past = [f"{prefix}.past_{kind}" for kind in ("keys", "values")]
            rotary = [
                writer.parameter(name, (self.max_seq_len, config.head_dim // 2), TensorProto.FLOAT) for name in ROTARY
            ]
            scale = f"{prefix}.kv_cache_scaling_factor"
            heads = self.cached_as_fp8(qkv, rotary, scale) if self.fp8_cache else (qkv, "", "")
            mixed, *present = writer.nodes(
                "GroupQueryAttention",
                *(*heads, *past, LENGTHS, TOTAL, *([] if self.fp8_cache else rotary)),
                outputs=3,
                domain="com.microsoft",
                num_heads=config.num_heads,
                kv_num_heads=config.num_kv_heads,
                do_rotary=int(not self.fp8_cache),
                rotary_interleaved=0,
            )
        self.past += past
        self.present += present
        return mixed

    def cached_as_fp8(self, qkv: str, rotary: list[str], scale: str) -> tuple[str, str, str]:
        """Rotated queries, and rotated keys and values as e4m3 restores them."""
        config, node, writer = self.config, self.node, self.writer
        sizes = writer.integers(config.q_size, config.kv_size, config.kv_size)
        query, key, value = writer.nodes("Split", qkv, sizes, outputs=3, axis=-1)
        query, key = (
            node("RotaryEmbedding", rows, self.positions(), *rotary, domain="com.microsoft") for rows in (query, key)
        )
        by = self.scale(scale)
        key, value = (node("Mul", self.e4m3(node("Div", rows, by)), by) for rows in (key, value))
        return query, key, value

    def positions(self) -> str:
        """int64 [B, S], the positions of the rows in their sequences, computed from the last one's."""
        node, axis = self.node, self.writer.integers(1)
        rows = node("Squeeze", node("Shape", ROWS, start=1, end=2), self.writer.integers(0))
        zero, one = (self.writer.constant(np.array(value, np.int64)) for value in (0, 1))
        back = node("Sub", node("Range", zero, rows, one), node("Sub", rows, one))
        return node("Add", node("Unsqueeze", node("Cast", LENGTHS, to=TensorProto.INT64), axis), back)

    def mlp(self, hidden: str, prefix: str) -> str:
        node = self.node
        with self.writer.scope("mlp"):
            fc, gate = self.linears(hidden, f"{prefix}.fc", f"{prefix}.gate")
            hidden = node("Mul", node("Mul", fc, node("Sigmoid", fc)), gate)
            return self.linears(hidden, f"{prefix}.proj")[0]

    def norm(self, hidden: str, weight: str) -> str:
        """Root-mean-square norm. ONNX Runtime fuses it with the Add before it."""
        weight = self.plain(weight, self.config.hidden_size)
        return self.node("SimplifiedLayerNormalization", hidden, weight, axis=-1, epsilon=self.config.norm_eps)

    def linears(self, hidden: str, *prefixes: str) -> list[str]:
        """Linears over one input, which is quantised once, under the larger of their scales: the one that
        TensorRT-LLM's builder keeps when it fuses fc and gate. All of them are quantised or none.
        """
        node, restored_by = self.node, None
        if prefixes[0] not in self.quantized:
            weights = [self.plain(f"{prefix}.weight", *self.shapes[prefix.split(".", 3)[3]]) for prefix in prefixes]
            return [node("MatMul", hidden, node("Transpose", weight, perm=[1, 0])) for weight in weights]
        if self.quantize_activations:
            scales = [self.scale(f"{prefix}.activation_scaling_factor") for prefix in prefixes]
            restored_by = node("Max", *scales) if len(scales) > 1 else scales[0]
            hidden = self.e4m3(node("Div", hidden, restored_by))
        products = []
        for prefix in prefixes:
            shape = self.shapes[prefix.split(".", 3)[3]]
            stored = self.writer.parameter(f"{prefix}.weight", shape, TensorProto.FLOAT8E4M3FN)
            weight = node("Transpose", node("Cast", stored, to=TensorProto.FLOAT), perm=[1, 0])
            scale = self.scale(f"{prefix}.weights_scaling_factor")
            scale = node("Mul", scale, restored_by) if restored_by else scale
            products.append(node("Mul", node("MatMul", hidden, weight), scale))
        return products

    def e4m3(self, hidden: str) -> str:
        """The nearest e4m3 number, ties to even, saturating at 448."""
        node, number = self.node, self.number
        hidden = node("Clip", hidden, number(-448), number(448))
        large = node("Max", node("Mul", node("Abs", hidden), number(2**20 - 1)), number(1.5 * 2**14))
        return node("Sub", large, node("Sub", large, hidden))

    def number(self, value: float) -> str:
        return self.writer.constant(np.array(value, np.float32))

    def scale(self, name: str) -> str:
        return self.writer.parameter(name, (1,), TensorProto.FLOAT)

    def plain(self, name: str, *shape: int) -> str:
        return self.node("Cast", self.writer.parameter(name, shape, self.dtype), to=TensorProto.FLOAT)
