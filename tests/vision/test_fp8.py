from __future__ import annotations

import dataclasses

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, numpy_helper

from nvlm_trt.checkpoint.base import Checkpoint
from nvlm_trt.decoder import fp8
from nvlm_trt.errors import UsageError
from nvlm_trt.vision.dtype import NUMPY_DTYPE, ONNX_DTYPE, GraphDtype
from nvlm_trt.vision.fp8 import LinearScales, scale_in
from nvlm_trt.vision.graph import parameters, vision_graph
from nvlm_trt.vision.linears import linears, select_linears
from tests.vision.test_graph import FULL, OPERATORS, value_shapes

SCALES = LinearScales(input=0.5, weight=0.25)


def test_linears_are_the_checkpoints_matrices_but_for_the_patch_embedding(checkpoint: Checkpoint):
    config = dataclasses.replace(checkpoint.config.vision, num_dummy_heads=0)
    matrices = {name for name, tensor in parameters(vision_graph(config)).items() if len(tensor.dims) == 2}
    assert {f"{name}.weight" for name in linears(config)} == matrices
    assert len(linears(FULL)) == 4 * 45 + 2


def test_patterns_take_linears_out():
    config = dataclasses.replace(FULL, num_layers=2)
    everything = linears(config)
    assert select_linears(config, []) == everything
    assert select_linears(config, ["mlp1.*", "*.layers.0.*"]) == everything[4:8]
    assert select_linears(config, ["*.mlp.fc?", "*.attn.*"]) == ["mlp1.1", "mlp1.3"]


@pytest.mark.parametrize("pattern", ["", "mlp1", "*.attn.dense", "*.FC1", "vision_model.encoder.layers.45.*"])
def test_a_pattern_that_matches_nothing_is_refused(pattern: str):
    with pytest.raises(UsageError, match=r"E-RECIPE-EXCLUDE.*layers\.0\.attn\.qkv to mlp1\.3"):
        select_linears(FULL, ["mlp1.*", pattern])


def test_patterns_that_leave_nothing_are_refused():
    with pytest.raises(UsageError, match="E-RECIPE-EXCLUDE"):
        select_linears(FULL, ["vision_model.*", "mlp1.*"])


@settings(deadline=None)
@given(
    largest=st.floats(0, 2.0**100, width=32),
    dtype=st.sampled_from(sorted(set(ONNX_DTYPE) - {"float16"})),
)
def test_a_scale_is_exact_in_the_graphs_dtype_and_clips_nothing(largest: float, dtype: GraphDtype):
    scale = scale_in(np.float32(largest), dtype)
    assert scale > 0
    assert np.float32(np.array(scale, NUMPY_DTYPE[dtype])) == scale
    stored = fp8.quantize(np.array([largest], np.float32), scale)
    # The largest value lands on e4m3's largest number, unless the scale is held in the normal range.
    if largest > 1e-30:
        assert float(stored[0]) == 448
    assert abs(fp8.restore(stored, scale)[0] - largest) <= largest * 2**-7 + 1e-35


@given(largest=st.floats(2.0**-24, 65504, width=16))
def test_float16_scales_stay_in_the_normal_range(largest: float):
    scale = scale_in(np.float32(largest), "float16")
    assert np.float32(np.float16(scale)) == scale >= 2.0**-14
    assert largest / scale < 464


@pytest.mark.parametrize("dtype", sorted(ONNX_DTYPE))
def test_a_quantised_graph_is_well_typed_and_differs_in_its_linears_alone(dtype: GraphDtype):
    plain = vision_graph(FULL, dtype)
    names = select_linears(FULL, ["mlp1.*"])
    model = vision_graph(FULL, dtype, scales=dict.fromkeys(names, SCALES))
    assert value_shapes(model)["rows"] == ["tiles", 256, 8192]
    assert {node.op_type for node in model.graph.node} == OPERATORS | {"QuantizeLinear", "DequantizeLinear"}
    added = [node for node in model.graph.node if node.op_type.endswith("Linear")]
    assert len(added) == 3 * len(names)
    kept = [node.name for node in model.graph.node if not node.op_type.endswith("Linear")]
    assert kept == [node.name for node in plain.graph.node]
    stored = {name for name, t in parameters(model).items() if t.data_type == TensorProto.FLOAT8E4M3FN}
    assert stored == {f"{name}.weight" for name in names}
    assert set(parameters(model)) == set(parameters(plain))


def test_scales_are_scalars_of_the_graphs_dtype_under_their_linears_names():
    model = vision_graph(FULL, "bfloat16", scales={"mlp1.1": SCALES})
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    for kind, value in (("input", 0.5), ("weight", 0.25)):
        tensor = constants[f"mlp1.1.{kind}_scale"]
        assert (tensor.data_type, list(tensor.dims)) == (TensorProto.BFLOAT16, [])
        assert numpy_helper.to_array(tensor).astype(np.float32) == value
    zero = numpy_helper.to_array(constants["constant/float8_e4m3fn[0]/scalar"])
    assert zero.dtype == ml_dtypes.float8_e4m3fn
