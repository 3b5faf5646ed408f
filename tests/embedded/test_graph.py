from __future__ import annotations

import ml_dtypes
import numpy as np
import onnxruntime as ort
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from nvlm_trt.embedded.config import CheckpointConfig
from nvlm_trt.embedded.graph import ROTARY, _DecoderGraph, decoder_graph
from tests.embedded.decoder_folder import CONFIG
from tests.embedded.numbers import hard_values

CONFIG_READ = CheckpointConfig.from_json(CONFIG)


def run_elementwise(model, values):
    options = ort.SessionOptions()
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, {"x": values})[0]


def value_info(name):
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n"])


@pytest.fixture(scope="module")
def written_e4m3():
    """The graph's rounding alone."""
    graph = _DecoderGraph(CONFIG_READ, 16, True)
    graph.writer.rename(graph.e4m3("x"), "y")
    return graph.writer.model("e4m3", [value_info("x")], [value_info("y")], 20)


@pytest.fixture(scope="module")
def quantize_linear():
    """ONNX's own operators, scale 1."""
    constants = [
        numpy_helper.from_array(np.float32(1), "scale"),
        helper.make_tensor("zero", TensorProto.FLOAT8E4M3FN, [], b"\0", raw=True),
    ]
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["y"]),
    ]
    graph = helper.make_graph(nodes, "qdq", [value_info("x")], [value_info("y")], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)


def test_rounding_is_that_of_e4m3_casts_to_the_last_bit(written_e4m3, quantize_linear):
    values = hard_values()
    expected = np.clip(values, -448, 448).astype(ml_dtypes.float8_e4m3fn).astype(np.float32)
    by_torch = torch.from_numpy(values).clamp(-448, 448).to(torch.float8_e4m3fn).float().numpy()
    assert np.array_equal(by_torch, expected)
    assert np.array_equal(run_elementwise(quantize_linear, values), expected)
    assert np.array_equal(run_elementwise(written_e4m3, values), expected)


def test_weights_stay_outside_under_the_checkpoints_names():
    model = decoder_graph(CONFIG_READ, 64, True)
    outside = {tensor.name: tensor for tensor in model.graph.initializer if tensor.external_data}
    specs = {spec.name: spec for spec in CONFIG_READ.tensors()}
    # the embedding is looked up before the graph
    assert set(outside) == set(specs) - {"transformer.vocab_embedding.weight"} | set(ROTARY)
    assert all(tuple(outside[name].dims) == spec.shape for name, spec in specs.items() if name in outside)
    fp8 = [tensor for tensor in outside.values() if tensor.data_type == TensorProto.FLOAT8E4M3FN]
    assert len(fp8) == 5 * CONFIG_READ.decoder.num_layers
    assert len(model.SerializeToString()) < 100_000


def test_equal_configs_give_equal_bytes():
    first, second = (decoder_graph(CONFIG_READ, 64, True).SerializeToString() for _ in range(2))
    assert first == second


def test_without_quantised_activations_only_weight_scales_are_read():
    model = decoder_graph(CONFIG_READ, 64, False)
    names = {tensor.name for tensor in model.graph.initializer}
    assert not any(name.endswith("activation_scaling_factor") for name in names)
    assert "Clip" not in {node.op_type for node in model.graph.node}
