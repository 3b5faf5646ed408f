from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tritonclient.grpc import service_pb2

from nvlm_trt.client.wire import read_outputs, write_request


@given(st.lists(st.text(st.characters(codec="utf-8"), max_size=8), min_size=1, max_size=5))
def test_texts_come_back_as_they_were(texts):
    request = write_request("m", "1", {"stop_words": texts})
    response = service_pb2.ModelInferResponse()
    response.outputs.add(name="text_output", datatype="BYTES", shape=[len(texts)])
    response.raw_output_contents.append(request.raw_input_contents[0])
    assert read_outputs(response) == {"text_output": [text.encode() for text in texts]}


@pytest.mark.parametrize(
    ("name", "value", "datatype", "contents"),
    [
        ("max_tokens", 7, "INT32", np.int32(7).tobytes()),
        ("seed", 2**64 - 1, "UINT64", b"\xff" * 8),
        ("temperature", 1, "FP32", np.float32(1).tobytes()),
        ("stream", True, "BOOL", b"\x01"),
    ],
)
def test_values_get_the_types_of_the_ensembles_inputs(name, value, datatype, contents):
    request = write_request("m", "1", {name: value})
    assert (request.inputs[0].datatype, list(request.inputs[0].shape)) == (datatype, [1])
    assert request.raw_input_contents[0] == contents
    assert list(write_request("m", "1", {name: value}, batched=True).inputs[0].shape) == [1, 1]


@pytest.mark.parametrize(
    ("datatype", "contents"), [("BYTES", b"\x05\x00\x00\x00ab"), ("BYTES", b"\x01"), ("FP8", b"a")]
)
def test_what_cannot_be_read_is_a_value_error(datatype, contents):
    response = service_pb2.ModelInferResponse()
    response.outputs.add(name="x", datatype=datatype, shape=[1])
    response.raw_output_contents.append(contents)
    with pytest.raises(ValueError):
        read_outputs(response)


def test_outputs_without_contents_are_a_value_error():
    response = service_pb2.ModelInferResponse()
    response.outputs.add(name="x", datatype="INT32", shape=[1])
    with pytest.raises(ValueError):
        read_outputs(response)
