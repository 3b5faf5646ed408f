"""OpenAI's HTTP API: the gateway, or whatever else serves chat completions with pictures.

A piece does not say how many tokens it has; the last event, ``usage``, says how many there were.
"""

from __future__ import annotations

import base64
import os
from typing import Any

from nvlm_trt.client.failures import unreadable
from nvlm_trt.load.doors.http_stream import HttpStream, body_bytes
from nvlm_trt.load.record import UnderWay
from nvlm_trt.load.request import LoadRequest

__all__ = ["API_KEY", "OpenAiDoor"]

API_KEY = "NVLM_TRT_API_KEY"
_PATH = "/chat/completions"


class OpenAiDoor:
    def __init__(self, url: str, timeout_s: float, model: str = "nvlm-d") -> None:
        """``url`` ends with /v1. A key is taken from the environment."""
        key = os.environ.get(API_KEY)
        self._model = model
        self._stream = HttpStream(url.rstrip("/"), timeout_s, {"Authorization": f"Bearer {key}"} if key else {})

    def prepare(self, request: LoadRequest, pictures: list[bytes]) -> bytes:
        content: list[dict[str, Any]] = [{"type": "text", "text": request.prompt}]
        for picture in pictures:
            uri = f"data:image/jpeg;base64,{base64.b64encode(picture).decode()}"
            content.append({"type": "image_url", "image_url": {"url": uri}})
        return body_bytes(
            {
                "model": self._model,
                "messages": [{"role": "user", "content": content}],
                "max_tokens": request.answer_tokens,
                "min_tokens": request.answer_tokens,
                "stream": True,
                "stream_options": {"include_usage": True},
            }
        )

    async def ask(self, prepared: bytes, taken: UnderWay) -> None:
        async for event in self._stream.events(_PATH, prepared):
            try:
                for choice in event["choices"]:
                    text = choice["delta"].get("content")
                    if text:
                        taken.piece(str(text), None)
                usage = event.get("usage")
                if usage:
                    taken.input_tokens, taken.output_tokens = usage["prompt_tokens"], usage["completion_tokens"]
            except (KeyError, TypeError, AttributeError) as error:
                raise unreadable(error) from None

    async def close(self) -> None:
        await self._stream.close()
