"""A decoder engine's inputs and outputs, checked once at construction.

The names are those of the ``tensorrt_llm`` Triton model where it has one.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from nvlm_trt.errors import NvlmError, RequestError

__all__ = ["DecoderEngine", "Emission", "FinishReason", "GenerationRequest", "Listener", "Sampling"]


@dataclass(frozen=True, slots=True)
class Sampling:
    """How the next token is chosen. ``top_k`` 1 is greedy; 0 means no limit, as does ``top_p`` 1.

    Raises ``RequestError`` E-PARAM-RANGE with the name, the value and the range.
    """

    temperature: float = 1.0
    top_k: int = 1
    top_p: float = 1.0
    seed: int = 0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0

    def __post_init__(self) -> None:
        _in_range("temperature", self.temperature, 0, 100)
        _in_range("top_k", self.top_k, 0, 2**31 - 1)
        _in_range("top_p", self.top_p, 0, 1)
        _in_range("seed", self.seed, 0, 2**64 - 1)
        _in_range("repetition_penalty", self.repetition_penalty, 0.01, 100)
        _in_range("presence_penalty", self.presence_penalty, -100, 100)
        _in_range("frequency_penalty", self.frequency_penalty, -100, 100)

    @property
    def greedy(self) -> bool:
        return self.top_k == 1 or self.temperature == 0

    @property
    def penalised(self) -> bool:
        return self.repetition_penalty != 1 or self.presence_penalty != 0 or self.frequency_penalty != 0


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """One prompt, and how to continue it, ``num_return_sequences`` times: the i-th with the seed plus i, as in
    TensorRT-LLM.

    ``input_ids`` int32 [n]; an id at or above the vocabulary's size is virtual and means row ``id - vocab_size`` of
    ``prompt_table``, float32 [rows, hidden]. ``extra_ids`` uint64 [n] distinguish prompts that are otherwise the same:
    a prompt's beginning is shared only where they are equal too. ``embedding_bias`` float32 [vocab] is added to the
    logits. ``stop_words`` and ``bad_words`` are token sequences. Without ``end_id`` only length and stop words end it.
    """

    request_id: str
    input_ids: NDArray[np.int32]
    max_tokens: int
    prompt_table: NDArray[np.float32] | None = None
    extra_ids: NDArray[np.uint64] | None = None
    embedding_bias: NDArray[np.float32] | None = None
    end_id: int | None = None
    min_tokens: int = 0
    stop_words: tuple[tuple[int, ...], ...] = ()
    bad_words: tuple[tuple[int, ...], ...] = ()
    sampling: Sampling = field(default_factory=Sampling)
    return_log_probs: bool = False
    num_return_sequences: int = 1

    def __post_init__(self) -> None:
        if self.input_ids.ndim != 1 or self.input_ids.size == 0:
            raise RequestError("E-PROMPT-EMPTY", "The prompt holds no tokens.", "Send a question.")
        _in_range("max_tokens", self.max_tokens, 1, 2**31 - 1)
        _in_range("min_tokens", self.min_tokens, 0, self.max_tokens)
        _in_range("num_return_sequences", self.num_return_sequences, 1, 64)
        if any(not word for word in (*self.stop_words, *self.bad_words)):
            raise RequestError("E-PARAM-WORDS", "A stop or bad word is empty.", "Leave it out.")
        if self.extra_ids is not None and self.extra_ids.shape != self.input_ids.shape:
            raise RequestError(
                "E-PARAM-SHAPE",
                f"The prompt has {self.input_ids.size} ids and {self.extra_ids.size} extra ids.",
                "Send one for each id, 0 at text.",
            )
        if self.embedding_bias is not None and not np.isfinite(self.embedding_bias).all():
            raise RequestError("E-PARAM-RANGE", "embedding_bias holds NaN or infinity.", "Send finite values.")

    @property
    def plain(self) -> bool:
        """Whether, past ``min_tokens``, only the largest logit is needed."""
        special = self.return_log_probs or self.bad_words or self.embedding_bias is not None
        return self.sampling.greedy and not (special or self.sampling.penalised)


class FinishReason(enum.Enum):
    END_ID = "end_id"
    STOP_WORD = "stop_word"
    LENGTH = "length"
    CANCELLED = "cancelled"
    ERROR = "error"


class Emission(NamedTuple):
    """What one step gave one sequence of a request: new tokens (none when it only ended), and why it ended if it did.

    A tuple, because one is made for every token.
    """

    tokens: tuple[int, ...]
    log_probs: tuple[float, ...] = ()
    finish: FinishReason | None = None
    error: NvlmError | None = None
    sequence_index: int = 0


Listener = Callable[[Emission], None]


class DecoderEngine(Protocol):
    """Thread-safe: any thread may submit and cancel; listeners are called from the engine's own thread."""

    def submit(self, request: GenerationRequest, listener: Listener, begun: Callable[[], None] | None = None) -> None:
        """Queue a request. ``RequestError`` or ``OverloadedError`` is raised here; later faults arrive as an emission.

        The listener's last call for each sequence, and only that one, carries ``finish``. ``begun`` is called once,
        from the engine's own thread, when the request's first step begins; it must not raise.
        """

    def cancel(self, request_id: str) -> int:
        """End every sequence of requests with this id within one step; returns how many there were."""

    def metrics(self) -> dict[str, Any]: ...

    def close(self, drain_s: float = 0) -> None:
        """Take no more requests, let the open ones finish for ``drain_s`` seconds, then end them with CANCELLED."""


def _in_range(name: str, value: float, low: float, high: float) -> None:
    if not (isinstance(value, int) or math.isfinite(value)) or not low <= value <= high:
        raise RequestError(
            "E-PARAM-RANGE",
            f"{name} is {value}; {low} to {high} is allowed.",
            "Correct the value and send again.",
        )
