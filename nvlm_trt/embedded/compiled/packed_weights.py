"""The checkpoint's tensors as the step's code reads them: matrices in panels, in their own bytes; vectors in float32.

Apart from embedding rows, everything that is read later is made here, and the checkpoint's pages are released.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from nvlm_trt.checkpoint.tensor_spec import TensorSpec
from nvlm_trt.embedded.checkpoint import DecoderCheckpoint
from nvlm_trt.embedded.compiled.layout import LAYER, LINEAR, Layout
from nvlm_trt.embedded.compiled.memory import Arena, lines
from nvlm_trt.embedded.compiled.number_format import Float8
from nvlm_trt.embedded.compiled.vector_writer import FLOAT
from nvlm_trt.embedded.config import linear_shapes
from nvlm_trt.errors import ArtefactError

__all__ = ["PackedWeights"]


class PackedWeights:
    """``layers`` is LAYER [num_layers] without the caches; ``head`` a LINEAR, ``head_norm`` float32.

    Raises ``ArtefactError`` E-ARTEFACT-DECODER for e4m3 weights that hold NaN.
    """

    def __init__(self, checkpoint: DecoderCheckpoint, layout: Layout, quantize_activations: bool) -> None:
        self._checkpoint, self._layout = checkpoint, layout
        self._quantize_activations = quantize_activations
        self._arena = Arena(sum(self._packed_bytes(spec) for spec in checkpoint.config.tensors()))
        config = checkpoint.config.decoder
        self.layers = np.zeros(config.num_layers, LAYER)
        for index, layer in enumerate(self.layers):
            prefix = f"transformer.layers.{index}."
            layer["norm"] = self._vector(f"{prefix}input_layernorm.weight")
            layer["mlp_norm"] = self._vector(f"{prefix}post_layernorm.weight")
            layer["bias"] = self._vector(f"{prefix}attention.qkv.bias")
            if checkpoint.config.fp8_cache:
                layer["cache_scale"][0] = checkpoint.scale(f"{prefix}attention.kv_cache_scaling_factor")
            for name in linear_shapes(config):
                layer[name.rpartition(".")[2]] = self._linear(prefix, name)
        self.head = np.zeros((), LINEAR)
        self.head["panels"], self.head["restore"] = self._matrix("lm_head.weight"), 1
        self.head_norm = self._vector("transformer.ln_f.weight")

    def _packed_bytes(self, spec: TensorSpec) -> int:
        if spec.name.endswith(("_scaling_factor", "vocab_embedding.weight")):
            return 0
        width, *depth = spec.shape
        return lines(self._layout.padded(width) * (depth[0] * spec.numpy_dtype.itemsize if depth else FLOAT))

    def _linear(self, prefix: str, name: str) -> Any:
        linear, checkpoint, module = np.zeros((), LINEAR), self._checkpoint, prefix + name
        linear["panels"], linear["restore"] = self._matrix(f"{module}.weight"), 1
        if module in checkpoint.config.quantized:
            linear["fp8"], scale = 1, checkpoint.scale(f"{module}.weights_scaling_factor")
            if self._quantize_activations:
                # fc and gate share the larger scale, as in ``graph``.
                sharing = ("mlp.fc", "mlp.gate") if name in ("mlp.fc", "mlp.gate") else (name,)
                quantise = max(checkpoint.scale(f"{prefix}{one}.activation_scaling_factor") for one in sharing)
                linear["quantise"], scale = quantise, scale * quantise
            linear["restore"] = scale * np.float32(Float8.factor)
        return linear

    def _matrix(self, name: str) -> int:
        matrix = self._checkpoint.read(name)
        raw: NDArray[Any] = matrix.view(np.uint8 if matrix.dtype.itemsize == 1 else np.uint16)
        if raw.dtype == np.uint8 and ((raw & 0x7F) == 0x7F).any():
            raise ArtefactError(
                "E-ARTEFACT-DECODER",
                f"The decoder checkpoint: {name} holds NaN.",
                "Build the decoder checkpoint again.",
            )
        width, depth = raw.shape
        columns = self._layout.columns
        panels, whole = self._arena.take((-(-width // columns), depth, columns), raw.dtype), width // columns
        panels[:whole] = raw[: whole * columns].reshape(whole, columns, depth).transpose(0, 2, 1)
        if width % columns:
            panels[whole] = 0
            panels[whole, :, : width % columns] = raw[whole * columns :].T
        self._checkpoint.drop_pages(name)
        return panels.ctypes.data

    def _vector(self, name: str) -> int:
        vector = self._checkpoint.read(name)
        padded = self._arena.take((self._layout.padded(len(vector)),), np.float32)
        padded[: len(vector)], padded[len(vector) :] = vector, 0
        return padded.ctypes.data
