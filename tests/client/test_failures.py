from __future__ import annotations

import pytest

from nvlm_trt.client.failures import refused
from nvlm_trt.errors import (
    ArtefactError,
    CancelledError,
    NvlmError,
    OverloadedError,
    RequestError,
    ServerError,
    from_message,
)


@pytest.mark.parametrize(
    "error",
    [
        RequestError("E-PARAM-RANGE", "top_p is 2; 0 to 1 is allowed.", "Correct it."),
        OverloadedError("E-BUSY-QUEUE", "257 requests wait."),
        CancelledError("E-CANCEL-STOPPED", "The request was stopped before its end."),
        ArtefactError("E-ENGINE-FAULT", "The decoder engine has failed.", "Restart it."),
        ServerError("E-SERVER-INTERNAL", "The server failed to answer.", "Its log says why."),
    ],
)
@pytest.mark.parametrize("frame", ["{}", "in ensemble 'ensemble', {}", "[request id: 7] in ensemble 'e', {}\n"])
def test_an_error_survives_the_way_through_a_server(error, frame):
    back = refused(frame.format(error))
    assert type(back) is type(error)
    assert back.code == error.code
    assert str(back) == str(error)


@pytest.mark.parametrize("text", ["", "expected 2 inputs", "E-PARAM", "E-NOFAMILY-AT: x", "see E-PARAM-RANGE."])
def test_a_text_without_an_error_of_ours_has_none(text):
    assert from_message(text) is None


def test_what_triton_says_itself_is_only_a_note():
    error = refused("unexpected inference input 'x' for model '/srv/models/y'")
    assert error.code == "E-SERVER-REFUSED"
    assert "/srv" not in str(error)
    assert "/srv" in error.__notes__[0]


def test_a_dead_model_process_is_told_apart():
    assert refused("Stub process 'tensorrt_llm_0_0' is not healthy.").code == "E-SERVER-MODEL"


def test_every_code_names_a_class_of_the_tree():
    assert isinstance(from_message("E-IMAGE-FORMAT: no picture"), NvlmError)
