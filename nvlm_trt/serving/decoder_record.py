"""What became of one request in the embedded decoder, and when."""

from __future__ import annotations

from dataclasses import dataclass

from nvlm_trt.embedded.request import FinishReason

__all__ = ["DecoderRecord"]

_REASONS = {
    FinishReason.END_ID: "stop",
    FinishReason.STOP_WORD: "stop",
    FinishReason.LENGTH: "length",
    FinishReason.CANCELLED: "abort",
    FinishReason.ERROR: "error",
}


@dataclass(slots=True)
class DecoderRecord:
    """Times are of ``time.monotonic``; None for what did not happen. ``generated_tokens`` are of all its sequences."""

    request_id: str
    prompt_tokens: int
    sequences: int
    taken_s: float
    begun_s: float | None = None
    first_s: float | None = None
    ended_s: float | None = None
    generated_tokens: int = 0
    finish: FinishReason = FinishReason.ERROR

    @property
    def reason(self) -> str:
        """stop, length, abort or error, as the field calls them."""
        return _REASONS[self.finish]

    @property
    def queue_s(self) -> float | None:
        return None if self.begun_s is None else self.begun_s - self.taken_s

    @property
    def first_token_s(self) -> float | None:
        return None if self.first_s is None else self.first_s - self.taken_s

    @property
    def per_token_s(self) -> float | None:
        """The mean time between two tokens of a sequence; sequences run side by side."""
        steps = self.generated_tokens / self.sequences - 1
        if self.first_s is None or self.ended_s is None or steps <= 0:
            return None
        return (self.ended_s - self.first_s) / steps

    @property
    def total_s(self) -> float | None:
        return None if self.ended_s is None else self.ended_s - self.taken_s
