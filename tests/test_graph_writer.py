from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, helper

from nvlm_trt.graph_writer import GraphWriter


def test_nodes_are_named_after_where_they_were_written():
    writer = GraphWriter()
    with writer.scope("outer"):
        first = writer.node("Relu", "x")
        with writer.scope("inner"):
            second = writer.node("Relu", first)
        third = writer.node("Relu", second)
    assert [first, second, third] == ["outer/Relu", "outer/inner/Relu", "outer/Relu.2"]


def test_a_node_with_several_outputs_numbers_them():
    assert GraphWriter().nodes("Split", "x", outputs=2, num_outputs=2) == ["Split:0", "Split:1"]


def test_equal_constants_are_one():
    writer = GraphWriter()
    same = {writer.constant(np.array([0.1, 2.0], np.float32)) for _ in range(2)}
    others = {writer.constant(np.array([0.1, 2.5], np.float32)), writer.integers(0, 2), writer.integers(2)}
    assert same == {"constant/float32[0.1,2.0]"}
    assert len(same | others) == 4


def test_constants_that_differ_in_the_last_bit_stay_two():
    value = np.float32(0.1)
    writer = GraphWriter()
    assert writer.constant(np.array([value])) != writer.constant(np.array([np.nextafter(value, np.float32(1))]))


def test_a_parameter_may_be_used_twice_but_not_in_two_shapes():
    writer = GraphWriter()
    assert writer.parameter("w", [2, 3], TensorProto.FLOAT) == writer.parameter("w", [2, 3], TensorProto.FLOAT)
    with pytest.raises(ValueError, match="declared twice"):
        writer.parameter("w", [3, 2], TensorProto.FLOAT)


def test_only_the_last_value_can_be_renamed():
    writer = GraphWriter()
    first = writer.node("Relu", "x")
    second = writer.node("Relu", first)
    with pytest.raises(ValueError, match="not the last"):
        writer.rename(first, "y")
    writer.rename(second, "y")
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])
    result = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])
    assert writer.model("m", [value], [result], 20).graph.node[-1].output == ["y"]


def test_a_named_constant_is_its_own_and_has_one_value():
    writer = GraphWriter()
    one, other = (writer.constant(np.array(2, np.float32), name=name) for name in ("a.scale", "b.scale"))
    assert (one, other) == ("a.scale", "b.scale")
    assert writer.constant(np.array(2, np.float32), name="a.scale") == one
    with pytest.raises(ValueError, match=r"a\.scale was declared twice"):
        writer.constant(np.array(3, np.float32), name="a.scale")
