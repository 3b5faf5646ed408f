"""The tensors of the ``postprocessing`` model: the decoder's tokens in, text out.

An ensemble gives its last step only the decoder's tensors and the request's id; not even that this response is the
last. So a stream is identified by its id, and it is over when a response holds no token or ends with the end token. A
stream cut inside a character at ``max_tokens`` loses that character. Without an id nothing can be kept from one
response to the next, so a character whose bytes come in two of them shows as U+FFFD.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nvlm_trt.errors import RequestError
from nvlm_trt.serving.detokenize import StreamDecoder

__all__ = ["decode_response"]


def decode_response(
    decoder: StreamDecoder, tensors: Mapping[str, NDArray[Any]], request_id: str, eos_id: int
) -> dict[str, NDArray[Any]]:
    """``text_output`` STRING [1] for ``output_ids`` INT32 [1, 1, n], of which ``sequence_length`` INT32 [1, 1] count.

    Raises ``RequestError`` E-PARAM-SHAPE for tensors that no decoder with one beam sends.
    """
    tokens, lengths = tensors["output_ids"].reshape(-1), tensors["sequence_length"]
    if lengths.size != 1 or not 0 <= lengths.flat[0] <= tokens.size:
        raise RequestError(
            "E-PARAM-SHAPE",
            f"sequence_length is {lengths.ravel()[:4].tolist()} for {tokens.size} ids in output_ids.",
            "Send one length, at most that.",
        )
    ids = tokens[: lengths.flat[0]].tolist()
    text = decoder.push(request_id, ids)
    if not request_id or not ids or ids[-1] == eos_id:
        text += decoder.finish(request_id)
    return {"text_output": np.array([text.encode()], np.object_)}
