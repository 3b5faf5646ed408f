"""What happened to one request in the embedded decoder, and when."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from nvlm_trt.embedded.request import FinishReason
from nvlm_trt.telemetry.journal import Journal

__all__ = ["DecoderRecord", "note_record"]

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
    trace: Mapping[str, str] = field(default_factory=dict)

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


def note_record(journal: Journal, record: DecoderRecord) -> None:
    """Log a line, and trace the request's time in the queue, in its prompt and in its answer."""
    journal.line(
        record.request_id,
        seconds=record.total_s,
        queue_s=record.queue_s,
        first_token_s=record.first_token_s,
        prompt_tokens=record.prompt_tokens,
        generated_tokens=record.generated_tokens,
        reason=record.reason,
    )
    for name, begun_s, ended_s, facts in (
        ("queue", record.taken_s, record.begun_s or record.ended_s, {}),
        ("prefill", record.begun_s, record.first_s, {"prompt_tokens": record.prompt_tokens}),
        ("decode", record.first_s, record.ended_s, {"generated_tokens": record.generated_tokens}),
    ):
        journal.span(name, record.trace, begun_s, ended_s, **facts)
