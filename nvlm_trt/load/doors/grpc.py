"""Triton's gRPC streaming, straight to the ensemble."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

from nvlm_trt.client.async_grpc_client import AsyncGrpcClient
from nvlm_trt.client.options import AskOptions, request_values
from nvlm_trt.load.record import UnderWay
from nvlm_trt.load.request import LoadRequest

__all__ = ["GrpcDoor"]


class GrpcDoor:
    def __init__(self, url: str, timeout_s: float) -> None:
        """``url`` is grpc://HOST:PORT. Raises ``UsageError`` E-USAGE-URL."""
        self._client = AsyncGrpcClient(url, timeout_s)

    def prepare(self, request: LoadRequest, pictures: list[bytes]) -> dict[str, Any]:
        options = AskOptions(max_tokens=request.answer_tokens, min_tokens=request.answer_tokens)
        return request_values(request.prompt, pictures, options)

    async def ask(self, prepared: dict[str, Any], taken: UnderWay) -> None:
        answer = self._client.ask(prepared, uuid4().hex)
        tokens = 0
        try:
            async for chunk in answer:
                if chunk.output_tokens:
                    taken.piece(chunk.text, chunk.output_tokens)
                    tokens += chunk.output_tokens
                taken.input_tokens = chunk.input_tokens
        finally:
            taken.output_tokens = tokens
            answer.leave()

    async def close(self) -> None:
        await self._client.close()
