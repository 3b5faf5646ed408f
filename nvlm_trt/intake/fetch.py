"""Fetches one picture from a listed host, without letting anybody choose where the connection goes.

A name is resolved once, every address it has is checked, and the connection goes to one of these very addresses, so a
name that changes its answer between check and use changes nothing. TLS still checks the certificate against the name.
Redirects are not followed, because they are somebody else's choice of an address. Bytes and time are bounded.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import ssl
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address

import h11

from nvlm_trt.errors import RequestError
from nvlm_trt.intake.address import is_public
from nvlm_trt.intake.picture_url import PictureUrl
from nvlm_trt.model.picture import PictureLimits, recognise_picture, too_many_bytes

__all__ = ["Fetcher", "resolve"]

Address = IPv4Address | IPv6Address
Resolver = Callable[[str, int], Awaitable[Sequence[Address]]]
_READ_BYTES = 2**16


async def resolve(host: str, port: int) -> Sequence[Address]:
    """What the system's resolver says. Raises ``OSError``."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [ipaddress.ip_address(entry[4][0]) for entry in found]


@dataclass(frozen=True)
class Fetcher:
    """``allows`` judges addresses; tests have another rule, so that they can serve from their own machine."""

    limits: PictureLimits = field(default_factory=PictureLimits)
    timeout_s: float = 10.0
    resolver: Resolver = resolve
    allows: Callable[[Address], bool] = is_public
    context: ssl.SSLContext = field(default_factory=ssl.create_default_context)

    async def fetch(self, url: PictureUrl, name: str) -> bytes:
        """Raises ``RequestError``: E-IMAGE-ADDRESS, E-IMAGE-FETCH, E-IMAGE-BYTES, E-IMAGE-FORMAT."""
        try:
            async with asyncio.timeout(self.timeout_s):
                address = await self._choose(url, name)
                reader, writer = await asyncio.open_connection(
                    str(address), url.port, ssl=self.context, server_hostname=url.host
                )
                try:
                    data = await self._get(url, reader, writer, name)
                finally:
                    writer.transport.abort()
        except TimeoutError:
            raise _failed(name, f"did not come within {self.timeout_s:g} s") from None
        except ssl.SSLError:
            raise _failed(name, "lies on a host whose certificate does not prove its name") from None
        except (OSError, h11.RemoteProtocolError):
            raise _failed(name, "lies on a host that does not answer as it should") from None
        recognise_picture(data[:16], name)
        return data

    async def _choose(self, url: PictureUrl, name: str) -> Address:
        addresses = await self.resolver(url.host, url.port)
        if not addresses or not all(map(self.allows, addresses)):
            raise RequestError(
                "E-IMAGE-ADDRESS", f"{name} lies on a host whose address is not public.", "Send it as a data URI."
            )
        return addresses[0]

    async def _get(
        self, url: PictureUrl, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, name: str
    ) -> bytes:
        connection = h11.Connection(h11.CLIENT)
        headers = [
            ("Host", url.host if url.port == 443 else f"{url.host}:{url.port}"),
            ("Accept", "image/*"),
            ("Accept-Encoding", "identity"),
            ("Connection", "close"),
        ]
        for sent in (h11.Request(method="GET", target=url.target, headers=headers), h11.EndOfMessage()):
            writer.write(connection.send(sent) or b"")
        parts: list[bytes] = []
        size = 0
        while not isinstance(event := connection.next_event(), h11.EndOfMessage):
            if event is h11.NEED_DATA:
                connection.receive_data(await reader.read(_READ_BYTES))
            elif isinstance(event, h11.Response):
                self._check_size(self._check_head(event, name), name)
            elif isinstance(event, h11.Data):
                size += len(event.data)
                self._check_size(size, name)
                parts.append(bytes(event.data))
            elif not isinstance(event, h11.InformationalResponse):
                raise _failed(name, "lies on a host that does not answer as it should")
        return b"".join(parts)

    def _check_size(self, size: int, name: str) -> None:
        if size > self.limits.max_bytes:
            raise too_many_bytes(name, size, self.limits)

    def _check_head(self, response: h11.Response, name: str) -> int:
        if 300 <= response.status_code < 400:
            raise _failed(name, "lies behind a redirect, and these are not followed")
        headers = {key.lower(): value for key, value in response.headers}
        if response.status_code != 200 or headers.get(b"content-encoding", b"identity") != b"identity":
            raise _failed(name, "is not there")
        return int(headers.get(b"content-length", b"0"))


def _failed(name: str, what: str) -> RequestError:
    return RequestError("E-IMAGE-FETCH", f"{name} {what}.", "Check the address, or send it as a data URI.")
