"""A vision graph run operator by operator in torch, in the graph's own dtype, on any device.

ONNX Runtime runs the graph only in float32. This runs the arithmetic that TensorRT will be given, bfloat16 and e4m3
included, before there is an engine: at full size on a GPU, at a small one in the tests. Each operator rounds where ONNX
says it does; a compiler that fuses operators rounds less often.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor
from torch.nn import functional

from nvlm_trt.vision.graph import INPUT, parameters

__all__ = ["TorchGraph"]

_DTYPES = {
    TensorProto.FLOAT: torch.float32,
    TensorProto.FLOAT16: torch.float16,
    TensorProto.BFLOAT16: torch.bfloat16,
    TensorProto.INT64: torch.int64,
    TensorProto.UINT8: torch.uint8,
}
_E4M3_MOST = 448.0

Operator = Callable[..., Tensor | Sequence[Tensor]]


class TorchGraph:
    """``weights`` holds a tensor for each external initializer, in its shape and dtype, all on one device."""

    def __init__(self, model: onnx.ModelProto, weights: Mapping[str, Tensor]) -> None:
        device = next(iter(weights.values())).device
        outside = parameters(model)
        inside = [tensor for tensor in model.graph.initializer if tensor.name not in outside]
        self._fixed = dict(weights) | {tensor.name: _constant(tensor).to(device) for tensor in inside}
        self._nodes = [(node, _attributes(node)) for node in model.graph.node]
        self._output = model.graph.output[0].name
        self._reads = Counter(name for node in model.graph.node for name in node.input)

    def __call__(self, tiles: Tensor) -> Tensor:
        """UINT8 [n, S, S, 3] to rows [n, tokens_per_tile, output_size] in the graph's dtype."""
        with torch.inference_mode():
            return self._run(tiles)

    def _run(self, tiles: Tensor) -> Tensor:
        values, left = {INPUT: tiles}, self._reads.copy()
        for node, attributes in self._nodes:
            inputs = [values[name] if name in values else self._fixed[name] for name in node.input]
            made = _OPERATORS[node.op_type](*inputs, **attributes)
            values.update(zip(node.output, [made] if isinstance(made, Tensor) else made, strict=True))
            for name in node.input:  # what nobody reads any more goes, or all layers' values would stay
                left[name] -= 1
                if not left[name]:
                    values.pop(name, None)
        return values[self._output]


def _constant(tensor: TensorProto) -> Tensor:
    array = np.array(numpy_helper.to_array(tensor))
    if array.dtype == ml_dtypes.bfloat16:
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    if array.dtype == ml_dtypes.float8_e4m3fn:
        return torch.from_numpy(array.view(np.uint8)).view(torch.float8_e4m3fn)
    return torch.from_numpy(array)


def _attributes(node: onnx.NodeProto) -> dict[str, Any]:
    return {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}


def _reshape(data: Tensor, shape: Tensor) -> Tensor:
    return data.reshape([data.shape[at] if size == 0 else size for at, size in enumerate(shape.tolist())])


def _slice(data: Tensor, starts: Tensor, ends: Tensor, axes: Tensor) -> Tensor:
    for start, end, axis in zip(starts.tolist(), ends.tolist(), axes.tolist(), strict=True):
        data = data.narrow(axis, start, min(end, data.shape[axis]) - start)
    return data


def _layer_norm(data: Tensor, scale: Tensor, bias: Tensor, *, axis: int, epsilon: float) -> Tensor:
    return functional.layer_norm(data, data.shape[axis:], scale, bias, epsilon)


def _quantize(data: Tensor, scale: Tensor, _zero: Tensor) -> Tensor:
    return (data.float() / scale.float()).clamp(-_E4M3_MOST, _E4M3_MOST).to(torch.float8_e4m3fn)


_OPERATORS: Mapping[str, Operator] = MappingProxyType(
    {
        "Add": torch.add,
        "Cast": lambda data, to: data.to(_DTYPES[to]),
        "Concat": lambda *data, axis: torch.cat(data, axis),
        "DequantizeLinear": lambda data, scale: data.to(scale.dtype) * scale,
        "Div": torch.div,
        "Expand": lambda data, shape: data.expand(torch.broadcast_shapes(data.shape, shape.tolist())),
        "Flatten": lambda data, axis: data.flatten(axis),
        "Gelu": lambda data, approximate=b"none": functional.gelu(data, approximate=approximate.decode()),
        "LayerNormalization": _layer_norm,
        "MatMul": torch.matmul,
        "Mul": torch.mul,
        "QuantizeLinear": _quantize,
        "ReduceMean": lambda data, axes, keepdims: data.mean(axes.tolist(), keepdim=bool(keepdims)),
        "Reshape": _reshape,
        "Shape": lambda data, start, end: torch.tensor(data.shape[start:end], device=data.device),
        "Slice": _slice,
        "Softmax": lambda data, axis: torch.softmax(data, axis),
        "Split": lambda data, axis, num_outputs: torch.chunk(data, num_outputs, axis),
        "Sqrt": torch.sqrt,
        "Sub": torch.sub,
        "Transpose": lambda data, perm: data.permute(perm),
    }
)
