"""Every attack on the OpenAI-compatible door: its status and code, no secrets, and the server unharmed."""

from __future__ import annotations

import ipaddress
import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from nvlm_trt.deploy.announcement import read_announcement
from nvlm_trt.gateway.server import GatewayServer
from nvlm_trt.gateway.settings import GatewaySettings, Limits
from nvlm_trt.intake.fetch import Fetcher
from tests.attacks.attack import ANSWERED, Attack, secrets_in
from tests.attacks.footprint import ProcessMemory
from tests.attacks.gateway_bodies import (
    GOOD_CHAT,
    LISTED_HOST,
    REQUESTS,
    WIRES,
    DoorAttack,
    WireAttack,
    chat_picture,
)
from tests.attacks.pictures import PICTURES, good_picture_uri
from tests.attacks.prompts import CONTROL_TEXTS
from tests.gateway.raw import Told, connect, send


async def _leads_home(host: str, port: int):
    """A listed name that an attacker has made to lead to this machine."""
    return [ipaddress.ip_address("127.0.0.1")]


@pytest.fixture(scope="module")
def door(server) -> Iterator[GatewayServer]:
    settings = GatewaySettings(port=0, image_hosts=(LISTED_HOST,))
    with GatewayServer(settings, server.grpc_url, Fetcher(resolver=_leads_home)) as gateway:
        yield gateway


@pytest.fixture(scope="module")
def hasty_door(server) -> Iterator[GatewayServer]:
    limits = Limits(head_s=0.3, body_s=0.3, body_bytes=2**16)
    with GatewayServer(GatewaySettings(port=0, limits=limits), server.grpc_url) as gateway:
        yield gateway


def answer_of(told: Told) -> tuple[str, int]:
    completion = told.json
    return completion["choices"][0]["message"]["content"], completion["usage"]["prompt_tokens"]


def ask_well(door: GatewayServer) -> tuple[str, int]:
    """A good request that needs every model."""
    return answer_of(send(door.url, {**GOOD_CHAT, **chat_picture(named(good_picture_uri()))}))


def named(uri: str) -> str:
    return uri.replace("data:image/any;", "data:image/png;")


@pytest.fixture(scope="module")
def good_answer(door) -> tuple[str, int]:
    return ask_well(door)


@pytest.fixture
def door_unharmed(door, good_answer) -> Iterator[None]:
    yield
    assert ask_well(door) == good_answer


@pytest.mark.usefixtures("door_unharmed")
@pytest.mark.parametrize("attack", REQUESTS, ids=lambda attack: attack.tried[:60].encode("ascii", "replace").decode())
def test_request(door, attack: DoorAttack):
    told = send(door.url, attack.body(), path=attack.path, method=attack.method, headers=attack.headers)
    assert told.status == attack.status, told.body
    if attack.code == ANSWERED:
        assert answer_of(told)[0]
        return
    error = told.json["error"]
    assert (error["code"], error["param"]) == (attack.code, attack.param), error
    assert error["message"].startswith(f"{attack.code}: ")
    assert secrets_in(error["message"]) is None, error
    assert len(told.body) < 2000


@pytest.mark.usefixtures("door_unharmed")
@pytest.mark.parametrize("attack", PICTURES, ids=lambda attack: attack.name)
def test_picture(door, attack: Attack):
    """Those that are sent to the ensemble itself. The door is stricter about how a picture is written, never less."""
    uris = [uri if isinstance(uri, str) else uri.decode("latin-1") for uri in attack.change()["image_url_input"]]
    parts = [{"type": "image_url", "image_url": {"url": named(uri)}} for uri in uris]
    body = {**GOOD_CHAT, "messages": [{"role": "user", "content": [*parts, {"type": "text", "text": "What?"}]}]}
    told = send(door.url, json.dumps(body).encode())
    if told.status == 200:
        assert attack.code == ANSWERED
        return
    error = told.json["error"]
    assert told.status == 400
    assert error["code"].startswith(("E-IMAGE-", "E-PROMPT-LENGTH", "E-PROMPT-UTF8"))
    assert error["code"] == attack.code or error["code"] in ("E-IMAGE-TYPE", "E-IMAGE-BASE64", "E-IMAGE-URL")
    assert secrets_in(error["message"]) is None


@pytest.mark.usefixtures("door_unharmed")
@pytest.mark.parametrize("attack", WIRES, ids=lambda attack: attack.tried)
def test_wire(hasty_door, attack: WireAttack):
    with connect(hasty_door.url) as client:
        client.settimeout(5)
        try:
            client.sendall(attack.sent())
            answer = b"".join(iter(lambda: client.recv(65536), b""))
        except ConnectionError:
            # Closed while more was being sent, which only a head that is too long gets.
            assert len(attack.sent()) > 2**16
            return
    assert answer[:13] == (b"HTTP/1.1 %d " % attack.status if attack.status else b"")
    if attack.status == 408:
        assert b'"code": "E-DOOR-SLOW"' in answer
    assert secrets_in(answer.partition(b"\r\n\r\n")[2].decode()) is None


@pytest.mark.parametrize("name", CONTROL_TEXTS)
def test_control_typed_as_text_costs_as_much_as_text(door, grpc_door, name):
    """No token of it is worth a special one, or the counts would differ: the ensemble's own is pinned by ids."""
    text = CONTROL_TEXTS[name]
    direct = grpc_door.send({"text_input": text, "max_tokens": 1})
    told = send(door.url, {**GOOD_CHAT, "messages": [{"role": "user", "content": text}], "max_tokens": 1})
    assert told.status == 200
    assert told.json["usage"]["prompt_tokens"] == direct.input_tokens


def test_many_vanishing_clients_leave_the_door_open(door, good_answer):
    """Connections that are opened, begun and dropped, some with a reset."""
    for number in range(200):
        with connect(door.url) as client:
            if number % 2:
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            client.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nHost: door\r\nContent-Le"[: number % 64])
    assert ask_well(door) == good_answer


def test_all_of_them_twice_leave_a_gateway_as_it_was(server, tmp_path):
    """A process of its own: its memory, its open files, and the folder it runs in. Of the pictures, the largest."""
    pictures = [one for one in PICTURES if one.name in ("33 MB", "twenty", "text bomb")]
    assert len(pictures) == 3
    command = [sys.executable, "-m", "nvlm_trt", "gateway", server.grpc_url, "--port", "0", "--quiet", "--json"]
    with subprocess.Popen(
        [*command, "--allow-image-host", LISTED_HOST], cwd=tmp_path, stdout=subprocess.PIPE, text=True
    ) as gateway:
        try:
            assert gateway.stdout is not None
            url = read_announcement(gateway.stdout)["gateway"]
            memory, files = ProcessMemory(gateway.pid), Path(f"/proc/{gateway.pid}/fd")

            def attack() -> tuple[int, int]:
                for one in REQUESTS:
                    send(url, one.body(), path=one.path, method=one.method, headers=one.headers)
                for picture in pictures:
                    send(url, {**GOOD_CHAT, **chat_picture(named(str(picture.change()["image_url_input"][0])))})
                return memory.bytes(), len(list(files.iterdir()))

            first_bytes, first_files = attack()
            last_bytes, last_files = attack()
        finally:
            gateway.terminate()
    assert last_bytes < first_bytes + 32 * 2**20
    # A connection or two may still be closing; each attack had one.
    assert last_files <= first_files + 4
    assert list(tmp_path.iterdir()) == []
