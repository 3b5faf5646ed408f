"""NVLM-D's vision half as an ONNX graph, written operator by operator from the config.

    tiles UINT8 [tiles, S, S, 3] ─► scale, mean, std ─► patches ─► InternViT ─► pixel shuffle ─► projector ─► rows

It is written, not traced: the file is small and the same each time, needs no torch and no weights, and each initializer
has its checkpoint tensor's name. The choices that a reader may wonder about:

* **Weights lie as in the checkpoint**, ``[out, in]``, with a Transpose in front of each MatMul. Engines fold it when
  they load; in exchange the bytes can be mapped from the checkpoint's own files.
* **The patch embedding is a MatMul.** Its kernel equals its stride, so it is a linear layer over each patch, and Conv
  has no bfloat16 in ONNX below opset 22. Patches are laid out channel first, as the kernel ``[out, 3, P, P]`` is.
* **Strongly typed.** Everything is in the graph's dtype except the pixel arithmetic and the statistics of the norms,
  which are float32 as in the release's modeling code. The softmax scale is in the float32 part of the q norm: the
  constant is not rounded, and it costs no kernel of its own.
* **Softmax is in the graph's dtype.** TensorRT fuses MatMul, Softmax, MatMul without casts between into one attention
  kernel, which keeps its sums in float32 inside anyway.
* **No dummy heads.** The release pads 25 heads to 32 with zeros so that 8 GPUs can share them; they add exactly
  nothing, and without them the q and k norms divide by their own width again.
* **FP8 where asked.** A linear with scales has QuantizeLinear and DequantizeLinear on its input and DequantizeLinear on
  its e4m3 weight, both scales in the graph's dtype. TensorRT turns that form into an FP8 GEMM. The rest of the graph
  stays as it is, attention included.
* **Opset 20** has GELU as one operator, is read by every TensorRT 10, and gives fewer kernels there than the attention
  operator of opset 23.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import ml_dtypes
import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from nvlm_trt.graph_writer import GraphWriter
from nvlm_trt.model.config import VisionConfig
from nvlm_trt.vision.dtype import NUMPY_DTYPE, ONNX_DTYPE, GraphDtype
from nvlm_trt.vision.fp8 import LinearScales

__all__ = ["INPUT", "OPSET", "OUTPUT", "VisionGraph", "parameters", "vision_graph"]

INPUT, OUTPUT = "tiles", "rows"
OPSET = 20

# ImageNet's statistics, which the release's preprocessing uses.
_MEAN = (0.485, 0.456, 0.406)
_STD = (0.229, 0.224, 0.225)


def vision_graph(
    config: VisionConfig,
    dtype: GraphDtype = "bfloat16",
    stored: Mapping[str, GraphDtype] | None = None,
    scales: Mapping[str, LinearScales] | None = None,
) -> onnx.ModelProto:
    """The graph for ``config``, computing in ``dtype``.

    Input ``tiles`` UINT8 [tiles, S, S, 3], RGB; output ``rows`` in ``dtype``, [tiles, tokens_per_tile, output_size];
    only the number of tiles is dynamic. Every weight is an external initializer, in ``dtype`` unless ``stored`` names
    another one for it: that one is then cast inside the graph. A linear in ``scales``, by its name without ``.weight``,
    computes in FP8 and its weight is e4m3.
    """
    return VisionGraph(config, dtype, stored or {}, scales or {}).write()


def parameters(model: onnx.ModelProto) -> dict[str, onnx.TensorProto]:
    """The initializers whose bytes lie outside the graph."""
    outside = TensorProto.EXTERNAL
    return {tensor.name: tensor for tensor in model.graph.initializer if tensor.data_location == outside}


class VisionGraph:
    """The graph's parts as methods that write them."""

    def __init__(
        self,
        config: VisionConfig,
        dtype: GraphDtype,
        stored: Mapping[str, GraphDtype],
        scales: Mapping[str, LinearScales],
    ) -> None:
        self.config = config
        self.dtype = ONNX_DTYPE[dtype]
        self.scale_dtype = NUMPY_DTYPE[dtype]
        self.stored = stored
        self.scales = scales
        self.writer = GraphWriter()
        self.node = self.writer.node
        self.integers = self.writer.integers

    def write(self) -> onnx.ModelProto:
        config, writer = self.config, self.writer
        with writer.scope("embeddings"):
            hidden = self.embeddings(INPUT)
        for index in range(config.num_layers):
            with writer.scope(f"layers.{index}"):
                hidden = self.layer(hidden, f"vision_model.encoder.layers.{index}")
        with writer.scope("pixel_shuffle"):
            hidden = self.pixel_shuffle(hidden)
        with writer.scope("projector"):
            writer.rename(self.projector(hidden), OUTPUT)
        side = config.image_size
        tiles = helper.make_tensor_value_info(INPUT, TensorProto.UINT8, ["tiles", side, side, 3])
        rows = helper.make_tensor_value_info(OUTPUT, self.dtype, ["tiles", config.tokens_per_tile, config.output_size])
        return writer.model("nvlm_vision", [tiles], [rows], OPSET)

    def embeddings(self, tiles: str) -> str:
        """Pixels to ``[tiles, patches + 1, hidden]``: the class token first, positions added."""
        config, node = self.config, self.node
        patch, side, width = config.patch_size, config.patches_per_side, config.hidden_size
        pixels = node("Cast", tiles, to=TensorProto.FLOAT)
        pixels = node("Div", pixels, self.floats(255))
        pixels = node("Div", node("Sub", pixels, self.floats(*_MEAN)), self.floats(*_STD))
        pixels = node("Cast", pixels, to=self.dtype) if self.dtype != TensorProto.FLOAT else pixels
        pixels = node("Reshape", pixels, self.integers(0, side, patch, side, patch, 3))
        pixels = node("Transpose", pixels, perm=[0, 1, 3, 5, 2, 4])
        patches = node("Reshape", pixels, self.integers(0, side * side, 3 * patch * patch))
        prefix = "vision_model.embeddings"
        kernel = self.weight(f"{prefix}.patch_embedding.weight", width, 3, patch, patch)
        kernel = node("Transpose", node("Flatten", kernel, axis=1), perm=[1, 0])
        patches = node("MatMul", patches, kernel)
        patches = node("Add", patches, self.weight(f"{prefix}.patch_embedding.bias", width))
        tile_count = node("Shape", tiles, start=0, end=1)
        token_shape = node("Concat", tile_count, self.integers(1, width), axis=0)
        token = node("Expand", self.weight(f"{prefix}.class_embedding", 1, 1, width), token_shape)
        tokens = node("Concat", token, patches, axis=1)
        positions = self.weight(f"{prefix}.position_embedding", 1, config.num_positions, width)
        return node("Add", tokens, positions)

    def layer(self, hidden: str, prefix: str) -> str:
        """One InternViT layer: two branches, each normed before and scaled per channel after."""
        writer, width = self.writer, self.config.hidden_size
        with writer.scope("norm1"):
            branch = self.rms_norm(hidden, f"{prefix}.norm1.weight")
        with writer.scope("attention"):
            branch = self.attention(branch, f"{prefix}.attn")
        branch = self.node("Mul", branch, self.weight(f"{prefix}.ls1", width))
        hidden = self.node("Add", hidden, branch)
        with writer.scope("norm2"):
            branch = self.rms_norm(hidden, f"{prefix}.norm2.weight")
        with writer.scope("mlp"):
            branch = self.mlp(branch, f"{prefix}.mlp")
        branch = self.node("Mul", branch, self.weight(f"{prefix}.ls2", width))
        return self.node("Add", hidden, branch)

    def attention(self, hidden: str, prefix: str) -> str:
        config, node = self.config, self.node
        width, tokens = config.hidden_size, config.num_positions
        heads = self.integers(0, tokens, config.num_heads, config.head_dim)
        qkv = self.linear(hidden, f"{prefix}.qkv", width, 3 * width, bias=False)
        query, key, value = self.writer.nodes("Split", qkv, outputs=3, axis=-1, num_outputs=3)
        with self.writer.scope("q_norm"):
            query = self.rms_norm(query, f"{prefix}.q_norm.weight", scale=config.head_dim**-0.5)
        with self.writer.scope("k_norm"):
            key = self.rms_norm(key, f"{prefix}.k_norm.weight")
        query = node("Transpose", node("Reshape", query, heads), perm=[0, 2, 1, 3])
        key = node("Transpose", node("Reshape", key, heads), perm=[0, 2, 3, 1])
        value = node("Transpose", node("Reshape", value, heads), perm=[0, 2, 1, 3])
        weights = node("Softmax", node("MatMul", query, key), axis=-1)
        mixed = node("Transpose", node("MatMul", weights, value), perm=[0, 2, 1, 3])
        mixed = node("Reshape", mixed, self.integers(0, tokens, width))
        return self.linear(mixed, f"{prefix}.proj", width, width)

    def mlp(self, hidden: str, prefix: str) -> str:
        width, inner = self.config.hidden_size, self.config.intermediate_size
        hidden = self.node("Gelu", self.linear(hidden, f"{prefix}.fc1", width, inner))
        return self.linear(hidden, f"{prefix}.fc2", inner, width)

    def rms_norm(self, hidden: str, weight: str, scale: float = 1.0) -> str:
        """Root-mean-square norm over the last axis, which for q and k spans all heads."""
        node, narrow = self.node, self.dtype != TensorProto.FLOAT
        wide = node("Cast", hidden, to=TensorProto.FLOAT) if narrow else hidden
        variance = node("ReduceMean", node("Mul", wide, wide), self.integers(-1), keepdims=1)
        deviation = node("Sqrt", node("Add", variance, self.floats(self.config.norm_eps)))
        normed = node("Div", wide, deviation)
        normed = node("Mul", normed, self.floats(scale)) if scale != 1.0 else normed
        normed = node("Cast", normed, to=self.dtype) if narrow else normed
        return node("Mul", normed, self.weight(weight, self.config.hidden_size))

    def pixel_shuffle(self, hidden: str) -> str:
        """Drop the class token, then make one token of every 2x2 patches, row by row ("v2" order)."""
        config, node = self.config, self.node
        half, width = config.patches_per_side // 2, config.hidden_size
        patches = node("Slice", hidden, self.integers(1), self.integers(config.num_positions), self.integers(1))
        patches = node("Reshape", patches, self.integers(0, half, 2, half, 2, width))
        patches = node("Transpose", patches, perm=[0, 1, 3, 2, 4, 5])
        return node("Reshape", patches, self.integers(0, half * half, config.shuffled_width))

    def projector(self, hidden: str) -> str:
        config, width = self.config, self.config.shuffled_width
        scale, bias = self.weight("mlp1.0.weight", width), self.weight("mlp1.0.bias", width)
        hidden = self.node("LayerNormalization", hidden, scale, bias, axis=-1, epsilon=config.projector_norm_eps)
        hidden = self.linear(hidden, "mlp1.1", width, config.projector_hidden_size, bias=False)
        hidden = self.node("Gelu", hidden)
        return self.linear(hidden, "mlp1.3", config.projector_hidden_size, config.output_size, bias=False)

    def linear(self, hidden: str, prefix: str, in_width: int, out_width: int, bias: bool = True) -> str:
        with self.writer.scope(prefix.rpartition(".")[2]):
            if prefix in self.scales:
                hidden, weight = self.fp8_operands(hidden, prefix, out_width, in_width)
            else:
                weight = self.weight(f"{prefix}.weight", out_width, in_width)
            hidden = self.node("MatMul", hidden, self.node("Transpose", weight, perm=[1, 0]))
            return self.node("Add", hidden, self.weight(f"{prefix}.bias", out_width)) if bias else hidden

    def fp8_operands(self, hidden: str, prefix: str, *shape: int) -> tuple[str, str]:
        """A linear's input rounded to e4m3 and its weight restored from it."""
        scales, zero = self.scales[prefix], self.writer.constant(np.zeros((), ml_dtypes.float8_e4m3fn))
        input_scale, weight_scale = (
            self.writer.constant(np.array(scale, self.scale_dtype), name=f"{prefix}.{kind}_scale")
            for kind, scale in (("input", scales.input), ("weight", scales.weight))
        )
        stored = self.writer.parameter(f"{prefix}.weight", shape, TensorProto.FLOAT8E4M3FN)
        weight = self.node("DequantizeLinear", stored, weight_scale)
        rounded = self.node("QuantizeLinear", hidden, input_scale, zero)
        return self.node("DequantizeLinear", rounded, input_scale), weight

    def weight(self, name: str, *shape: int) -> str:
        """A checkpoint tensor in the graph's dtype."""
        stored = ONNX_DTYPE[self.stored[name]] if name in self.stored else self.dtype
        self.writer.parameter(name, shape, stored)
        return name if stored == self.dtype else self.node("Cast", name, to=self.dtype)

    def floats(self, *values: float) -> str:
        array: NDArray[Any] = np.array(values, np.float32)
        return self.writer.constant(array)
