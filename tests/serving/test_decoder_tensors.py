from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from nvlm_trt.embedded.request import Emission, FinishReason, Sampling
from nvlm_trt.errors import RequestError
from nvlm_trt.serving.decoder_tensors import INPUT_RULES, Rule, asks_to_stop, read_call, write_tensors
from nvlm_trt.serving.word_list import to_tensor

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "triton-tensorrt_llm-io.json").read_text(encoding="utf-8"))
INPUTS = {entry["name"]: entry for entry in GOLDEN["inputs"]}
NUMPY_TYPES = {
    "TYPE_BOOL": np.bool_,
    "TYPE_FP16": np.float16,
    "TYPE_FP32": np.float32,
    "TYPE_INT32": np.int32,
    "TYPE_INT64": np.int64,
    "TYPE_STRING": np.object_,
    "TYPE_UINT8": np.uint8,
    "TYPE_UINT64": np.uint64,
}


def minimal(**more: NDArray[Any]) -> dict[str, NDArray[Any]]:
    return {
        "input_ids": np.array([[5, 6, 7]], np.int32),
        "input_lengths": np.array([[3]], np.int32),
        "request_output_len": np.array([[4]], np.int32),
        **more,
    }


def some_tensor(name: str) -> NDArray[Any]:
    """A tensor of the declared rank and type, filled with what is neutral for no one."""
    entry = INPUTS[name]
    shape = [1, *(2 if size == -1 else size for size in entry["dims"])]
    dtype = NUMPY_TYPES.get(entry["data_type"], np.float32)
    return np.full(shape, b"x" if dtype is np.object_ else 1, dtype)


def test_every_input_of_the_contract_has_a_rule_and_nothing_else_has():
    assert list(INPUT_RULES) == list(INPUTS)
    assert len(INPUT_RULES) == 62


@pytest.mark.parametrize("name", [name for name, rule in INPUT_RULES.items() if rule is Rule.REFUSED])
def test_what_the_embedded_decoder_lacks_is_refused_by_name(name):
    with pytest.raises(RequestError, match=rf"E-PARAM-UNSUPPORTED: .*\b{name}\b"):
        read_call(minimal(**{name: some_tensor(name)}), "a")


@pytest.mark.parametrize("name", [name for name, rule in INPUT_RULES.items() if not isinstance(rule, Rule)])
def test_what_has_one_neutral_value_is_accepted_with_it_and_refused_by_name_otherwise(name):
    neutral = INPUT_RULES[name]
    dtype = NUMPY_TYPES[INPUTS[name]["data_type"]]
    same = read_call(minimal(**{name: np.array([[neutral]], dtype)}), "a")
    assert same.request.sampling == read_call(minimal(), "a").request.sampling
    assert not isinstance(neutral, Rule)
    other = not neutral if isinstance(neutral, bool) else neutral + 1
    with pytest.raises(RequestError, match=rf"E-PARAM-UNSUPPORTED: .*\b{name}\b"):
        read_call(minimal(**{name: np.array([[other]], dtype)}), "a")


CHANGED: dict[str, Any] = {
    "input_ids": (np.array([[1, 2, 9]], np.int32), lambda call: call.request.input_ids.tolist(), [1, 2, 9]),
    "input_lengths": None,
    "request_output_len": (np.array([[9]], np.int32), lambda call: call.request.max_tokens, 9),
    "num_return_sequences": (np.array([[3]], np.int32), lambda call: call.request.num_return_sequences, 3),
    "end_id": (np.array([[3]], np.int32), lambda call: call.request.end_id, 3),
    "stop_words_list": (to_tensor([[1, 2], [3]]), lambda call: call.request.stop_words, ((1, 2), (3,))),
    "bad_words_list": (to_tensor([[4]]), lambda call: call.request.bad_words, ((4,),)),
    "embedding_bias": (
        np.array([[0.5, -1]], np.float32),
        lambda call: call.request.embedding_bias is not None and call.request.embedding_bias.tolist(),
        [0.5, -1],
    ),
    "temperature": (np.array([[0.5]], np.float32), lambda call: call.request.sampling.temperature, 0.5),
    "runtime_top_k": (np.array([[7]], np.int32), lambda call: call.request.sampling.top_k, 7),
    "runtime_top_p": (np.array([[0.25]], np.float32), lambda call: call.request.sampling.top_p, 0.25),
    "repetition_penalty": (np.array([[1.5]], np.float32), lambda call: call.request.sampling.repetition_penalty, 1.5),
    "min_tokens": (np.array([[2]], np.int32), lambda call: call.request.min_tokens, 2),
    "presence_penalty": (np.array([[0.5]], np.float32), lambda call: call.request.sampling.presence_penalty, 0.5),
    "frequency_penalty": (np.array([[2.0]], np.float32), lambda call: call.request.sampling.frequency_penalty, 2.0),
    "seed": (np.array([[2**64 - 1]], np.uint64), lambda call: call.request.sampling.seed, 2**64 - 1),
    "return_log_probs": (np.array([[True]]), lambda call: call.request.return_log_probs, True),
    "return_num_input_tokens": (np.array([[True]]), lambda call: call.return_num_input_tokens, True),
    "return_num_output_tokens": (np.array([[True]]), lambda call: call.return_num_output_tokens, True),
    "stop": None,
    "streaming": (np.array([[True]]), lambda call: call.streaming, True),
    "prompt_embedding_table": (
        np.ones((1, 2, 3), np.float32),
        lambda call: np.shape(call.request.prompt_table),
        (2, 3),
    ),
    "prompt_table_extra_ids": (
        np.array([[0, 2**64 - 1, 0]], np.uint64),
        lambda call: call.request.extra_ids is not None and call.request.extra_ids.tolist(),
        [0, 2**64 - 1, 0],
    ),
    "prompt_vocab_size": None,
}


def test_every_input_that_is_read_is_tried_here():
    assert list(CHANGED) == [name for name, rule in INPUT_RULES.items() if rule is Rule.READ]


@pytest.mark.parametrize("name", [name for name, case in CHANGED.items() if case])
def test_what_is_read_changes_the_request(name):
    tensor, read, wanted = CHANGED[name]
    assert read(read_call(minimal(), "a")) != wanted
    assert read(read_call(minimal(**{name: tensor}), "a")) == wanted


@pytest.mark.parametrize("name", [name for name, rule in INPUT_RULES.items() if rule is Rule.MOOT])
def test_what_cannot_matter_is_accepted(name):
    assert read_call(minimal(**{name: some_tensor(name)}), "a").request.sampling == Sampling()


def test_stop_is_seen():
    assert asks_to_stop({"stop": np.array([[True]])})
    assert not asks_to_stop({"stop": np.array([[False]])})
    assert not asks_to_stop(minimal())


def test_no_end_token_is_minus_one():
    assert read_call(minimal(end_id=np.array([[-1]], np.int32)), "a").request.end_id is None


@pytest.mark.parametrize(
    ("code", "tensors"),
    [
        ("E-PARAM-SHAPE", minimal(input_lengths=np.array([[4]], np.int32))),
        ("E-PARAM-SHAPE", minimal(input_ids=np.zeros((2, 3), np.int32))),
        ("E-PARAM-SHAPE", minimal(temperature=np.ones((1, 2), np.float32))),
        ("E-PARAM-SHAPE", minimal(prompt_embedding_table=np.ones((1, 4), np.float32))),
        ("E-PARAM-SHAPE", minimal(prompt_table_extra_ids=np.zeros((1, 2), np.uint64))),
        ("E-PARAM-RANGE", minimal(embedding_bias=np.array([[np.inf]], np.float32))),
        ("E-PARAM-RANGE", minimal(num_return_sequences=np.array([[0]], np.int32))),
        ("E-PARAM-WORDS", minimal(stop_words_list=np.ones((1, 3, 1), np.int32))),
        ("E-PARAM-RANGE", minimal(request_output_len=np.array([[0]], np.int32))),
        ("E-PARAM-RANGE", minimal(temperature=np.array([[np.nan]], np.float32))),
        ("E-PROMPT-EMPTY", {"request_output_len": np.array([[1]], np.int32)}),
        (
            "E-PROMPT-TABLE",
            minimal(prompt_embedding_table=np.ones((1, 2, 3), np.float32), prompt_vocab_size=np.array([[3]], np.int32)),
        ),
        ("E-PARAM-UNSUPPORTED", minimal(no_such_input=np.array([[3]], np.int32))),
    ],
)
def test_bad_tensors_get_their_code(code, tensors):
    with pytest.raises(RequestError, match=code):
        read_call(tensors, "a")


def test_a_response_holds_only_what_was_asked_for():
    emission = Emission((8, 9), (-0.5, -1.5), FinishReason.LENGTH)
    plain = write_tensors(read_call(minimal(), "a"), emission, (-0.25, -0.5, -1.5))
    assert {name: tensor.tolist() for name, tensor in plain.items()} == {
        "output_ids": [[[8, 9]]],
        "sequence_length": [[2]],
    }
    flags = ("return_log_probs", "return_num_input_tokens", "return_num_output_tokens")
    full = write_tensors(
        read_call(minimal(**{name: np.array([[True]]) for name in flags}), "a"), emission, (-0.25, -0.5, -1.5)
    )
    assert {name: tensor.tolist() for name, tensor in full.items()} == {
        "output_ids": [[[8, 9]]],
        "sequence_length": [[2]],
        "cum_log_probs": [[-2.25]],
        "output_log_probs": [[[-0.25, -0.5, -1.5]]],
        "num_input_tokens": [[3]],
        "num_output_tokens": [[2]],
    }


def test_which_of_several_answers_a_response_is_of():
    call = read_call(minimal(num_return_sequences=np.array([[2]], np.int32)), "a")
    assert write_tensors(call, Emission((8,), sequence_index=1), ())["sequence_index"].tolist() == [[1]]


@pytest.mark.parametrize("tokens", [(), (1,), (1, 2, 3)])
def test_outputs_have_the_declared_types_and_ranks(tokens):
    outputs = {entry["name"]: entry for entry in GOLDEN["outputs"]}
    flags = {name: np.array([[True]]) for name in ("return_log_probs", "return_num_input_tokens")}
    call = read_call(minimal(**flags, num_return_sequences=np.array([[2]], np.int32)), "a")
    for name, tensor in write_tensors(call, Emission(tokens), (-1.0,) * len(tokens)).items():
        assert tensor.dtype == NUMPY_TYPES[outputs[name]["data_type"]]
        assert tensor.ndim == 1 + len(outputs[name]["dims"])
