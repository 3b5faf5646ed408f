"""``GrpcClient``'s calls on asyncio, for a program that answers many requests at once.

Cancelling a coroutine that reads a gRPC call cancels the call, and a call cancelled just as it ends can leave Triton's
ensemble unable to unload. So a separate task reads each call to its end, and a caller that leaves early only asks the
decoder to stop. The stop is repeated until the end comes, because a request whose pictures are still being encoded is
not in the decoder yet, and a stop that comes too early stops nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Mapping
from contextlib import suppress
from typing import Any, TypeVar

import grpc
import grpc.aio
from tritonclient.grpc import service_pb2, service_pb2_grpc

from nvlm_trt.client.answer import Chunk, PromptFacts
from nvlm_trt.client.failures import refused, timed_out
from nvlm_trt.client.grpc_client import (
    CHANNEL,
    grpc_failure,
    measure_request,
    read_address,
    read_chunk,
    read_facts,
    stop_request,
)
from nvlm_trt.client.wire import write_request
from nvlm_trt.errors import NvlmError

__all__ = ["AsyncAnswer", "AsyncGrpcClient"]

T = TypeVar("T")
_STOP_TIMEOUT_S = 5.0
_FIRST_STOPS_S = 0.05
_LEAVE_S = 60.0


class AsyncGrpcClient:
    """One connection with any number of requests at once; create and use it in one event loop."""

    def __init__(self, url: str, timeout_s: float = 60.0) -> None:
        """``url`` is grpc://HOST:PORT; ``timeout_s`` bounds each wait. Raises ``UsageError`` E-USAGE-URL."""
        self.url = url
        self.timeout_s = timeout_s
        self._channel = grpc.aio.insecure_channel(read_address(url), CHANNEL)
        self._stub = service_pb2_grpc.GRPCInferenceServiceStub(self._channel)
        self._tasks: set[asyncio.Task[Any]] = set()

    def ask(
        self,
        values: Mapping[str, Any],
        request_id: str,
        timeout_s: float | None = None,
        parameters: Mapping[str, str] | None = None,
    ) -> AsyncAnswer:
        """Send the ensemble's inputs by name. Read the answer to its end, or leave it."""
        call = self._stub.ModelStreamInfer(iter([write_request("ensemble", request_id, values, parameters=parameters)]))
        return AsyncAnswer(self, call, request_id, timeout_s or self.timeout_s)

    async def stop(self, request_id: str) -> None:
        """End a request that is being answered. Nothing happens if there is none."""
        try:
            call = self._stub.ModelStreamInfer(iter([stop_request(request_id)]), timeout=_STOP_TIMEOUT_S)
            async for response in call:
                if response.error_message:
                    raise refused(response.error_message)
        except grpc.RpcError as error:
            raise grpc_failure(error, self.url, _STOP_TIMEOUT_S) from None

    async def measure(self, values: Mapping[str, Any], request_id: str) -> PromptFacts:
        """What the prompt made of the ensemble's inputs ``values`` costs; the engines do no work."""
        try:
            response = await self._stub.ModelInfer(measure_request(values, request_id), timeout=self.timeout_s)
        except grpc.RpcError as error:
            raise grpc_failure(error, self.url, self.timeout_s) from None
        return read_facts(response)

    async def model_parameters(self, model: str) -> dict[str, str]:
        """The ``parameters`` of a model's configuration."""
        try:
            request = service_pb2.ModelConfigRequest(name=model)
            response = await self._stub.ModelConfig(request, timeout=self.timeout_s)
        except grpc.RpcError as error:
            raise grpc_failure(error, self.url, self.timeout_s) from None
        return {key: value.string_value for key, value in response.config.parameters.items()}

    async def close(self) -> None:
        """Wait for the end of every answer, including those that were left."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=_STOP_TIMEOUT_S)
        await self._channel.close()

    def run(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """A task that ``close`` waits for."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


class AsyncAnswer:
    """The chunks of one answer. ``over`` is done when the server has no more work for it."""

    def __init__(self, client: AsyncGrpcClient, call: Any, request_id: str, timeout_s: float) -> None:
        self._client = client
        self._call = call
        self._request_id = request_id
        self._timeout_s = timeout_s
        self._arrived: asyncio.Queue[Any] = asyncio.Queue()
        self._left = False
        self.over = client.run(self._read())

    def __aiter__(self) -> AsyncAnswer:
        return self

    async def __anext__(self) -> Chunk:
        """Raises the server's ``NvlmError``, or ``ServerError`` E-SERVER-*."""
        while True:
            if self._arrived.empty():
                try:
                    async with asyncio.timeout(self._timeout_s):
                        response = await self._arrived.get()
                except TimeoutError:
                    raise timed_out(self._timeout_s) from None
            else:
                response = self._arrived.get_nowait()
            if response is None:
                raise StopAsyncIteration
            if isinstance(response, grpc.RpcError):
                raise grpc_failure(response, self._client.url, self._timeout_s)
            if response.error_message:
                raise refused(response.error_message)
            if response.infer_response.outputs:
                return read_chunk(response.infer_response)

    def leave(self) -> None:
        """Have the server end the answer if it is still running. Does not wait."""
        if not self.over.done() and not self._left:
            self._left = True
            self._client.run(self._leave())

    async def _read(self) -> None:
        try:
            async for response in self._call:
                if not self._left:
                    self._arrived.put_nowait(response)
            self._arrived.put_nowait(None)
        except grpc.RpcError as error:
            self._arrived.put_nowait(error)

    async def _leave(self) -> None:
        loop = asyncio.get_running_loop()
        deadline, pause_s = loop.time() + _LEAVE_S, _FIRST_STOPS_S
        while not self.over.done() and loop.time() < deadline:
            with suppress(NvlmError):
                await self._client.stop(self._request_id)
            await asyncio.wait({self.over}, timeout=pause_s)
            pause_s = min(2 * pause_s, 1.0)
        if not self.over.done():
            self._call.cancel()
