"""One request on its way through the engine, and the rules that end it.

The end id is not part of the answer; a stop word is. Both follow TensorRT-LLM. A stop word counts when generated
tokens alone spell it, across any token borders; the prompt's tail does not begin one.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from nvlm_trt.embedded.request import FinishReason, GenerationRequest, Listener
from nvlm_trt.errors import RequestError

__all__ = ["Sequence", "check_request"]


class Sequence:
    """``prefilled`` counts prompt ids whose keys and values are in the slot; ``tokens`` are the generated ones."""

    __slots__ = ("cancelled", "counts", "listener", "prefilled", "request", "tokens")

    def __init__(self, request: GenerationRequest, listener: Listener) -> None:
        self.request = request
        self.listener = listener
        self.prefilled = 0
        self.tokens: list[int] = []
        self.cancelled = False
        # How often each id occurs in the prompt and the answer; kept by the sampler where a penalty needs it.
        self.counts: NDArray[np.int32] | None = None

    @property
    def prompt_length(self) -> int:
        return len(self.request.input_ids)

    @property
    def cached(self) -> int:
        """Positions in the slot: the newest token is not there yet, it enters with the next step."""
        return self.prefilled + max(0, len(self.tokens) - 1)

    def accept(self, token: int) -> FinishReason | None:
        """Take the sampled token, unless it is the end id; says whether and why it was the last."""
        request = self.request
        if token == request.end_id:
            return FinishReason.END_ID
        self.tokens.append(token)
        for word in request.stop_words:
            if token == word[-1] and tuple(self.tokens[-len(word) :]) == word:
                return FinishReason.STOP_WORD
        return FinishReason.LENGTH if len(self.tokens) >= request.max_tokens else None


def check_request(request: GenerationRequest, *, vocab_size: int, hidden_size: int, max_seq_len: int) -> None:
    """What only the model can judge. Raises ``RequestError``: E-PROMPT-LENGTH, E-PROMPT-TOKEN, E-PROMPT-TABLE."""
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
