"""A POST whose answer is server-sent events, on asyncio; its failures as errors of our tree."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from typing import Any

import aiohttp

from nvlm_trt.client.failures import lost, refused, timed_out, unreachable, unreadable
from nvlm_trt.errors import NvlmError, from_message

__all__ = ["HttpStream", "RefusedByStatus", "body_bytes"]

_MAX_LINE_BYTES = 2**20
_IDLE_S = 4.0  # shorter than any server of ours keeps a connection, or a request would be lost on a closed one


class RefusedByStatus(Exception):
    """A status that is not 200, from something that does not speak our codes: a proxy, another server."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.code = f"HTTP-{status}"


class HttpStream:
    """Connections are kept and reused; any number at once."""

    def __init__(self, url: str, timeout_s: float, headers: Mapping[str, str]) -> None:
        """``timeout_s`` bounds each wait: for a connection, and for each next piece of an answer."""
        self._url = url
        self._timeout_s = timeout_s
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=timeout_s, sock_read=timeout_s)
        connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=_IDLE_S)
        headers = {"Content-Type": "application/json", **headers}
        self._session = aiohttp.ClientSession(connector=connector, timeout=timeout, headers=headers)

    async def events(self, path: str, body: bytes) -> AsyncIterator[dict[str, Any]]:
        """Raises ``NvlmError`` and ``RefusedByStatus``; also for an error among the events."""
        try:
            async with self._session.post(self._url + path, data=body) as response:
                if response.status != 200:
                    raise _refusal(response.status, await response.read())
                rest = b""
                # By what has arrived, not line by line: a wait for each line would be most of the generator's work.
                async for data in response.content.iter_any():
                    *lines, rest = (rest + data).split(b"\n")
                    if len(rest) > _MAX_LINE_BYTES:
                        raise unreadable("a line without an end")
                    for line in lines:
                        if line.startswith(b"data:") and line[5:].strip() != b"[DONE]":
                            yield _parse(line[5:])
        except TimeoutError:
            raise timed_out(self._timeout_s) from None
        except aiohttp.ClientConnectorError as error:
            raise unreachable(self._url, error) from None
        except (aiohttp.ClientError, OSError) as error:
            raise lost(error) from None

    async def close(self) -> None:
        await self._session.close()


def body_bytes(body: Mapping[str, Any]) -> bytes:
    return json.dumps(body).encode()


def _refusal(status: int, data: bytes) -> Exception:
    known = from_message(data.decode(errors="replace"))
    return known if known is not None else RefusedByStatus(status)


def _parse(data: bytes) -> dict[str, Any]:
    try:
        event = json.loads(data)
    except ValueError as error:
        raise unreadable(error) from None
    if not isinstance(event, dict):
        raise unreadable()
    if "error" in event:
        raise _event_error(event["error"])
    return event


def _event_error(error: Any) -> NvlmError:
    return refused(str(error.get("message")) if isinstance(error, dict) else str(error))
