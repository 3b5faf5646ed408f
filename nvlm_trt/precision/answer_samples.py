"""Prompts and the answers that followed them, as a decoder's input rows."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nvlm_trt.checkpoint.base import Checkpoint
from nvlm_trt.decoder.sample_source import digest_rows
from nvlm_trt.precision.forcing import ForcedAnswer
from nvlm_trt.precision.prompts import Prompts

__all__ = ["AnswerSamples", "Repeated"]

_EMBEDDING = "language_model.model.embed_tokens.weight"

Floats = NDArray[np.float32]


class AnswerSamples:
    """``Samples``: prompts with the reference's answers, as float32 rows [positions, hidden]. They end before the last
    token of the answer, which nothing follows.
    """

    def __init__(self, checkpoint: Checkpoint, prompts: Prompts, answers: Sequence[ForcedAnswer]) -> None:
        self._checkpoint, self._prompts, self._answers = checkpoint, prompts, answers
        self._prompt_lengths = [len(prompts[answer.index].ids) for answer in answers]

    @property
    def lengths(self) -> Sequence[int]:
        pairs = zip(self._prompt_lengths, self._answers, strict=True)
        return [length + answer.positions - 1 for length, answer in pairs]

    @property
    def positions(self) -> Sequence[int]:
        """For each sample, how many of its last rows predict a token of the answer."""
        return [answer.positions for answer in self._answers]

    def key(self) -> str:
        return hashlib.sha256("".join(digest_rows(self[index]) for index in range(len(self))).encode()).hexdigest()

    def __len__(self) -> int:
        return len(self._answers)

    def __getitem__(self, index: int) -> Floats:
        answer = self._answers[index]  # an IndexError ends an iteration
        prompt = self._prompts[answer.index]
        embedding: NDArray[Any] = self._checkpoint.read(_EMBEDDING)
        ids = np.concatenate([prompt.ids, np.array(answer.tokens[: answer.positions - 1], np.int32)])
        virtual = ids >= len(embedding)
        rows = np.empty((len(ids), embedding.shape[1]), np.float32)
        rows[~virtual] = embedding[ids[~virtual]].astype(np.float32)
        rows[virtual] = prompt.rows[ids[virtual] - len(embedding)]
        return rows

    def release(self) -> None:
        self._checkpoint.drop_pages(_EMBEDDING)


class Repeated:
    """``Samples``: all of ``samples`` for the first variant, then all of them for the second, and so on."""

    def __init__(self, samples: AnswerSamples, times: int) -> None:
        self._samples, self._times = samples, times

    @property
    def lengths(self) -> Sequence[int]:
        return list(self._samples.lengths) * self._times

    def key(self) -> str:
        return f"{self._times} times {self._samples.key()}"

    def __len__(self) -> int:
        return len(self._samples) * self._times

    def __getitem__(self, index: int) -> Floats:
        if index >= len(self):
            raise IndexError
        return self._samples[index % len(self._samples)]

    def release(self) -> None:
        self._samples.release()
