"""Tensors that lie, sent straight to each model over gRPC, past the front door."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from nvlm_trt.checkpoint.synthetic import SIZES
from nvlm_trt.checkpoint.synthetic.config_json import config_json
from nvlm_trt.model.config import NvlmConfig
from tests.attacks.attack import ANSWERED, REFUSED
from tests.attacks.doors import Tensor

__all__ = ["TENSORS", "TensorAttack"]


@dataclass(frozen=True)
class TensorAttack:
    model: str
    tried: str
    tensors: Mapping[str, Tensor] = field(repr=False)
    code: str


def _int32(*values: int, shape: tuple[int, ...] | None = None) -> Tensor:
    return Tensor.of("INT32", values, shape if shape is not None else (1, len(values)))


def _float32(*values: float, shape: tuple[int, ...] | None = None) -> Tensor:
    return Tensor.of("FP32", values, shape if shape is not None else (1, len(values)))


def _ensemble() -> list[TensorAttack]:
    good = {"text_input": Tensor.of("BYTES", ["Hello"]), "max_tokens": Tensor.of("INT32", [3])}

    def attack(tried: str, code: str = REFUSED, **change: Tensor) -> TensorAttack:
        return TensorAttack("ensemble", tried, {**good, **change}, code)

    huge = Tensor("UINT8", (2**31, 2**31, 4, 1), b"")
    return [
        TensorAttack("ensemble", "no inputs at all", {}, REFUSED),
        TensorAttack("ensemble", "no max_tokens", {"text_input": good["text_input"]}, REFUSED),
        attack("an input nobody knows", nobody=Tensor.of("INT32", [1])),
        attack("a number as text", text_input=Tensor.of("INT32", [1])),
        attack("a text as number", max_tokens=Tensor.of("BYTES", ["3"])),
        attack("floats as integers", max_tokens=Tensor.of("FP32", [3.0])),
        attack("a type that does not exist", max_tokens=Tensor("INT33", (1,), bytes(4))),
        attack("two values where one is wanted", max_tokens=Tensor.of("INT32", [3, 3])),
        attack("one dimension too many", max_tokens=Tensor.of("INT32", [3], (1, 1))),
        attack("a negative dimension", max_tokens=Tensor.of("INT32", [3], (-1,))),
        attack("fewer bytes than the shape says", max_tokens=Tensor("INT32", (1,), b"\3\0")),
        attack("no bytes", max_tokens=Tensor("INT32", (1,), b"")),
        attack("a text that says it is longer than what comes", text_input=Tensor("BYTES", (1,), b"\xff\xff\0\0Hi")),
        attack("a text whose length is cut", text_input=Tensor("BYTES", (1,), b"\1\0")),
        attack("fewer texts than the shape says", stop_words=Tensor("BYTES", (3,), b"\1\0\0\0a")),
        attack("2^62 texts, none sent", stop_words=Tensor("BYTES", (2**62,), b"")),
        attack("pixels of 2^64 bytes, none sent", image_bytes_input=huge),
        attack("a video of 2^64 bytes, none sent", video_bytes_input=huge),
        attack("an empty list of pictures", ANSWERED, image_url_input=Tensor("BYTES", (0,), b"")),
    ]


def _decoder(config: NvlmConfig) -> list[TensorAttack]:
    vocab, hidden = config.decoder.vocab_size, config.decoder.hidden_size
    good = {"input_ids": _int32(5, 6, 7), "input_lengths": _int32(3), "request_output_len": _int32(3)}
    one_row = _float32(*[0.5] * hidden, shape=(1, 1, hidden))

    def attack(tried: str, code: str, **change: Tensor) -> TensorAttack:
        return TensorAttack("tensorrt_llm", tried, {**good, **change}, code)

    return [
        attack("an id the vocabulary does not have", "E-PROMPT-TOKEN", input_ids=_int32(5, 6, vocab)),
        attack("the largest id", "E-PROMPT-TOKEN", input_ids=_int32(5, 6, 2**31 - 1)),
        attack("a negative id", "E-PROMPT-TOKEN", input_ids=_int32(5, -6, 7)),
        attack(
            "an id beyond the prompt table", "E-PROMPT-TABLE",
            input_ids=_int32(5, vocab, vocab + 1), prompt_embedding_table=one_row,
        ),
        attack(
            "a prompt table of another width", "E-PROMPT-TABLE",
            prompt_embedding_table=_float32(1, 2, shape=(1, 1, 2)),
        ),
        attack(
            "a prompt table that is no number", "E-PROMPT-TABLE",
            prompt_embedding_table=_float32(*[math.nan] * hidden, shape=(1, 1, hidden)),
        ),
        attack(
            "a prompt table of rows without width", "E-PROMPT-TABLE",
            prompt_embedding_table=Tensor("FP32", (1, 5, 0), b""),
        ),
        attack(
            "a table's length that lies", "E-PROMPT-TABLE",
            prompt_embedding_table=one_row, prompt_vocab_size=_int32(4096),
        ),
        attack("a prompt's length that lies", "E-PARAM-SHAPE", input_lengths=_int32(300)),
        attack("a negative length", "E-PARAM-SHAPE", input_lengths=_int32(-1)),
        attack("no ids", "E-PROMPT-EMPTY", input_ids=Tensor("INT32", (1, 0), b""), input_lengths=_int32(0)),
        attack("no tokens wanted", "E-PARAM-RANGE", request_output_len=_int32(0)),
        attack("more tokens than positions", "E-PROMPT-LENGTH", request_output_len=_int32(2**31 - 1)),
        attack("a temperature that is no number", "E-PARAM-RANGE", temperature=_float32(math.nan)),
        attack("two beams", "E-PARAM-UNSUPPORTED", beam_width=_int32(2)),
        attack("draft tokens", "E-PARAM-UNSUPPORTED", draft_input_ids=_int32(1, 2)),
        attack(
            "words that end before they begin", "E-PARAM-WORDS",
            stop_words_list=_int32(1, 2, 5, 1, shape=(1, 2, 2)),
        ),
        attack("words of negative ids", "E-PARAM-WORDS", bad_words_list=_int32(-7, 2, 1, 2, shape=(1, 2, 2))),
        attack(
            "a hundred thousand words", "E-PARAM-WORDS",
            stop_words_list=_int32(*[7] * 10**5, *range(1, 10**5 + 1), shape=(1, 2, 10**5)),
        ),
        attack("words beyond the vocabulary", ANSWERED, bad_words_list=_int32(vocab, 2**31 - 1, 1, 2, shape=(1, 2, 2))),
        attack("words in three rows", REFUSED, stop_words_list=_int32(1, 2, 3, shape=(1, 3, 1))),
        attack("a stop without saying of what", "E-PARAM-ID", stop=Tensor("BOOL", (1, 1), b"\1")),
        attack("2^64 bytes of ids, three sent", REFUSED, input_ids=_int32(5, 6, 7, shape=(1, 2**62))),
        TensorAttack(
            "tensorrt_llm", "two requests in one",
            {name: Tensor("INT32", (2, 1), bytes(8)) for name in good}, "E-PARAM-SHAPE",
        ),
    ]  # fmt: skip


def _vision(config: NvlmConfig) -> list[TensorAttack]:
    side = config.tiling.tile_size

    def attack(tried: str, code: str, shape: tuple[int, ...], num_bytes: int) -> TensorAttack:
        return TensorAttack("vision_encoder", tried, {"tiles": Tensor("UINT8", shape, bytes(num_bytes))}, code)

    return [
        attack("tiles of one pixel", "E-IMAGE-TILES", (2, 1, 1, 3), 6),
        attack("tiles of no pixels", "E-IMAGE-TILES", (2, 0, 0, 3), 0),
        attack("2^40 tiles of no pixels", "E-IMAGE-TILES", (2**40, 0, 0, 3), 0),
        attack("tiles that are not square", "E-IMAGE-TILES", (1, side, side + 1, 3), side * (side + 1) * 3),
        attack("four channels", REFUSED, (1, side, side, 4), side * side * 4),
        attack("two tiles, bytes for one", REFUSED, (2, side, side, 3), side * side * 3),
        TensorAttack("vision_encoder", "floats", {"tiles": _float32(0, 0, 0, shape=(1, 1, 1, 3))}, REFUSED),
        attack("no tiles", ANSWERED, (0, side, side, 3), 0),
    ]


def _postprocessing() -> list[TensorAttack]:
    def attack(tried: str, code: str, ids: Tensor, lengths: Tensor) -> TensorAttack:
        return TensorAttack("postprocessing", tried, {"output_ids": ids, "sequence_length": lengths}, code)

    ids = _int32(5, 6, shape=(1, 1, 2))
    return [
        attack("more ids than there are", "E-PARAM-SHAPE", ids, _int32(2**31 - 1)),
        attack("a negative length", "E-PARAM-SHAPE", ids, _int32(-1)),
        attack("no length", "E-PARAM-SHAPE", ids, Tensor("INT32", (1, 0), b"")),
        attack("two beams", "E-PARAM-SHAPE", _int32(5, 6, shape=(1, 2, 1)), _int32(1, 1)),
        attack("ids no token has", ANSWERED, _int32(2**31 - 1, -5, shape=(1, 1, 2)), _int32(2)),
        attack("no ids", ANSWERED, Tensor("INT32", (1, 0, 0), b""), _int32(0)),
    ]


_SMALL = NvlmConfig.from_json(config_json(SIZES["small"]))
TENSORS = [*_ensemble(), *_decoder(_SMALL), *_vision(_SMALL), *_postprocessing()]
