"""One request's progress through the engine, and the rules that end it.

The end id is not part of the answer; a stop word is. Both follow TensorRT-LLM. A stop word counts when generated tokens
alone spell it, across any token borders; it cannot begin in the prompt.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nvlm_trt.embedded.request import FinishReason, GenerationRequest, Listener
from nvlm_trt.errors import RequestError

__all__ = ["Sequence", "check_request"]


class Sequence:
    """``cached`` counts the positions whose keys and values are in the pool; ``tokens`` are the generated ones.

    The newest token is not in the pool; it enters with the next step. Where more is missing, because a sequence was
    preempted and has come back, its ids enter again in the same pieces: the prompt in chunks, tokens one by one.
    """

    __slots__ = (
        "cached",
        "cancelled",
        "counts",
        "index",
        "keys",
        "listener",
        "on_begin",
        "place",
        "plain_from",
        "prompt_length",
        "request",
        "reusable",
        "tokens",
    )

    def __init__(
        self,
        request: GenerationRequest,
        listener: Listener,
        keys: list[bytes] | None = None,
        reusable: int = 0,
        index: int = 0,
        on_begin: Callable[[], None] | None = None,
    ) -> None:
        """``keys`` are ``prefix_keys``; the first ``reusable`` of their blocks need not be computed. The engine calls
        ``on_begin`` once, when the first step with this sequence begins."""
        self.request, self.index = request, index
        self.listener, self.on_begin = listener, on_begin
        self.keys, self.reusable = keys or [], reusable
        self.prompt_length = len(request.input_ids)
        self.place: Any = None
        self.cached = 0
        self.tokens: list[int] = []
        self.cancelled = False
        # From this many tokens on, the next one is simply the largest logit.
        self.plain_from = request.min_tokens if request.plain else math.inf
        # How often each id occurs in the prompt and the answer; kept by the sampler where a penalty needs it.
        self.counts: NDArray[np.int32] | None = None

    @property
    def length(self) -> int:
        """All ids so far, of prompt and answer."""
        return self.prompt_length + len(self.tokens)

    @property
    def in_prompt(self) -> bool:
        return self.cached < self.prompt_length

    @property
    def next_id(self) -> int:
        """Of a sequence whose prompt is in the pool: the token that enters next."""
        return self.tokens[self.cached - self.prompt_length]

    def accept(self, token: int) -> FinishReason | None:
        """Take the sampled token, unless it is the end id; returns whether and why it was the last."""
        request = self.request
        if token == request.end_id:
            return FinishReason.END_ID
        self.tokens.append(token)
        for word in request.stop_words:
            if token == word[-1] and tuple(self.tokens[-len(word) :]) == word:
                return FinishReason.STOP_WORD
        return FinishReason.LENGTH if len(self.tokens) >= request.max_tokens else None


def check_request(request: GenerationRequest, *, vocab_size: int, hidden_size: int, max_seq_len: int) -> None:
    """What only the model can judge. Raises ``RequestError``: E-PROMPT-LENGTH, E-PROMPT-TOKEN, E-PROMPT-TABLE,
    E-PARAM-SHAPE.
    """
    bias = request.embedding_bias
    if bias is not None and bias.shape != (vocab_size,):
        raise RequestError(
            "E-PARAM-SHAPE",
            f"embedding_bias has shape {list(bias.shape)}; one value for each of {vocab_size} ids is wanted.",
            "Send 0 where nothing is to change.",
        )
    ids, table = request.input_ids, request.prompt_table
    if len(ids) + request.max_tokens > max_seq_len:
        raise RequestError(
            "E-PROMPT-LENGTH",
            f"The prompt's {len(ids)} tokens and max_tokens {request.max_tokens} exceed {max_seq_len} positions.",
            "Ask for fewer tokens, or send a shorter question or fewer pictures.",
        )
    rows = 0
    if table is not None:
        if table.ndim != 2 or table.shape[1] != hidden_size or table.dtype != np.float32:
            raise RequestError(
                "E-PROMPT-TABLE",
                f"The prompt table is {table.dtype} {list(table.shape)}; float32 [rows, {hidden_size}] is wanted.",
                "Send the rows that this model's vision engine gave.",
            )
        if not np.isfinite(table).all():
            raise RequestError("E-PROMPT-TABLE", "The prompt table holds NaN or infinity.", "Send finite rows.")
        rows = len(table)
    lowest, highest = int(ids.min()), int(ids.max())
    if lowest < 0 or not np.issubdtype(ids.dtype, np.integer):
        raise RequestError("E-PROMPT-TOKEN", f"The prompt holds the token id {lowest}.", "Send ids from 0 up.")
    if highest >= vocab_size + rows:
        raise RequestError(
            "E-PROMPT-TABLE" if rows else "E-PROMPT-TOKEN",
            f"The prompt holds the id {highest}; the vocabulary has {vocab_size} and the prompt table {rows} rows.",
            "Send a row for every virtual id.",
        )
