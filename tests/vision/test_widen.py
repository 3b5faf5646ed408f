from __future__ import annotations

from pathlib import Path

import onnx
import onnxruntime
import pytest
from onnx import TensorProto

from nvlm_trt.checkpoint.base import Checkpoint
from nvlm_trt.vision.artefact import read_graph
from nvlm_trt.vision.dtype import ONNX_DTYPE, GraphDtype
from nvlm_trt.vision.graph import vision_graph
from nvlm_trt.vision.onnxruntime_engine import add_weights
from nvlm_trt.vision.weights import map_weights
from nvlm_trt.vision.widen import widen


@pytest.mark.parametrize("dtype", sorted(ONNX_DTYPE))
def test_only_initializers_stay_narrow(checkpoint: Checkpoint, dtype: GraphDtype):
    model = vision_graph(checkpoint.config.vision, dtype)
    before = model.SerializeToString(deterministic=True)
    inferred = onnx.shape_inference.infer_shapes(widen(model), check_type=True, strict_mode=True)
    values = [*inferred.graph.value_info, *inferred.graph.output]
    types = {value.type.tensor_type.elem_type for value in values}
    assert types <= {TensorProto.FLOAT, TensorProto.INT64}
    assert model.SerializeToString(deterministic=True) == before


def test_the_session_folds_every_cast_of_a_weight(exported: Path, small_checkpoint: Path, tmp_path: Path):
    model = read_graph(exported)
    weights = map_weights(model, exported, small_checkpoint)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.optimized_model_filepath = str(tmp_path / "folded.onnx")
    add_weights(options, model, weights)
    onnxruntime.InferenceSession(widen(model).SerializeToString(), options, providers=["CPUExecutionProvider"])
    folded = onnx.load(str(tmp_path / "folded.onnx"))
    assert [list(node.input) for node in folded.graph.node if node.op_type == "Cast"] == [["tiles"]]
    assert {tensor.data_type for tensor in folded.graph.initializer} <= {TensorProto.FLOAT, TensorProto.INT64}
