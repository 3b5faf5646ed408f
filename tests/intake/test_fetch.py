"""Fetching from a real TLS server on this machine, to which a resolver of the tests leads."""

from __future__ import annotations

import asyncio
import ipaddress
import ssl
from collections.abc import Callable
from dataclasses import replace

import pytest
from cryptography import x509

from nvlm_trt.errors import RequestError
from nvlm_trt.intake.address import is_public
from nvlm_trt.intake.fetch import Fetcher, resolve
from nvlm_trt.intake.picture_url import PictureUrl
from nvlm_trt.model.picture import PictureLimits
from tests.attacks.hosts import HOSTS, PNG, HostAttack, picture_reply
from tests.certificate import write_certificate

HOST = "pictures.example.org"
LOOPBACK = ipaddress.ip_address("127.0.0.1")
LIMITS = PictureLimits(max_bytes=4000)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """Contexts of a server that proves to be HOST, and of a client that believes it."""
    folder = tmp_path_factory.mktemp("tls")
    files = folder / "cert.pem", folder / "key.pem"
    write_certificate(*files, x509.DNSName(HOST))
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(*files)
    return server, ssl.create_default_context(cafile=str(files[0]))


class Story:
    """One fetch from a server that answers ``reply``; what it was asked is in ``requests``."""

    def __init__(self, contexts: tuple[ssl.SSLContext, ssl.SSLContext]) -> None:
        self._server_context, self.client_context = contexts
        self.requests: list[bytes] = []

    def fetch(
        self, reply: bytes | Callable[[], bytes], *, host: str = HOST, target: str = "/a.png", **options
    ) -> bytes:
        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            self.requests.append(await reader.readuntil(b"\r\n\r\n"))
            if callable(reply):
                while not writer.is_closing():
                    writer.write(reply())
                    await asyncio.sleep(0.001)
            else:
                writer.write(reply)
                writer.close()

        async def resolver(asked: str, port: int):
            assert asked == host
            return [LOOPBACK]

        async def run() -> bytes:
            async with await asyncio.start_server(answer, "127.0.0.1", 0, ssl=self._server_context) as server:
                port = server.sockets[0].getsockname()[1]
                fetcher = Fetcher(LIMITS, 5, resolver, lambda address: address == LOOPBACK, self.client_context)
                return await replace(fetcher, **options).fetch(PictureUrl(host, port, target), "Picture 1")

        return asyncio.run(run())


@pytest.fixture
def story(certificate) -> Story:
    return Story(certificate)


def test_a_picture_comes(story):
    assert story.fetch(picture_reply(), target="/a%20b.png?x=1") == PNG
    (request,) = story.requests
    assert request.startswith(b"GET /a%20b.png?x=1 HTTP/1.1\r\nHost: pictures.example.org:")
    assert b"cookie" not in request.lower()


def test_pieces_are_put_together(story):
    chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    chunked += b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in (PNG[:100], PNG[100:])) + b"0\r\n\r\n"
    assert story.fetch(chunked) == PNG


@pytest.mark.parametrize("attack", HOSTS, ids=lambda attack: attack.tried)
def test_what_is_no_picture_is_refused(story, attack: HostAttack):
    with pytest.raises(RequestError, match=attack.code):
        story.fetch(attack.sent)


def test_an_endless_body_is_cut_off_at_the_limit(story):
    head = iter([b"HTTP/1.1 200 OK\r\n\r\n" + PNG])
    with pytest.raises(RequestError, match="E-IMAGE-BYTES"):
        story.fetch(lambda: next(head, bytes(500)))


def test_a_slow_body_is_cut_off_in_time(story):
    head = iter([b"HTTP/1.1 200 OK\r\n\r\n" + PNG])
    with pytest.raises(RequestError, match=r"E-IMAGE-FETCH: .*within 0.2 s"):
        story.fetch(lambda: next(head, b""), timeout_s=0.2)


def test_the_certificate_must_prove_the_name(story):
    with pytest.raises(RequestError, match=r"E-IMAGE-FETCH: .*certificate"):
        story.fetch(picture_reply(), host="other.example.org")
    with pytest.raises(RequestError, match=r"E-IMAGE-FETCH: .*certificate"):
        story.fetch(picture_reply(), context=ssl.create_default_context())
    assert story.requests == []


@pytest.mark.parametrize("addresses", [["127.0.0.1"], ["8.8.8.8", "10.0.0.1"], ["::ffff:8.8.8.8"], []])
def test_one_address_that_is_not_public_is_one_too_many(story, addresses):
    async def resolver(host: str, port: int):
        return [ipaddress.ip_address(address) for address in addresses]

    with pytest.raises(RequestError, match="E-IMAGE-ADDRESS"):
        story.fetch(picture_reply(), resolver=resolver, allows=is_public)
    assert story.requests == []


def test_a_name_that_changes_its_answer_changes_nothing(story):
    """It is asked once; the second answer, a forbidden one, is never heard."""
    answers = iter([[LOOPBACK], [ipaddress.ip_address("169.254.169.254")]])

    async def resolver(host: str, port: int):
        return next(answers)

    assert story.fetch(picture_reply(), resolver=resolver) == PNG
    assert next(answers, None) is not None


def test_a_host_that_is_not_there(story):
    async def resolver(host: str, port: int):
        raise OSError("no such name, and /etc/resolv.conf says so")

    with pytest.raises(RequestError, match="E-IMAGE-FETCH") as refused:
        story.fetch(picture_reply(), resolver=resolver)
    assert "resolv" not in str(refused.value)


def test_the_systems_resolver_gives_addresses():
    assert ipaddress.ip_address("127.0.0.1") in asyncio.run(resolve("127.0.0.1", 443))
