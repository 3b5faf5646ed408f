"""The ensemble as the gateway uses it: pieces of an answer with the reason it ended, and whether it lives.

The ensemble does not say why an answer ended. The gateway sends no stop words to the decoder, which does not count the
token that ends an answer. So an answer with all the tokens it may have was cut at its length, and any other ended by
itself.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Mapping

from nvlm_trt.client.answer import PromptFacts
from nvlm_trt.client.async_grpc_client import AsyncAnswer, AsyncGrpcClient
from nvlm_trt.errors import OverloadedError
from nvlm_trt.gateway.chat_answer import Piece
from nvlm_trt.gateway.chat_request import ChatRequest
from nvlm_trt.gateway.stop_text import StopFinder

__all__ = ["Backend"]

_FRESH_S = 1.0
_PROBE = {"text_input": "Hello", "max_tokens": 1, "stream": False}


class Backend:
    """For one event loop."""

    def __init__(self, url: str, token_s: float, health_s: float) -> None:
        self.client = AsyncGrpcClient(url, token_s)
        self._health_s = health_s
        self._max_seq_len: int | None = None
        self._begun_s = -_FRESH_S
        self._probe: asyncio.Task[None] | None = None

    def ask(
        self, request: ChatRequest, choice: int, uris: list[str], request_id: str, trace: Mapping[str, str]
    ) -> AsyncAnswer:
        return self.client.ask(request.ensemble_inputs(choice, uris), request_id, parameters=trace)

    def measure(self, request: ChatRequest, uris: list[str], request_id: str) -> asyncio.Task[PromptFacts]:
        """What the first choice's prompt would cost. The task ends by itself, even when nobody waits for it."""
        return self.client.run(self.client.measure(request.ensemble_inputs(0, uris), request_id))

    async def max_seq_len(self) -> int:
        """Of the model: prompt and answer together. Raises ``ServerError``."""
        if self._max_seq_len is None:
            self._max_seq_len = int((await self.client.model_parameters("preprocessing"))["max_seq_len"])
        return self._max_seq_len

    async def pieces(self, answer: AsyncAnswer, request: ChatRequest) -> AsyncIterator[Piece]:
        """The last one, and only that, has a ``finish_reason``. Raises ``NvlmError``."""
        room = await self.max_seq_len()
        finder = StopFinder(request.stop)
        input_tokens = output_tokens = 0
        async for chunk in answer:
            if not output_tokens:
                self._begun_s = time.monotonic()
            input_tokens, output_tokens = chunk.input_tokens, output_tokens + chunk.output_tokens
            text, stopped = finder.push(chunk.text)
            if stopped:
                answer.leave()
            reason = "stop" if stopped else None
            yield Piece(text, input_tokens, chunk.output_tokens, chunk.log_probs, chunk.text, reason)
            if stopped:
                return
        full = output_tokens >= min(request.max_tokens, room - input_tokens)
        yield Piece(finder.rest(), input_tokens, finish_reason="length" if full else "stop")

    async def check(self) -> None:
        """Have the whole ensemble answer a question of one token, unless an answer began within the last second.

        Raises the error that it failed with. A decoder that is too busy to take the question counts as alive.
        """
        if time.monotonic() - self._begun_s < _FRESH_S:
            return
        if self._probe is None or self._probe.done():
            self._probe = self.client.run(self._ask_probe())
        await asyncio.shield(self._probe)

    async def _ask_probe(self) -> None:
        answer = self.client.ask(_PROBE, f"health-{uuid.uuid4().hex}", self._health_s)
        try:
            async for _ in answer:
                pass
        except OverloadedError:
            pass
        finally:
            answer.leave()
        self._begun_s = time.monotonic()
