"""A path that takes a chat request, from the first byte of the body to the end of the answer.

Cheap checks come first: room, then the body's size and form, then its parameters. Only then does the answerer fetch
pictures, wait for a slot and ask the server. Nothing is sent before there is something to send, so that errors have
their status.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import MutableMapping, Sequence
from functools import partial
from typing import Any, Protocol

from nvlm_trt.errors import CancelledError, NvlmError, ServerError
from nvlm_trt.gateway.admission import Admission
from nvlm_trt.gateway.body import ClientGone, Held, HeldBytes, Receive, discard_body, read_body
from nvlm_trt.gateway.call import Call
from nvlm_trt.gateway.chat_request import ChatRequest, read_chat_request
from nvlm_trt.gateway.metrics import Metrics
from nvlm_trt.gateway.refusal import Refusal
from nvlm_trt.gateway.reply import Reply, Send
from nvlm_trt.gateway.settings import GatewaySettings
from nvlm_trt.gateway.streams import while_connected
from nvlm_trt.serving.strict_json import read_strict_json

__all__ = ["Answerer", "ChatDoor"]

_CLIENT_LEFT = 499
_BULKY = 2**18  # reading more than this keeps all others waiting for longer than handing it to a thread costs
_log = logging.getLogger(__name__)


class Answerer(Protocol):
    """Answers the requests at a path. ``ended`` gets each call's status, 499 for a client that left."""

    def begun(self, call: Call, headers: Sequence[tuple[bytes, bytes]]) -> None: ...

    async def answer(self, request: ChatRequest, call: Call, reply: Reply) -> None: ...

    def ended(self, call: Call, status: int) -> None: ...


class ChatDoor:
    """An ASGI application for one path."""

    def __init__(
        self,
        settings: GatewaySettings,
        admission: Admission,
        all_held: HeldBytes,
        metrics: Metrics,
        answerer: Answerer,
    ) -> None:
        self._settings = settings
        self._admission = admission
        self._all_held = all_held
        self._metrics = metrics
        self._answerer = answerer

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        limits = self._settings.limits
        call = Call(scope["headers"], Held(self._all_held))
        reply = Reply(send, call.name, limits.write_s)
        self._answerer.begun(call, scope["headers"])
        whole_body = False
        try:
            self._admission.check_room()
            _check_json(scope)
            body = await read_body(receive, limits, call.held)
            whole_body = True
            # Nothing here keeps the body or the request: both hold pictures, and the answer may take minutes.
            if len(body) < _BULKY:
                request = self._read(body)
            else:
                request = await asyncio.to_thread(self._read, body)
            work = self._answerer.answer(request, call, reply)
            del body, request
            await while_connected(receive, work)
        except NvlmError as error:
            await self._fail(error, call, reply, None if whole_body else receive)
        except ClientGone:
            reply.status = _CLIENT_LEFT
        except asyncio.CancelledError:  # the server is stopped and has waited long enough
            ending = CancelledError("E-CANCEL-SHUTDOWN", "The server is shutting down.", "Ask again.")
            await self._fail(ending, call, reply, None)
        except Exception:
            _log.exception("request %s failed", call.triton_id)
            bug = ServerError("E-SERVER-INTERNAL", "The gateway failed to answer.", "Its log says why.")
            await self._fail(bug, call, reply, None)
        finally:
            call.held.let_go()
            self._answerer.ended(call, reply.status or _CLIENT_LEFT)

    def _read(self, body: bytes) -> ChatRequest:
        return read_chat_request(read_strict_json(body), self._settings)

    async def _fail(self, error: NvlmError, call: Call, reply: Reply, rest: Receive | None) -> None:
        call.error_code = error.code
        self._metrics.refusals.labels(error.code).inc()
        try:
            if reply.status is not None:
                await reply.broken_events(error)
                return
            await reply.error(error, partial(discard_body, rest, self._settings.limits) if rest else None)
        except ClientGone:
            reply.status = _CLIENT_LEFT


def _check_json(scope: MutableMapping[str, Any]) -> None:
    """A page of another site can make a browser send texts and forms without asking, but not JSON."""
    kinds = [value for name, value in scope["headers"] if name == b"content-type"]
    if len(kinds) != 1 or kinds[0].split(b";")[0].strip().lower() != b"application/json":
        raise Refusal("E-DOOR-TYPE", "The body is not application/json.", "Set content-type.", status=415)
