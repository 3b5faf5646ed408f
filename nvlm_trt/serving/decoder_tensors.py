"""The embedded decoder's part of the ``tensorrt_llm`` contract: from tensors to a request, from tokens to tensors.

TensorRT-LLM's Triton model has 62 inputs. The embedded decoder reads some, accepts others only with the one value that
asks for nothing, and refuses the rest by name, so that no request means one thing here and another in production.
``INPUT_RULES`` holds all of them; there is no other place.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import numpy as np
from numpy.typing import NDArray

from nvlm_trt.embedded.request import Emission, GenerationRequest, Sampling
from nvlm_trt.errors import RequestError
from nvlm_trt.serving.word_list import WordIds, from_tensor

__all__ = ["INPUT_RULES", "DecoderCall", "Rule", "asks_to_stop", "read_call", "write_tensors"]

_Value = TypeVar("_Value")
Tensors = Mapping[str, NDArray[Any]]


class Rule(enum.Enum):
    """What happens to an input that is not restricted to one value."""

    READ = "it shapes the answer"
    MOOT = "it cannot change an answer of the embedded decoder, which pads nothing"
    REFUSED = "the embedded decoder has nothing of the kind"


INPUT_RULES: Final[Mapping[str, Rule | int | float | bool]] = {
    "input_ids": Rule.READ,
    "encoder_input_features": Rule.REFUSED,
    "encoder_output_lengths": Rule.REFUSED,
    "input_lengths": Rule.READ,
    "request_output_len": Rule.READ,
    "num_return_sequences": Rule.READ,
    "draft_input_ids": Rule.REFUSED,
    "decoder_input_ids": Rule.REFUSED,
    "decoder_input_lengths": Rule.REFUSED,
    "draft_logits": Rule.REFUSED,
    "draft_acceptance_threshold": Rule.REFUSED,
    "end_id": Rule.READ,
    "pad_id": Rule.MOOT,
    "stop_words_list": Rule.READ,
    "bad_words_list": Rule.READ,
    "embedding_bias": Rule.READ,
    "beam_width": 1,
    "temperature": Rule.READ,
    "runtime_top_k": Rule.READ,
    "runtime_top_p": Rule.READ,
    "runtime_top_p_min": Rule.REFUSED,
    "runtime_top_p_decay": Rule.REFUSED,
    "runtime_top_p_reset_ids": Rule.REFUSED,
    "len_penalty": 1.0,
    "early_stopping": False,
    "repetition_penalty": Rule.READ,
    "min_tokens": Rule.READ,
    "beam_search_diversity_rate": 0.0,
    "presence_penalty": Rule.READ,
    "frequency_penalty": Rule.READ,
    "seed": Rule.READ,
    "return_log_probs": Rule.READ,
    "return_context_logits": False,
    "return_generation_logits": False,
    "return_perf_metrics": False,
    "return_num_input_tokens": Rule.READ,
    "return_num_output_tokens": Rule.READ,
    "exclude_input_in_output": True,
    "stop": Rule.READ,
    "streaming": Rule.READ,
    "prompt_embedding_table": Rule.READ,
    "prompt_table_extra_ids": Rule.READ,
    "prompt_vocab_size": Rule.READ,
    "cross_attention_mask": Rule.REFUSED,
    "mrope_rotary_cos_sin": Rule.REFUSED,
    "mrope_position_deltas": Rule.REFUSED,
    "lora_task_id": Rule.REFUSED,
    "lora_weights": Rule.REFUSED,
    "lora_config": Rule.REFUSED,
    "context_phase_params": Rule.REFUSED,
    "skip_cross_attn_blocks": Rule.REFUSED,
    "retention_token_range_starts": Rule.REFUSED,
    "retention_token_range_ends": Rule.REFUSED,
    "retention_token_range_priorities": Rule.REFUSED,
    "retention_token_range_durations_ms": Rule.REFUSED,
    "retention_decode_priority": Rule.REFUSED,
    "retention_decode_duration_ms": Rule.REFUSED,
    "guided_decoding_guide_type": Rule.REFUSED,
    "guided_decoding_guide": Rule.REFUSED,
    "lookahead_window_size": Rule.REFUSED,
    "lookahead_ngram_size": Rule.REFUSED,
    "lookahead_verification_set_size": Rule.REFUSED,
}


@dataclass(frozen=True, slots=True)
class DecoderCall:
    """One request of the ``tensorrt_llm`` model: what to generate, and in which form to answer."""

    request: GenerationRequest
    streaming: bool
    return_num_input_tokens: bool
    return_num_output_tokens: bool


def asks_to_stop(tensors: Tensors) -> bool:
    """Whether this request ends another one, the one with the same id."""
    return _scalar(tensors, "stop", bool, False)


def read_call(tensors: Tensors, request_id: str) -> DecoderCall:
    """``tensors`` as the server hands them over: each with a leading axis of one, for the batch.

    Raises ``RequestError``: E-PARAM-UNSUPPORTED, E-PARAM-SHAPE, E-PARAM-WORDS, E-PARAM-RANGE, E-PROMPT-EMPTY,
    E-PROMPT-TABLE.
    """
    for name, tensor in tensors.items():
        _check(name, tensor)
    ids = _row(tensors, "input_ids")
    length = _scalar(tensors, "input_lengths", int, len(ids))
    if length != len(ids):
        raise _bad_shape("input_lengths", f"is {length} but input_ids has {len(ids)} ids")
    end_id = _scalar(tensors, "end_id", int, -1)
    return DecoderCall(
        request=GenerationRequest(
            request_id=request_id,
            input_ids=ids.astype(np.int32),
            max_tokens=_scalar(tensors, "request_output_len", int, 0),
            prompt_table=_prompt_table(tensors),
            extra_ids=_row(tensors, "prompt_table_extra_ids") if "prompt_table_extra_ids" in tensors else None,
            embedding_bias=_row(tensors, "embedding_bias") if "embedding_bias" in tensors else None,
            end_id=end_id if end_id >= 0 else None,  # -1 is TensorRT-LLM's way to say none
            min_tokens=_scalar(tensors, "min_tokens", int, 0),
            stop_words=_words(tensors, "stop_words_list"),
            bad_words=_words(tensors, "bad_words_list"),
            sampling=Sampling(
                temperature=_scalar(tensors, "temperature", float, 1.0),
                top_k=_scalar(tensors, "runtime_top_k", int, 1),
                top_p=_scalar(tensors, "runtime_top_p", float, 1.0),
                seed=_scalar(tensors, "seed", int, 0),
                repetition_penalty=_scalar(tensors, "repetition_penalty", float, 1.0),
                presence_penalty=_scalar(tensors, "presence_penalty", float, 0.0),
                frequency_penalty=_scalar(tensors, "frequency_penalty", float, 0.0),
            ),
            return_log_probs=_scalar(tensors, "return_log_probs", bool, False),
            num_return_sequences=_scalar(tensors, "num_return_sequences", int, 1),
        ),
        streaming=_scalar(tensors, "streaming", bool, False),
        return_num_input_tokens=_scalar(tensors, "return_num_input_tokens", bool, False),
        return_num_output_tokens=_scalar(tensors, "return_num_output_tokens", bool, False),
    )


def write_tensors(call: DecoderCall, emission: Emission, log_probs: Sequence[float]) -> dict[str, NDArray[Any]]:
    """The output tensors of one response, each with a leading batch axis.

    What was not asked for is left out, as in production; ``sequence_index`` comes with ``num_return_sequences``.
    ``log_probs`` are those of all tokens of its sequence up to and including this response: as in production, a
    response brings only its own tokens, but the log probabilities of all so far.
    """
    tokens = np.array([[emission.tokens]], np.int32).reshape(1, 1, -1)
    tensors: dict[str, NDArray[Any]] = {
        "output_ids": tokens,
        "sequence_length": np.array([[tokens.size]], np.int32),
    }
    if call.request.num_return_sequences > 1:
        tensors["sequence_index"] = np.array([[emission.sequence_index]], np.int32)
    if call.request.return_log_probs:
        tensors["cum_log_probs"] = np.array([[sum(log_probs)]], np.float32)
        tensors["output_log_probs"] = np.array([[log_probs]], np.float32).reshape(1, 1, -1)
    if call.return_num_input_tokens:
        tensors["num_input_tokens"] = np.array([[call.request.input_ids.size]], np.int32)
    if call.return_num_output_tokens:
        tensors["num_output_tokens"] = np.array([[tokens.size]], np.int32)
    return tensors


def _check(name: str, tensor: NDArray[Any]) -> None:
    rule = INPUT_RULES.get(name, Rule.REFUSED)
    if rule is Rule.REFUSED:
        raise RequestError("E-PARAM-UNSUPPORTED", f"The embedded decoder does not support {name}.", "Leave it out.")
    if tensor.ndim == 0 or tensor.shape[0] != 1:
        raise _bad_shape(name, f"has shape {list(tensor.shape)}; a leading axis of one is wanted")
    if not isinstance(rule, Rule) and (tensor.size != 1 or tensor.flat[0] != rule):
        raise RequestError(
            "E-PARAM-UNSUPPORTED", f"The embedded decoder only supports {name} = {rule}.", "Leave it out."
        )


def _scalar(tensors: Tensors, name: str, kind: Callable[[Any], _Value], default: _Value) -> _Value:
    if name not in tensors:
        return default
    if tensors[name].size != 1:
        raise _bad_shape(name, f"has {tensors[name].size} values; one is wanted")
    return kind(tensors[name].flat[0])


def _row(tensors: Tensors, name: str) -> NDArray[Any]:
    return tensors[name].reshape(-1) if name in tensors else np.zeros(0, np.int32)


def _words(tensors: Tensors, name: str) -> WordIds:
    return from_tensor(tensors[name]) if name in tensors else ()


def _prompt_table(tensors: Tensors) -> NDArray[np.float32] | None:
    table = tensors.get("prompt_embedding_table")
    if table is None:
        return None
    if table.ndim != 3:
        raise _bad_shape("prompt_embedding_table", f"has shape {list(table.shape)}; [1, rows, hidden] is wanted")
    rows = _scalar(tensors, "prompt_vocab_size", int, table.shape[1])
    if rows != table.shape[1]:
        raise RequestError(
            "E-PROMPT-TABLE",
            f"prompt_vocab_size is {rows} but the prompt table has {table.shape[1]} rows.",
            "Send the number of rows.",
        )
    rows_of_one: NDArray[np.float32] = table[0].astype(np.float32, copy=False)
    return rows_of_one


def _bad_shape(name: str, why: str) -> RequestError:
    return RequestError("E-PARAM-SHAPE", f"{name} {why}.", "Correct the tensor and send again.")
