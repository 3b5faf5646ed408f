"""POST /v1/chat/completions: an answer, whole or token by token.

However a request ends, the server is told to stop whatever it still does for it.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Sequence

from nvlm_trt.client.async_grpc_client import AsyncAnswer
from nvlm_trt.gateway.admission import Admission
from nvlm_trt.gateway.backend import Backend
from nvlm_trt.gateway.call import Call
from nvlm_trt.gateway.call_journal import CallJournal
from nvlm_trt.gateway.chat_answer import Piece, Shape
from nvlm_trt.gateway.chat_request import ChatRequest
from nvlm_trt.gateway.metrics import Metrics
from nvlm_trt.gateway.pictures import picture_uris
from nvlm_trt.gateway.reply import Reply
from nvlm_trt.gateway.streams import merged
from nvlm_trt.intake.fetch import Fetcher

__all__ = ["Completions"]


class Completions:
    """An ``Answerer``."""

    def __init__(
        self,
        model_name: str,
        backend: Backend,
        admission: Admission,
        metrics: Metrics,
        fetcher: Fetcher,
        journal: CallJournal,
    ) -> None:
        self._model_name = model_name
        self._backend = backend
        self._admission = admission
        self._metrics = metrics
        self._fetcher = fetcher
        self._journal = journal

    def begun(self, call: Call, headers: Sequence[tuple[bytes, bytes]]) -> None:
        self._journal.begun(call, headers)

    async def answer(self, request: ChatRequest, call: Call, reply: Reply) -> None:
        call.num_pictures = len(request.pictures)
        for picture in request.pictures:
            self._metrics.pictures.labels("data" if isinstance(picture, str) else "url").inc()
        uris = await picture_uris(request, call.held, self._fetcher)
        self._journal.stage(call, "intake", call.begun_s)
        waits_s = time.monotonic()
        await self._admission.take(request.n)
        call.queue_s = time.monotonic() - waits_s
        self._metrics.queue_s.observe(call.queue_s)
        self._journal.stage(call, "admission", waits_s)
        answers = [self._ask(request, number, uris, call) for number in range(request.n)]
        del uris
        request = request.without_messages()
        pieces = self._observed(merged([self._backend.pieces(answer, request) for answer in answers]), call, request)
        shape = Shape(call.id, self._model_name, request.log_probs, request.include_usage)
        try:
            if request.stream:
                await _send_stream(pieces, request.n, shape, call, reply)
            else:
                async for number, piece in pieces:
                    call.choice(number).add(piece)
                await reply.json(shape.whole(call.ordered()))
        finally:
            for answer in answers:
                answer.leave()

    def ended(self, call: Call, status: int) -> None:
        self._metrics.requests.labels(str(status)).inc()
        self._metrics.whole_s.observe(time.monotonic() - call.begun_s)
        self._journal.ended(call, status)

    def _ask(self, request: ChatRequest, number: int, uris: list[str], call: Call) -> AsyncAnswer:
        request_id = f"{call.triton_id}-{number}" if request.n > 1 else call.triton_id
        answer = self._backend.ask(request, number, uris, request_id, call.trace)
        answer.over.add_done_callback(lambda _: self._admission.give(1))
        return answer

    async def _observed(
        self, pieces: AsyncIterator[tuple[int, Piece]], call: Call, request: ChatRequest
    ) -> AsyncIterator[tuple[int, Piece]]:
        metrics, first_s = self._metrics, {}
        streamed = request.ensemble_streams
        async for number, piece in pieces:
            now_s = time.monotonic()
            if number not in first_s:
                first_s[number] = now_s
                if len(first_s) == 1:
                    call.first_s = now_s
                    call.held.let_go()
                    metrics.prompt_tokens.inc(piece.input_tokens)
                    if streamed:
                        metrics.first_token_s.observe(now_s - call.begun_s)
            metrics.generation_tokens.inc(piece.output_tokens)
            if piece.finish_reason:
                metrics.finished.labels(piece.finish_reason).inc()
                tokens = call.choice(number).output_tokens + piece.output_tokens
                if streamed and tokens > 1:
                    metrics.per_token_s.observe((now_s - first_s[number]) / (tokens - 1))
            yield number, piece


async def _send_stream(
    pieces: AsyncIterator[tuple[int, Piece]], choices: int, shape: Shape, call: Call, reply: Reply
) -> None:
    """Events known at the same moment leave in one write: a write costs both sides as much as making an event does."""
    opened: set[int] = set()
    unfinished = choices
    async for number, piece in pieces:
        if number not in opened:
            opened.add(number)
            reply.add_event(shape.opening(number))
        if piece.text or piece.log_probs:
            reply.add_event(shape.chunk(number, piece))
        call.choice(number).add(piece)
        if piece.finish_reason:
            reply.add_event(shape.closing(number, piece.finish_reason))
            unfinished -= 1
        if unfinished:
            await reply.send_events()
    if shape.include_usage:
        reply.add_event(shape.usage(call.ordered()))
    await reply.end_of_events()
