"""POST /v1/chat/completions, from the first byte of the body to the last of the answer.

Cheap checks come first: room, then the body's size and form, then its parameters; only then pictures are fetched, a
turn is waited for, and the ensemble asked. Nothing is sent before the first token or the error in its place has come,
so that errors have their status. However a request ends, the server is told to stop what it still does for it.
"""

from __future__ import annotations

import asyncio
import base64
import logging
import time
import uuid
from collections.abc import AsyncIterator, MutableMapping
from typing import Any

from nvlm_trt.client.async_grpc_client import AsyncAnswer
from nvlm_trt.errors import CancelledError, NvlmError, ServerError
from nvlm_trt.gateway.admission import Admission
from nvlm_trt.gateway.backend import Backend
from nvlm_trt.gateway.body import ClientGone, Held, HeldBytes, Receive, discard_body, read_body
from nvlm_trt.gateway.chat_answer import Choice, Piece, Shape
from nvlm_trt.gateway.chat_request import ChatRequest, read_chat_request
from nvlm_trt.gateway.metrics import Metrics
from nvlm_trt.gateway.refusal import Refusal, about
from nvlm_trt.gateway.reply import Reply, Send
from nvlm_trt.gateway.settings import GatewaySettings
from nvlm_trt.gateway.streams import merged, while_connected
from nvlm_trt.intake.fetch import Fetcher
from nvlm_trt.intake.picture_url import PictureUrl
from nvlm_trt.serving.strict_json import read_strict_json

__all__ = ["Completions"]

_CLIENT_LEFT = 499
_log = logging.getLogger(__name__)


class Completions:
    """An ASGI application for one path."""

    def __init__(
        self, settings: GatewaySettings, backend: Backend, admission: Admission, metrics: Metrics, fetcher: Fetcher
    ) -> None:
        self._settings = settings
        self._backend = backend
        self._admission = admission
        self._metrics = metrics
        self._fetcher = fetcher
        self._all_held = HeldBytes(settings.limits.held_bytes)

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        limits = self._settings.limits
        call = _Call(f"chatcmpl-{uuid.uuid4().hex}", Held(self._all_held))
        reply = Reply(send, call.id, limits.write_s)
        whole_body = False
        try:
            self._admission.check_room()
            _check_json(scope)
            body = await read_body(receive, limits, call.held)
            whole_body = True
            # Nothing here keeps the body or the request: both hold pictures, and the answer may take minutes.
            work = self._answer(read_chat_request(read_strict_json(body), self._settings), call, reply)
            del body
            await while_connected(receive, work)
        except NvlmError as error:
            await self._fail(error, reply, None if whole_body else receive)
        except ClientGone:
            reply.status = _CLIENT_LEFT
        except asyncio.CancelledError:  # the server is stopped and has waited long enough
            await self._fail(
                CancelledError("E-CANCEL-SHUTDOWN", "The server is shutting down.", "Ask again."), reply, None
            )
        except Exception:
            _log.exception("request %s failed", call.id)
            bug = ServerError("E-SERVER-INTERNAL", "The gateway failed to answer.", "Its log says why.")
            await self._fail(bug, reply, None)
        finally:
            call.held.let_go()
            self._metrics.requests.labels(str(reply.status or _CLIENT_LEFT)).inc()
            self._metrics.whole_s.observe(time.monotonic() - call.begun_s)

    async def _fail(self, error: NvlmError, reply: Reply, rest: Receive | None) -> None:
        self._metrics.refusals.labels(error.code).inc()
        try:
            if reply.status is not None:
                await reply.broken_events(error)
                return
            if rest is not None:
                await discard_body(rest, self._settings.limits)
            await reply.error(error, close=rest is not None)
        except ClientGone:
            reply.status = _CLIENT_LEFT

    async def _answer(self, request: ChatRequest, call: _Call, reply: Reply) -> None:
        uris = await self._uris(request, call.held)
        waits_s = time.monotonic()
        await self._admission.take(request.n)
        self._metrics.queue_s.observe(time.monotonic() - waits_s)
        answers = [self._ask(request, number, uris, call) for number in range(request.n)]
        del uris
        request = request.without_messages()
        pieces = self._observed(merged([self._backend.pieces(answer, request) for answer in answers]), call, request)
        shape = Shape(call.id, self._settings.model_name, request.log_probs, request.include_usage)
        try:
            if request.stream:
                await _send_stream(pieces, shape, call, reply)
            else:
                async for number, piece in pieces:
                    call.choice(number).add(piece)
                await reply.json(shape.whole(call.ordered()))
        finally:
            for answer in answers:
                answer.leave()

    def _ask(self, request: ChatRequest, number: int, uris: list[str], call: _Call) -> AsyncAnswer:
        answer = self._backend.ask(request, number, uris, f"{call.id}-{number}" if request.n > 1 else call.id)
        answer.over.add_done_callback(lambda _: self._admission.give(1))
        return answer

    async def _uris(self, request: ChatRequest, held: Held) -> list[str]:
        async def uri(number: int, picture: str | PictureUrl) -> str:
            self._metrics.pictures.labels("data" if isinstance(picture, str) else "url").inc()
            if isinstance(picture, str):
                return picture
            with about("messages"):
                data = await self._fetcher.fetch(picture, f"Picture {number}")
            held.add(len(data))
            return f"data:image/any;base64,{base64.b64encode(data).decode()}"

        # One after another: a list of addresses is no way to make this host open many connections at once.
        return [await uri(number, picture) for number, picture in enumerate(request.pictures, 1)]

    async def _observed(
        self, pieces: AsyncIterator[tuple[int, Piece]], call: _Call, request: ChatRequest
    ) -> AsyncIterator[tuple[int, Piece]]:
        metrics, first_s = self._metrics, {}
        streamed = request.ensemble_streams
        async for number, piece in pieces:
            now_s = time.monotonic()
            if number not in first_s:
                first_s[number] = now_s
                if len(first_s) == 1:
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


class _Call:
    """One request on its way."""

    def __init__(self, id: str, held: Held) -> None:
        self.id = id
        self.held = held
        self.begun_s = time.monotonic()
        self._choices: dict[int, Choice] = {}

    def choice(self, number: int) -> Choice:
        return self._choices.setdefault(number, Choice())

    def ordered(self) -> list[Choice]:
        return [self._choices[number] for number in sorted(self._choices)]


async def _send_stream(pieces: AsyncIterator[tuple[int, Piece]], shape: Shape, call: _Call, reply: Reply) -> None:
    opened: set[int] = set()
    async for number, piece in pieces:
        if number not in opened:
            opened.add(number)
            await reply.event(shape.opening(number))
        if piece.text or piece.log_probs:
            await reply.event(shape.chunk(number, piece))
        call.choice(number).add(piece)
        if piece.finish_reason:
            await reply.event(shape.closing(number, piece.finish_reason))
    if shape.include_usage:
        await reply.event(shape.usage(call.ordered()))
    await reply.end_of_events()


def _check_json(scope: MutableMapping[str, Any]) -> None:
    """A page of another site can have a browser send texts and forms without asking, but not JSON."""
    kinds = [value for name, value in scope["headers"] if name == b"content-type"]
    if len(kinds) != 1 or kinds[0].split(b";")[0].strip().lower() != b"application/json":
        raise Refusal("E-DOOR-TYPE", "The body is not application/json.", "Set content-type.", status=415)
