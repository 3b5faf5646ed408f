"""Stop and bad words in the tensor form of TensorRT-LLM: int32 [1, 2, n].

Row 0 holds the ids of all words one after another. Row 1 holds where each word ends (exclusive), padded with -1. No
words are one column: id 0 that belongs to no word.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nvlm_trt.errors import RequestError

__all__ = ["WordIds", "from_tensor", "to_tensor"]

WordIds = tuple[tuple[int, ...], ...]

# Twice what 64 words of 512 bytes can have. Every word is looked at for every token, in the thread that serves all.
_MAX_IDS = 2**16


def to_tensor(words: Sequence[Sequence[int]]) -> NDArray[np.int32]:
    """The tensor of ``words``, none of which may be empty: an empty one would end where it begins."""
    flat = [id for word in words for id in word]
    tensor = np.full((1, 2, max(1, len(flat))), -1, np.int32)
    tensor[0, 0] = flat or 0
    tensor[0, 1, : len(words)] = list(accumulate(map(len, words)))
    return tensor


def from_tensor(tensor: NDArray[Any]) -> WordIds:
    """The inverse of ``to_tensor``. Raises ``RequestError`` E-PARAM-WORDS for any other tensor."""
    if tensor.ndim != 3 or tensor.shape[:2] != (1, 2) or tensor.dtype.kind not in "iu":
        raise _malformed(f"the tensor has shape {list(tensor.shape)}, int32 [1, 2, n] is wanted")
    if tensor.shape[2] > _MAX_IDS:
        raise _malformed(f"it has room for {tensor.shape[2]} ids, {_MAX_IDS} are allowed")
    flat, ends = tensor[0].tolist()
    if -1 in ends:
        ends, filling = ends[: ends.index(-1)], ends[ends.index(-1) :]
        if set(filling) != {-1}:
            raise _malformed("an end follows the filling")
    words = tuple(tuple(flat[begin:end]) for begin, end in pairwise([0, *ends]))
    if not all(words) or (ends and ends[-1] > len(flat)):
        raise _malformed("ends do not rise or lie beyond the ids")
    if any(id < 0 for word in words for id in word):
        raise _malformed("an id is negative")
    return words


def _malformed(why: str) -> RequestError:
    return RequestError("E-PARAM-WORDS", f"A word list is malformed: {why}.", "Send words as text instead.")
