"""One step of the model and the tokens it gives."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nvlm_trt.embedded.pool import Pool
from nvlm_trt.embedded.request import Emission, FinishReason
from nvlm_trt.embedded.sampler import sample
from nvlm_trt.embedded.scheduler import Step
from nvlm_trt.embedded.sequence import Sequence

__all__ = ["Generation"]


class Generation:
    """Runs steps over a pool; ``model_s`` counts the seconds spent in the model."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self.model_s = 0.0

    def run(self, step: Step) -> Iterator[list[tuple[Sequence, Emission]]]:
        """What each call of the model gives, as soon as it is there: a first token does not wait for another prompt."""
        if step.decoding:
            logits = self._timed(self._pool.decode, step.decoding)
            for sequence in step.decoding:
                sequence.cached += 1
            yield _sampled(logits, step.decoding)
        for chunk in step.chunks:
            row = self._timed(self._pool.prefill, chunk.sequence, chunk.start, chunk.stop)
            if chunk.last:
                yield _sampled(row[np.newaxis], [chunk.sequence])

    def _timed(self, call: Callable[..., NDArray[np.float32]], *args: Any) -> NDArray[np.float32]:
        started = time.perf_counter()
        logits = call(*args)
        self.model_s += time.perf_counter() - started
        return logits


def _sampled(logits: NDArray[np.float32], sequences: list[Sequence]) -> list[tuple[Sequence, Emission]]:
    """A new token for each sequence, except those whose old tokens are still on their way back into the pool."""
    fresh = [index for index, sequence in enumerate(sequences) if sequence.cached == sequence.length]
    if len(fresh) < len(sequences):
        logits, sequences = logits[fresh], [sequences[index] for index in fresh]
    return [
        (sequence, _emission(token, log_prob, sequence.accept(token)))
        for sequence, token, log_prob in zip(sequences, *sample(logits, sequences), strict=True)
    ]


def _emission(token: int, log_prob: tuple[float, ...], finish: FinishReason | None) -> Emission:
    return Emission((), finish=finish) if finish is FinishReason.END_ID else Emission((token,), log_prob, finish)
