"""What the gateway records of a call in the request log and in its trace."""

from __future__ import annotations

import time
from collections.abc import Sequence

from nvlm_trt.gateway.call import Call
from nvlm_trt.telemetry.journal import Journal

__all__ = ["CallJournal"]

_CONTEXT = (b"traceparent", b"tracestate")


class CallJournal:
    def __init__(self, journal: Journal, model_name: str) -> None:
        self._journal = journal
        self._model_name = model_name

    def begun(self, call: Call, headers: Sequence[tuple[bytes, bytes]]) -> None:
        """Below the client's own span, if its ``headers`` name one."""
        given = {name.decode(): value.decode("latin-1") for name, value in headers if name in _CONTEXT}
        call.span = self._journal.begin("chat.completion", given)

    def stage(self, call: Call, name: str, begun_s: float) -> None:
        """A part of the call that ends now; times are of ``time.monotonic``."""
        self._journal.span(name, call.trace, begun_s, time.monotonic())

    def ended(self, call: Call, status: int) -> None:
        choices = call.ordered()
        facts = {
            "status": status,
            "error": call.error_code,
            "pictures": call.num_pictures,
            "choices": len(choices) or None,
            "prompt_tokens": choices[0].input_tokens if choices else None,
            "generated_tokens": sum(choice.output_tokens for choice in choices) if choices else None,
            "queue_s": call.queue_s,
            "first_token_s": call.first_s and call.first_s - call.begun_s,
        }
        self._journal.line(call.triton_id, seconds=time.monotonic() - call.begun_s, **facts)
        if call.span is not None:
            call.span.end(model=self._model_name, response=call.id, request=call.triton_id, **facts)
