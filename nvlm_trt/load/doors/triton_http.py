"""Triton's HTTP ``generate_stream``, straight to the ensemble."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any
from uuid import uuid4

from nvlm_trt.client.failures import unreadable
from nvlm_trt.client.options import AskOptions, request_values
from nvlm_trt.errors import NvlmError
from nvlm_trt.load.doors.http_stream import HttpStream, RefusedByStatus, body_bytes
from nvlm_trt.load.record import UnderWay
from nvlm_trt.load.request import LoadRequest

__all__ = ["TritonHttpDoor"]

_PATH = "/v2/models/ensemble/generate_stream"
_STOP_PATH = "/v2/models/tensorrt_llm/generate_stream"
_STOP_S = 5.0


class TritonHttpDoor:
    def __init__(self, url: str, timeout_s: float) -> None:
        """``url`` is http://HOST:PORT."""
        self._stream = HttpStream(url.rstrip("/"), timeout_s, {})

    def prepare(self, request: LoadRequest, pictures: list[bytes]) -> bytes:
        options = AskOptions(max_tokens=request.answer_tokens, min_tokens=request.answer_tokens)
        return body_bytes(request_values(request.prompt, pictures, options))

    async def ask(self, prepared: bytes, taken: UnderWay) -> None:
        request_id = uuid4().hex
        body = b'{"id":"%s",%s' % (request_id.encode(), prepared[1:])
        tokens, over = 0, False
        try:
            async for event in self._stream.events(_PATH, body):
                count = _count(event, "num_output_tokens")
                if count:
                    taken.piece(str(event.get("text_output", "")), count)
                    tokens += count
                taken.input_tokens = _count(event, "num_input_tokens")
            over = True
        except (NvlmError, RefusedByStatus) as error:
            over = error.code not in ("E-SERVER-TIMEOUT", "E-SERVER-LOST")
            raise
        finally:
            taken.output_tokens = tokens
            if not over:
                await self._stop(request_id)

    async def close(self) -> None:
        await self._stream.close()

    async def _stop(self, request_id: str) -> None:
        """An ensemble does not notice that its client has left; the decoder would work on for nobody."""
        body = body_bytes({"id": request_id, "stop": True, "input_lengths": 0, "request_output_len": 0})
        with suppress(NvlmError, RefusedByStatus, TimeoutError):
            async with asyncio.timeout(_STOP_S):
                async for _ in self._stream.events(_STOP_PATH, body):
                    pass


def _count(event: dict[str, Any], name: str) -> int:
    value = event.get(name)
    if not isinstance(value, int):
        raise unreadable(f"{name} is {value!r}")
    return value
