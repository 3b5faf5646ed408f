"""Keys that identify the beginning of a prompt, so that requests that begin alike can share keys and values.

A key stands for a prompt's first blocks, all of them from position 0 on: a 256-bit hash of the key before it and of
what this block holds. Ordinary ids count as themselves. A virtual id counts as the bytes of the row it points at, so
two pictures never match however their ids are numbered. ``prompt_table_extra_ids`` count as well: a client that sends
different ones does not want to share, as in TensorRT-LLM. They are not trusted alone, because a wrong one would answer
about another picture.
"""

from __future__ import annotations

import hashlib

import numpy as np

from nvlm_trt.embedded.request import GenerationRequest

__all__ = ["prefix_keys", "reusable_blocks"]


def prefix_keys(request: GenerationRequest, vocab_size: int, block_size: int) -> list[bytes]:
    """One key for each block of ``block_size`` positions that the prompt fills."""
    virtual = request.input_ids >= vocab_size
    ids = np.where(virtual, -1, request.input_ids).astype("<i4")
    extra = np.zeros(len(ids), "<u8") if request.extra_ids is None else request.extra_ids.astype("<u8")
    keys, key = [], b""
    for start in range(0, len(ids) - block_size + 1, block_size):
        block = slice(start, start + block_size)
        content = hashlib.blake2b(key, digest_size=32)
        content.update(ids[block].tobytes())
        content.update(extra[block].tobytes())
        if request.prompt_table is not None and virtual[block].any():
            rows = request.input_ids[block][virtual[block]] - vocab_size
            content.update(np.ascontiguousarray(request.prompt_table[rows], "<f4").data)
        key = content.digest()
        keys.append(key)
    return keys


def reusable_blocks(prompt_length: int, block_size: int, chunk: int) -> int:
    """How many of a prompt's first blocks may come from elsewhere.

    Its last position is always computed, for its logits. Nor may a single row be left where an empty cache would have
    computed several: attention over one row has other bits than over several, see ``graph``.
    """
    blocks = (prompt_length - 1) // block_size
    start = blocks * block_size
    return blocks - (prompt_length - start == 1 and start % chunk != 0)
