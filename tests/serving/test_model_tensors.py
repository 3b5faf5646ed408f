"""The tensors of preprocessing, vision_encoder and postprocessing, without Triton."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from google.protobuf import text_format
from hypothesis import given
from hypothesis import strategies as st
from tritonclient.grpc import model_config_pb2

from nvlm_trt.errors import RequestError
from nvlm_trt.model.tokenizer import NvlmTokenizer
from nvlm_trt.resources import resource_folder
from nvlm_trt.serving.decoder_tensors import read_call
from nvlm_trt.serving.detokenize import StreamDecoder
from nvlm_trt.serving.parameters import RequestFields
from nvlm_trt.serving.postprocess_tensors import decode_response
from nvlm_trt.serving.preprocess_tensors import client_values, write_prepared
from nvlm_trt.serving.vision_tensors import empty_table, write_table

TRITON_TYPES = {np.bool_: "BOOL", np.int32: "INT32", np.uint8: "UINT8", np.uint64: "UINT64", np.float32: "FP32"}


def model_config(name: str):
    text = (resource_folder("triton_repo") / name / "config.pbtxt").read_text(encoding="utf-8")
    return text_format.Parse(text, model_config_pb2.ModelConfig())


@pytest.mark.parametrize("num_images", [0, 1, 3])
def test_preprocessing_gives_exactly_the_outputs_its_configuration_names(preprocessor, png, num_images):
    images = tuple(png(90 + seed, 60, seed) for seed in range(num_images))
    tensors = write_prepared(preprocessor.prepare(RequestFields("What?", 5, images=images, stop_words=("a",))))
    declared = {output.name: output for output in model_config("preprocessing").output}
    assert tensors.keys() == declared.keys()
    for name, tensor in tensors.items():
        assert "TYPE_" + TRITON_TYPES[tensor.dtype.type] == model_config_pb2.DataType.Name(declared[name].data_type)
        assert tensor.ndim == len(declared[name].dims)
        assert all(want in (-1, size) for want, size in zip(declared[name].dims, tensor.shape, strict=True)), name
    assert tensors["image_sizes"].tolist() == [[90 + seed, 60] for seed in range(num_images)]
    assert tensors["tile_grids"].shape == (num_images, 2)


def test_the_decoder_reads_what_preprocessing_writes(preprocessor):
    fields = RequestFields.from_client(
        {
            "text_input": "What is this?",
            "max_tokens": 7,
            "min_tokens": 2,
            "temperature": 0.5,
            "top_k": 9,
            "top_p": 0.75,
            "seed": 2**63 + 1,
            "repetition_penalty": 1.25,
            "presence_penalty": 0.5,
            "frequency_penalty": -0.5,
            "stop_words": ["stop", "halt"],
            "bad_words": ["bad"],
            "end_id": 3,
            "stream": True,
            "return_log_probs": True,
        },
        max_images=1,
    )
    prepared = preprocessor.prepare(fields)
    tensors = write_prepared(prepared)
    wired = set(model_config("ensemble").ensemble_scheduling.step[2].input_map) & tensors.keys()
    call = read_call({name: tensors[name] for name in wired}, "a")
    assert call.request.input_ids.tolist() == prepared.input_ids.tolist()
    assert call.request.max_tokens == 7
    assert call.request.min_tokens == 2
    assert call.request.end_id == 3
    assert call.request.sampling == prepared.sampling
    assert call.request.stop_words == prepared.stop_words
    assert call.request.bad_words == prepared.bad_words
    assert call.request.return_log_probs
    assert call.streaming
    assert call.return_num_input_tokens
    assert call.return_num_output_tokens


def test_keys_of_triton_are_no_values_but_unknown_ones_are():
    tensors = {"text_input": np.array([b"a"], np.object_)}
    parameters = {"id": "1", "priority": 0, "triton_enable_empty_final_response": True, "temperatur": 0.5}
    assert client_values(tensors, parameters) == {**tensors, "temperatur": 0.5}


def test_rows_of_all_tiles_become_one_table():
    rows = np.arange(2 * 3 * 4, dtype=np.float32).reshape(2, 3, 4)
    tensors = write_table(rows, "float32")
    np.testing.assert_array_equal(tensors["prompt_embedding_table"][0], rows.reshape(6, 4))
    assert tensors["prompt_vocab_size"].tolist() == [[6]]


@pytest.mark.parametrize(("rows", "name"), [(np.ones((1, 2, 3), np.float32), "numpy"), (torch.ones(1, 2, 3), "torch")])
def test_a_half_precision_table_is_a_torch_tensor(rows, name):
    table = write_table(rows.to(torch.bfloat16) if name == "torch" else rows, "bfloat16")["prompt_embedding_table"]
    assert table.dtype == torch.bfloat16
    assert table.shape == (1, 2, 3)


def test_an_engines_rows_leave_in_the_decoders_dtype_and_uncopied_where_they_have_it():
    rows = torch.arange(24).reshape(2, 3, 4)
    for engine in (torch.float16, torch.bfloat16, torch.float32):
        for decoder in ("float16", "bfloat16", "float32"):
            given = rows.to(engine)
            table = write_table(given, decoder)["prompt_embedding_table"]
            assert table.dtype == getattr(torch, decoder)
            assert torch.equal(table[0], rows.reshape(6, 4).to(table.dtype))
            assert (table.data_ptr() == given.data_ptr()) == (table.dtype == engine)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_rows_of_another_device_are_moved_to_host_memory(dtype):
    """PyTorch's device "meta" stands for a GPU here: it has no values, so it can only refuse the move."""
    rows = torch.empty(2, 3, 4, dtype=getattr(torch, dtype), device="meta")
    with pytest.raises(NotImplementedError, match="Cannot copy out of meta tensor"):
        write_table(rows, dtype)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_no_pictures_are_one_row_of_zeros(dtype):
    tensors = empty_table(4, dtype)
    assert tensors["prompt_embedding_table"].shape == (1, 1, 4)
    assert not tensors["prompt_embedding_table"].any()
    assert tensors["prompt_vocab_size"].tolist() == [[1]]


@pytest.fixture(scope="module")
def tokenizer(small_checkpoint) -> NvlmTokenizer:
    return NvlmTokenizer.from_folder(small_checkpoint)


def response(ids: list[int], length: int | None = None) -> dict[str, Any]:
    padded = np.array([[ids]], np.int32).reshape(1, 1, -1)
    return {"output_ids": padded, "sequence_length": np.array([[len(ids) if length is None else length]], np.int32)}


def text_of(tensors) -> str:
    return str(tensors["text_output"][0].decode())


@given(st.text(st.characters(codec="utf-8", exclude_characters="\r"), max_size=20), st.data())
def test_a_stream_cut_anywhere_gives_the_whole_text(tokenizer, text, data):
    ids = tokenizer.encode_text(text)
    whole = tokenizer.decode_bytes(ids).decode()
    decoder, pieces = StreamDecoder(tokenizer), []
    rest = [*ids, tokenizer.eos_id]
    while rest:
        size = data.draw(st.integers(1, len(rest)))
        pieces.append(text_of(decode_response(decoder, response(rest[:size]), "a", tokenizer.eos_id)))
        rest = rest[size:]
    assert "".join(pieces) == whole
    assert decoder.num_unfinished == 0


def test_only_sequence_length_ids_count(tokenizer):
    ids = tokenizer.encode_text("ab")
    decoder = StreamDecoder(tokenizer)
    text = text_of(decode_response(decoder, response([*ids, *ids], len(ids)), "a", tokenizer.eos_id))
    assert text == "ab"


@pytest.mark.parametrize("lengths", [[], [-1], [3], [1, 1]])
def test_lengths_that_lie(tokenizer, lengths):
    tensors = {**response([5, 6]), "sequence_length": np.array([lengths], np.int32)}
    with pytest.raises(RequestError) as caught:
        decode_response(StreamDecoder(tokenizer), tensors, "a", tokenizer.eos_id)
    assert caught.value.code == "E-PARAM-SHAPE"


@pytest.mark.parametrize(("request_id", "ending"), [("a", []), ("", None)])
def test_what_ends_inside_a_character_leaves_nothing_behind(tokenizer, request_id, ending):
    begun = tokenizer.encode_text("é")[:1]
    decoder = StreamDecoder(tokenizer)
    assert tokenizer.decode_bytes(begun) == "é".encode()[:1]
    texts = [text_of(decode_response(decoder, response(begun), request_id, tokenizer.eos_id))]
    if ending is not None:
        texts.append(text_of(decode_response(decoder, response(ending), request_id, tokenizer.eos_id)))
    assert "".join(texts) == "�"
    assert decoder.num_unfinished == 0
