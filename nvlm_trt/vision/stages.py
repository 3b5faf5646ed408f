"""The vision graph cut into stages that run one after the other: embeddings, each layer, the projector.

A stage holds only its own weights, so the full-size tower runs in float32 on a machine that could not hold it. Beside
its hidden states a stage tells, for each of its linears, the largest magnitude that entered it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import onnx
from onnx import TensorProto, helper

from nvlm_trt.model.config import VisionConfig
from nvlm_trt.vision.dtype import GraphDtype
from nvlm_trt.vision.graph import INPUT, OPSET, VisionGraph

__all__ = ["AMAX", "HIDDEN", "NEXT_HIDDEN", "Stage", "stages"]

HIDDEN, NEXT_HIDDEN = "hidden", "next_hidden"
# The name of a linear's output scalar is the linear's, with this behind it.
AMAX = ".amax"


@dataclass(frozen=True, slots=True)
class Stage:
    """``model`` takes ``takes`` and gives ``NEXT_HIDDEN`` and a scalar for each of ``linears``, all float32."""

    name: str
    takes: str
    linears: tuple[str, ...]
    model: onnx.ModelProto


def stages(config: VisionConfig, stored: Mapping[str, GraphDtype]) -> Iterator[Stage]:
    """In the order in which they compute, float32. The first takes ``tiles``, the others ``HIDDEN``, which is what the
    one before gave; what the last gives are the rows. ``stored`` is as for ``vision_graph``.
    """
    yield _stage("embeddings", config, stored)
    for index in range(config.num_layers):
        yield _stage(f"layers.{index}", config, stored)
    yield _stage("projector", config, stored)


def _stage(name: str, config: VisionConfig, stored: Mapping[str, GraphDtype]) -> Stage:
    graph = VisionGraph(config, "float32", stored, {})
    writer, side = graph.writer, config.image_size
    hidden = helper.make_tensor_value_info(HIDDEN, TensorProto.FLOAT, ["tiles", config.num_positions, None])
    takes = hidden
    with writer.scope(name):
        if name == "embeddings":
            takes = helper.make_tensor_value_info(INPUT, TensorProto.UINT8, ["tiles", side, side, 3])
            result = graph.embeddings(INPUT)
        elif name == "projector":
            result = graph.projector(graph.pixel_shuffle(HIDDEN))
        else:
            result = graph.layer(HIDDEN, f"vision_model.encoder.{name}")
    writer.rename(result, NEXT_HIDDEN)
    outputs = [helper.make_tensor_value_info(NEXT_HIDDEN, TensorProto.FLOAT, ["tiles", None, None])]
    for linear, entering in graph.linear_inputs.items():
        writer.rename(writer.node("ReduceMax", writer.node("Abs", entering), keepdims=0), linear + AMAX)
        outputs.append(helper.make_tensor_value_info(linear + AMAX, TensorProto.FLOAT, []))
    model = writer.model(f"nvlm_vision_{name}", [takes], outputs, OPSET)
    return Stage(name, takes.name, tuple(graph.linear_inputs), model)
