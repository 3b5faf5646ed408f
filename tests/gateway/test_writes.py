"""How an answer's events leave: which there are, and how many writes they take."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, MutableMapping
from typing import Any

from nvlm_trt.errors import OverloadedError
from nvlm_trt.gateway.body import Held, HeldBytes
from nvlm_trt.gateway.call import Call
from nvlm_trt.gateway.chat_answer import Piece, Shape
from nvlm_trt.gateway.completions import _send_stream
from nvlm_trt.gateway.reply import Reply


def test_an_answer_of_one_piece_takes_two_writes() -> None:
    writes = _writes([(0, Piece("Yes", 5, 1)), (0, Piece("", 5, finish_reason="stop"))], choices=1, usage=True)
    assert [_kinds(write) for write in writes] == [["role", "content"], ["finish", "usage", "DONE"]]


def test_every_piece_leaves_when_it_comes() -> None:
    pieces = [(0, Piece(text, 5, 1)) for text in "abc"]
    writes = _writes([*pieces, (0, Piece("d", 5, finish_reason="length"))], choices=1, usage=False)
    assert [_kinds(write) for write in writes] == [
        ["role", "content"],
        ["content"],
        ["content"],
        ["content", "finish", "DONE"],
    ]


def test_a_choice_that_ends_does_not_wait_for_the_others() -> None:
    pieces = [(1, Piece("a", 5, 1)), (1, Piece("", 5, finish_reason="stop")), (0, Piece("", 5, finish_reason="stop"))]
    writes = _writes(pieces, choices=2, usage=False)
    assert [_kinds(write) for write in writes] == [["role", "content"], ["finish"], ["role", "finish", "DONE"]]


def test_a_token_that_ends_inside_a_character_opens_the_answer_only() -> None:
    writes = _writes([(0, Piece("", 5, 1)), (0, Piece("", 5, 1)), (0, Piece("é", 5, 1)), (0, _END)], 1, usage=False)
    assert [_kinds(write) for write in writes] == [["role"], ["content"], ["finish", "DONE"]]


_END = Piece("", 5, finish_reason="length")


def test_who_is_refused_is_told_before_the_rest_of_the_body_has_come() -> None:
    happened: list[str] = []

    async def send(message: MutableMapping[str, Any]) -> None:
        happened.append("head" if message["type"] == "http.response.start" else message["body"].decode())
        assert message.get("more_body", True) == (len(happened) < 4)

    async def read_on() -> None:
        happened.append("the rest")

    asyncio.run(Reply(send, "id", 1.0).error(OverloadedError("E-BUSY-DOOR", "Full.", "Wait."), read_on))
    assert happened[0] == "head"
    assert json.loads(happened[1])["error"]["code"] == "E-BUSY-DOOR"
    assert happened[2:] == ["the rest", ""]


def _writes(pieces: list[tuple[int, Piece]], choices: int, usage: bool) -> list[bytes]:
    """The bodies that were sent."""
    sent: list[MutableMapping[str, Any]] = []

    async def send(message: MutableMapping[str, Any]) -> None:
        sent.append(message)

    async def come() -> AsyncIterator[tuple[int, Piece]]:
        for piece in pieces:
            yield piece

    call = Call([], Held(HeldBytes(1)))

    async def answer() -> None:
        await _send_stream(come(), choices, Shape("id", "m", False, usage), call, Reply(send, "id", 1.0))

    asyncio.run(answer())
    assert sent[0]["type"] == "http.response.start"
    assert [message["more_body"] for message in sent[1:]] == [True] * (len(sent) - 2) + [False]
    return [message["body"] for message in sent[1:]]


def _kinds(write: bytes) -> list[str]:
    return [_kind(event.removeprefix(b"data: ")) for event in write.removesuffix(b"\n\n").split(b"\n\n")]


def _kind(event: bytes) -> str:
    if event == b"[DONE]":
        return "DONE"
    data = json.loads(event)
    if not data["choices"]:
        return "usage"
    choice = data["choices"][0]
    if choice["finish_reason"]:
        return "finish"
    return "role" if "role" in choice["delta"] else "content"
