from __future__ import annotations

import dataclasses
from collections import Counter

import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto

from nvlm_trt.checkpoint.base import Checkpoint
from nvlm_trt.checkpoint.layout import expected_tensors
from nvlm_trt.model.config import VisionConfig
from nvlm_trt.vision.dtype import ONNX_DTYPE, GraphDtype
from nvlm_trt.vision.graph import OPSET, parameters, vision_graph
from tests.release import RELEASE

FULL = RELEASE.vision
# What the graph is made of; TensorRT 10's parser and ONNX Runtime know all of it at opset 20.
OPERATORS = {
    *("Add", "Cast", "Concat", "Div", "Expand", "Flatten", "Gelu", "LayerNormalization", "MatMul", "Mul"),
    *("ReduceMean", "Reshape", "Shape", "Slice", "Softmax", "Split", "Sqrt", "Sub", "Transpose"),
}


def value_shapes(model: onnx.ModelProto) -> dict[str, list[int | str]]:
    """Every value's inferred shape; strict: a type that does not fit its operator is an error."""
    inferred = onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True)
    values = [*inferred.graph.value_info, *inferred.graph.output]
    return {value.name: [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim] for value in values}


@st.composite
def configs(draw: st.DrawFn) -> VisionConfig:
    heads, head_dim = draw(st.integers(1, 5)), draw(st.integers(1, 9))
    patch = draw(st.integers(1, 5))
    return VisionConfig(
        image_size=2 * patch * draw(st.integers(1, 4)),
        patch_size=patch,
        hidden_size=heads * head_dim,
        intermediate_size=draw(st.integers(1, 40)),
        num_layers=draw(st.integers(1, 3)),
        num_heads=heads,
        num_dummy_heads=draw(st.integers(0, 3)),
        norm_eps=1e-6,
        projector_hidden_size=draw(st.integers(1, 40)),
        projector_norm_eps=1e-5,
        output_size=draw(st.integers(1, 40)),
    )


@settings(max_examples=40, deadline=None)
@given(config=configs(), dtype=st.sampled_from(sorted(ONNX_DTYPE)))
def test_any_size_is_well_typed_and_only_the_tile_batch_is_dynamic(config: VisionConfig, dtype: GraphDtype):
    model = vision_graph(config, dtype)
    shapes = value_shapes(model)
    assert shapes["rows"] == ["tiles", config.tokens_per_tile, config.output_size]
    assert model.graph.output[0].type.tensor_type.elem_type == ONNX_DTYPE[dtype]
    assert all(isinstance(size, int) for shape in shapes.values() for size in shape[1:])


def test_weights_are_the_checkpoints_tensors_without_dummy_heads(checkpoint: Checkpoint):
    config = checkpoint.config
    vision = dataclasses.replace(config.vision, num_dummy_heads=0)
    bare = dataclasses.replace(config, vision=vision)
    wanted = {n: s.shape for n, s in expected_tensors(bare).items() if not n.startswith("language_model.")}
    assert {name: tuple(t.dims) for name, t in parameters(vision_graph(config.vision)).items()} == wanted


@pytest.mark.parametrize("dtype", sorted(ONNX_DTYPE))
def test_nothing_is_dead_or_there_twice(dtype: GraphDtype):
    graph = vision_graph(FULL, dtype).graph
    used = {name for node in graph.node for name in node.input} | {"rows"}
    made = [name for node in graph.node for name in node.output]
    constants = [tensor for tensor in graph.initializer if tensor.data_location != TensorProto.EXTERNAL]
    contents = Counter((t.data_type, tuple(t.dims), t.raw_data) for t in constants)
    assert set(made) <= used
    assert {tensor.name for tensor in graph.initializer} <= used
    assert len({node.name for node in graph.node}) == len(graph.node) == len(made) - 2 * FULL.num_layers
    assert max(contents.values()) == 1
    assert sum(len(tensor.raw_data) for tensor in constants) < 1000


@pytest.mark.parametrize("dtype", sorted(ONNX_DTYPE))
def test_casts_are_only_where_the_type_changes(dtype: GraphDtype):
    model = onnx.shape_inference.infer_shapes(vision_graph(FULL, dtype))
    types = {v.name: v.type.tensor_type.elem_type for v in (*model.graph.value_info, *model.graph.input)}
    casts = [node for node in model.graph.node if node.op_type == "Cast"]
    assert all(types[node.input[0]] != types[node.output[0]] for node in casts)
    # Two a norm, of which a layer has four, and one for the pixels; float32 needs only the first of those.
    assert len(casts) == (1 if dtype == "float32" else 2 + 8 * FULL.num_layers)


def test_the_full_size_graph_is_small_and_of_known_operators():
    model = vision_graph(FULL)
    assert {node.op_type for node in model.graph.node} == OPERATORS
    assert [(opset.domain, opset.version) for opset in model.opset_import] == [("", OPSET)]
    assert model.ByteSize() < 500_000
    assert sum(node.op_type == "Softmax" for node in model.graph.node) == 45
    assert value_shapes(model)["rows"] == ["tiles", 256, 8192]


def test_the_same_config_gives_the_same_bytes():
    first, second = (vision_graph(FULL).SerializeToString(deterministic=True) for _ in range(2))
    assert first == second


def test_a_weight_stored_otherwise_is_cast_in_the_graph():
    name = "mlp1.1.weight"
    model = vision_graph(FULL, "float32", {name: "bfloat16"})
    assert parameters(model)[name].data_type == TensorProto.BFLOAT16
    assert [node.op_type for node in model.graph.node if name in node.input] == ["Cast"]
    assert value_shapes(model)
