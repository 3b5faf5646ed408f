"""Mistakes that an exporter of this model could make, as changes to a right graph."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

import numpy as np
import onnx
from onnx import helper, numpy_helper

__all__ = ["MISTAKES", "nodes"]


def nodes(model: onnx.ModelProto, ending: str) -> list[onnx.NodeProto]:
    found = [node for node in model.graph.node if node.name.endswith(ending)]
    assert found, f"no node is called {ending}"
    return found


def set_attribute(node: onnx.NodeProto, name: str, value: object) -> None:
    kept = [attribute for attribute in node.attribute if attribute.name != name]
    del node.attribute[:]
    node.attribute.extend([*kept, helper.make_attribute(name, value)])


def add_integers(model: onnx.ModelProto, name: str, value: int) -> str:
    model.graph.initializer.append(numpy_helper.from_array(np.array([value], np.int64), name))
    return name


def transpose_tokens(model: onnx.ModelProto) -> None:
    """Pixel shuffle "v1"."""
    set_attribute(nodes(model, "pixel_shuffle/Transpose")[0], "perm", [0, 3, 1, 2, 4, 5])


def swap_quarters(model: onnx.ModelProto) -> None:
    set_attribute(nodes(model, "pixel_shuffle/Transpose")[0], "perm", [0, 1, 3, 4, 2, 5])


def patches_channel_last(model: onnx.ModelProto) -> None:
    set_attribute(nodes(model, "embeddings/Transpose")[0], "perm", [0, 1, 3, 2, 4, 5])


def tanh_gelu(model: onnx.ModelProto) -> None:
    for node in nodes(model, "/Gelu"):
        set_attribute(node, "approximate", "tanh")


def keep_class_token(model: onnx.ModelProto) -> None:
    """The class token stays and the last patch goes, so that the shapes still fit."""
    node = nodes(model, "pixel_shuffle/Slice")[0]
    end = next(numpy_helper.to_array(t)[0] for t in model.graph.initializer if t.name == node.input[2])
    node.input[1], node.input[2] = add_integers(model, "first", 0), add_integers(model, "last", int(end) - 1)


def norms_over_padded_width(ending: str) -> Callable[[onnx.ModelProto], None]:
    def mistake(model: onnx.ModelProto) -> None:
        """Divides the sum of squares by the width with dummy heads, 8 heads instead of 5."""
        model.graph.initializer.append(numpy_helper.from_array(np.array([5 / 8], np.float32), "real_of_padded"))
        for mean in nodes(model, f"{ending}/ReduceMean"):
            eps = next(node for node in model.graph.node if mean.output[0] in node.input)
            scaled = helper.make_node("Mul", [mean.output[0], "real_of_padded"], [f"{mean.output[0]}/padded"])
            eps.input[0] = scaled.output[0]
            model.graph.node.insert(list(model.graph.node).index(eps), scaled)

    return mistake


def scale_by_nothing(model: onnx.ModelProto) -> None:
    for node in nodes(model, "q_norm/Mul.2"):
        node.input[1] = nodes(model, "embeddings/Div")[0].input[1].replace("255.0", "1.0")
    model.graph.initializer.append(numpy_helper.from_array(np.array([1], np.float32), "constant/float32[1.0]"))


def no_layer_scale(model: onnx.ModelProto) -> None:
    nodes(model, "layers.0/Mul")[0].op_type = "Add"


MISTAKES: Mapping[str, Callable[[onnx.ModelProto], None]] = MappingProxyType(
    {
        "transpose_tokens": transpose_tokens,
        "swap_quarters": swap_quarters,
        "patches_channel_last": patches_channel_last,
        "tanh_gelu": tanh_gelu,
        "keep_class_token": keep_class_token,
        "q_norm_over_padded_width": norms_over_padded_width("q_norm"),
        "k_norm_over_padded_width": norms_over_padded_width("k_norm"),
        "scale_by_nothing": scale_by_nothing,
        "no_layer_scale": no_layer_scale,
    }
)
