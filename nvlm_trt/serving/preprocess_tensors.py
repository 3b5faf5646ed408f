"""The tensors of the ``preprocessing`` model: a client's in, everything the engines read out.

The decoder model has a batch axis and ``preprocessing`` has none, so what the decoder reads carries a leading axis of
one. Names are the decoder's own, so the ensemble's wiring is a list of equal names.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nvlm_trt.serving.preprocess import Prepared
from nvlm_trt.serving.word_list import to_tensor

__all__ = ["client_values", "write_prepared"]

# Triton's own keys in a request's JSON, which its HTTP and gRPC doors hand on to the models as parameters.
_TRITON_PARAMETERS = frozenset(
    {"id", "sequence_id", "sequence_start", "sequence_end", "priority", "timeout", "binary_data_output"}
    # Not Triton's, but the trace that a request belongs to, which changes nothing about its answer.
    | {"traceparent", "tracestate"}
)


def client_values(tensors: Mapping[str, NDArray[Any]], parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Everything a client sent, by name.

    Triton's ``/generate`` silently turns JSON keys it does not know into request parameters. Here they are values like
    others, to be refused by name.
    """
    extra = {
        name: value
        for name, value in parameters.items()
        if name not in _TRITON_PARAMETERS and not name.startswith("triton_")
    }
    return {**extra, **tensors}


def write_prepared(prepared: Prepared) -> dict[str, NDArray[Any]]:
    """All outputs of ``preprocessing``.

    For the decoder, with a leading axis of one: scalars [1, 1], ``input_ids`` INT32 [1, n], ``prompt_table_extra_ids``
    UINT64 [1, n], word lists INT32 [1, 2, n]. For ``vision_encoder``: ``tiles`` UINT8 [n, S, S, 3]. For clients that
    ask this model alone: ``image_sizes`` INT32 [images, 2] (width, height) and ``tile_grids`` INT32 [images, 2]
    (columns, rows).
    """
    sampling = prepared.sampling
    return {
        "input_ids": prepared.input_ids[None],
        "input_lengths": _scalar(prepared.input_ids.size, np.int32),
        "request_output_len": _scalar(prepared.max_tokens, np.int32),
        "end_id": _scalar(prepared.end_id, np.int32),
        "pad_id": _scalar(prepared.pad_id, np.int32),
        "stop_words_list": to_tensor(prepared.stop_words),
        "bad_words_list": to_tensor(prepared.bad_words),
        "temperature": _scalar(sampling.temperature, np.float32),
        "runtime_top_k": _scalar(sampling.top_k, np.int32),
        "runtime_top_p": _scalar(sampling.top_p, np.float32),
        "repetition_penalty": _scalar(sampling.repetition_penalty, np.float32),
        "min_tokens": _scalar(prepared.min_tokens, np.int32),
        "presence_penalty": _scalar(sampling.presence_penalty, np.float32),
        "frequency_penalty": _scalar(sampling.frequency_penalty, np.float32),
        "seed": _scalar(sampling.seed, np.uint64),
        "return_log_probs": _scalar(prepared.return_log_probs, np.bool_),
        "return_num_input_tokens": _scalar(True, np.bool_),
        "return_num_output_tokens": _scalar(True, np.bool_),
        "streaming": _scalar(prepared.stream, np.bool_),
        "prompt_table_extra_ids": prepared.extra_ids[None],
        "tiles": prepared.tiles,
        "image_sizes": np.array(prepared.image_sizes, np.int32).reshape(-1, 2),
        "tile_grids": np.array([(grid.cols, grid.rows) for grid in prepared.grids], np.int32).reshape(-1, 2),
    }


def _scalar(value: Any, dtype: type[np.generic]) -> NDArray[Any]:
    return np.full((1, 1), value, dtype)
