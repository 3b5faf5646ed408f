"""What a model would have said at each step of an answer that somebody else gave.

Prompts enter in the chunks, and tokens one by one, that the engine would have used. So a model's own answer gives
exactly the logits it was sampled from. As many answers as a pool has slots run together; no row's bits depend on its
company.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from nvlm_trt.embedded.pool import Pool
from nvlm_trt.embedded.request import Emission, GenerationRequest
from nvlm_trt.embedded.scheduler import Limits
from nvlm_trt.embedded.sequence import Sequence as Running

__all__ = ["Forced", "forced_logits"]

Forced = tuple[GenerationRequest, Sequence[int]]
"""A prompt, and the tokens that follow it whatever the model would choose."""


def forced_logits(pool: Pool, limits: Limits, forced: Iterable[Forced]) -> Iterator[NDArray[np.float32]]:
    """For each answer, float32 [tokens + 1, vocab]: the logits after the prompt, after the first token, ..., after the
    last.

    ``pool`` is empty, and empty again at the end; ``limits`` are those of the engine that is followed.
    """
    waiting = iter(forced)
    while group := list(islice(waiting, limits.max_batch_size)):
        yield from _together(pool, limits.chunk_for(pool.block_size), group)


def _together(pool: Pool, chunk: int, group: Sequence[Forced]) -> list[NDArray[np.float32]]:
    found = []
    running: dict[Running, list[NDArray[np.float32]]] = {}
    for request, tokens in group:
        sequence = Running(request, _deaf)
        sequence.tokens = list(tokens)
        if not pool.admit(sequence, spare=0):
            raise RuntimeError("the pool has no room for the sequences it was made for")
        running[sequence] = [_prompt(pool, sequence, chunk)]
        found.append(running[sequence])
    while running:
        for sequence in [one for one in running if one.cached == one.length]:
            pool.release(sequence)
            del running[sequence]
        for sequence in running:
            pool.grow(sequence)
        ordered = pool.in_order(list(running))
        for sequence, row in zip(ordered, pool.decode(ordered) if ordered else (), strict=True):
            sequence.cached += 1
            running[sequence].append(row.copy())
    return [np.stack(rows) for rows in found]


def _prompt(pool: Pool, sequence: Running, chunk: int) -> NDArray[np.float32]:
    row = np.empty(0, np.float32)
    for start in range(0, sequence.prompt_length, chunk):
        stop = min(start + chunk, sequence.prompt_length)
        row = pool.prefill(sequence, start, stop)
        sequence.cached = stop
    return row.copy()


def _deaf(_emission: Emission) -> None:
    pass
