"""Widens a vision graph to float32, for an engine that has no kernels for narrower types.

ONNX Runtime's CPU kernels know no bfloat16. But every bfloat16 (and float16) value is a float32 value, so the same
graph runs in float32 without changing one weight: each narrow initializer gets a Cast to FLOAT behind it, each Cast to
the narrow type becomes one to FLOAT, and the output's type follows. The file on disk stays as it is, and the session
folds the casts when it loads. The result is the exact model, without the narrow type's rounding between operators.
"""

from __future__ import annotations

import onnx
from onnx import TensorProto, helper

__all__ = ["widen"]

_NARROW = (TensorProto.BFLOAT16, TensorProto.FLOAT16)


def widen(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of ``model`` in which everything narrow is float32, except the initializers' bytes."""
    wide = onnx.ModelProto()
    wide.CopyFrom(model)
    graph = wide.graph
    names = {tensor.name: f"{tensor.name}/float32" for tensor in graph.initializer if tensor.data_type in _NARROW}
    for node in graph.node:
        for position, name in enumerate(node.input):
            node.input[position] = names.get(name, name)
        if node.op_type == "Cast":
            for attribute in node.attribute:
                if attribute.name == "to" and attribute.i in _NARROW:
                    attribute.i = TensorProto.FLOAT
    nodes = [helper.make_node("Cast", [old], [new], name=new, to=TensorProto.FLOAT) for old, new in names.items()]
    nodes.extend(graph.node)
    del graph.node[:]
    graph.node.extend(nodes)
    for value in graph.output:
        if value.type.tensor_type.elem_type in _NARROW:
            value.type.tensor_type.elem_type = TensorProto.FLOAT
    return wide
