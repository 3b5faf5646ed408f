"""The gateway's paths, and the checks in front of them: keys, and other sites' pages."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from functools import partial

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from nvlm_trt.errors import NvlmError, ServerError
from nvlm_trt.gateway.admission import Admission
from nvlm_trt.gateway.backend import Backend
from nvlm_trt.gateway.body import ClientGone, HeldBytes, discard_body
from nvlm_trt.gateway.call_journal import CallJournal
from nvlm_trt.gateway.chat_door import ChatDoor
from nvlm_trt.gateway.completions import Completions
from nvlm_trt.gateway.metrics import Metrics
from nvlm_trt.gateway.page import page_routes
from nvlm_trt.gateway.prompt_cost import PromptCost
from nvlm_trt.gateway.refusal import Refusal, error_body, error_headers, error_status, no_such_model
from nvlm_trt.gateway.reply import Reply
from nvlm_trt.gateway.settings import GatewaySettings, Limits
from nvlm_trt.intake.fetch import Fetcher
from nvlm_trt.telemetry.journal import Journal

__all__ = ["make_app"]

_PATHS = "OpenAI's clients want a base URL that ends with v1; there are v1/chat/completions and v1/models."


def make_app(settings: GatewaySettings, url: str, fetcher: Fetcher) -> Starlette:
    """An application in front of the ensemble at ``url``, grpc://HOST:PORT. Raises what ``Journal`` does."""
    created = int(time.time())
    limits = settings.limits
    admission = Admission(limits.answers, limits.waiting, limits.queue_s)
    metrics = Metrics(admission)
    all_held = HeldBytes(limits.held_bytes)
    journal = Journal("gateway", settings.telemetry)

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        # Here, because a gRPC channel belongs to the event loop it was made in.
        backend = Backend(url, limits.token_s, limits.health_s)
        app.state.backend = backend
        calls = CallJournal(journal, settings.model_name)
        completions = Completions(settings.model_name, backend, admission, metrics, fetcher, calls)
        cost = PromptCost(backend, admission, fetcher)
        app.state.completions = ChatDoor(settings, admission, all_held, metrics, completions)
        app.state.prompt_cost = ChatDoor(settings, admission, all_held, metrics, cost)
        yield
        await backend.client.close()
        await asyncio.to_thread(journal.close)

    async def models(request: Request) -> Response:
        model = {"id": settings.model_name, "object": "model", "created": created, "owned_by": "nvlm-trt"}
        model["max_model_len"] = await request.app.state.backend.max_seq_len()
        wanted = request.path_params.get("model", settings.model_name)
        if wanted != settings.model_name:
            raise no_such_model(settings.model_name)
        return JSONResponse(model if "model" in request.path_params else {"object": "list", "data": [model]})

    async def health(request: Request) -> Response:
        await request.app.state.backend.check()
        return JSONResponse({"status": "ok"})

    async def live(request: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def figures(request: Request) -> Response:
        return Response(metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    locked = [Middleware(_Lock, keys=settings.api_keys, limits=limits)] if settings.api_keys else []
    cors = Middleware(
        CORSMiddleware,
        allow_origins=settings.allow_origins,
        allow_methods=["GET", "POST"],
        allow_headers=["authorization", "content-type"],
    )
    app = Starlette(
        routes=[
            Route("/v1/chat/completions", _Made("completions"), methods=["POST"], middleware=locked),
            Route("/v1/chat/prompt", _Made("prompt_cost"), methods=["POST"], middleware=locked),
            Route("/v1/models", models, methods=["GET"], middleware=locked),
            Route("/v1/models/{model:path}", models, methods=["GET"], middleware=locked),
            Route("/health", health, methods=["GET"]),
            Route("/live", live, methods=["GET"]),
            Route("/metrics", figures, methods=["GET"]),
            *(page_routes(keys_needed=bool(settings.api_keys)) if settings.page else []),
        ],
        middleware=[cors] if settings.allow_origins else [],
        exception_handlers={NvlmError: _answer_error, HTTPException: _answer_http, Exception: _answer_bug},
        lifespan=lifespan,
    )
    # A redirect would be made from the Host header, which is the client's to choose.
    app.router.redirect_slashes = False
    return app


class _Made:
    """What is made when the event loop runs; here is where the routes find it."""

    def __init__(self, name: str) -> None:
        self._name = name

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await getattr(scope["app"].state, self._name)(scope, receive, send)


class _Lock:
    """Lets requests through that have one of ``keys``."""

    def __init__(self, app: ASGIApp, keys: Sequence[str], limits: Limits) -> None:
        self._app = app
        self._limits = limits
        # Digests are of one length, so that comparing them in constant time hides the keys' lengths too.
        self._digests = [_digest(key.encode()) for key in keys]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        given = _digest(_bearer(scope))
        # All are compared, whichever fits.
        if not sum(hmac.compare_digest(given, digest) for digest in self._digests):
            fix = "Send Authorization: Bearer KEY."
            refusal = Refusal("E-DOOR-KEY", "The API key is missing or wrong.", fix, status=401)
            with suppress(ClientGone):
                reply = Reply(send, None, self._limits.write_s)
                await reply.error(refusal, partial(discard_body, receive, self._limits))
            return
        await self._app(scope, receive, send)


def _bearer(scope: Scope) -> bytes:
    values = [value for name, value in scope["headers"] if name == b"authorization"]
    kind, _, key = values[0].partition(b" ") if len(values) == 1 else (b"", b"", b"")
    return key if kind.lower() == b"bearer" else b""


def _digest(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def _respond(error: NvlmError) -> Response:
    response = JSONResponse(error_body(error), error_status(error))
    response.raw_headers += error_headers(error)
    return response


async def _answer_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, NvlmError)
    # For a load balancer: this gateway's server cannot answer, whatever the reason.
    if request.url.path == "/health":
        return JSONResponse({"status": "failed", **error_body(error)}, 503)
    return _respond(error)


async def _answer_http(request: Request, error: Exception) -> Response:
    """The answer for Starlette's own refusals: no such path, or another method."""
    assert isinstance(error, HTTPException)
    if error.status_code == 405:
        allowed = ", ".join(sorted((error.headers or {})["Allow"].split(", ")))
        refusal = Refusal("E-DOOR-METHOD", "The path is served, by another method.", f"Use {allowed}.", status=405)
        response = _respond(refusal)
        response.headers["allow"] = allowed
        return response
    return _respond(Refusal("E-DOOR-PATH", "Nothing is served at that path.", _PATHS, status=404))


async def _answer_bug(request: Request, error: Exception) -> Response:
    """Starlette raises the error again afterwards, so that it is logged."""
    return _respond(ServerError("E-SERVER-INTERNAL", "The gateway failed to answer.", "Its log says why."))
