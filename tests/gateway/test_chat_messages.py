from __future__ import annotations

import json
from typing import Any

import pytest

from nvlm_trt.gateway.chat_messages import read_messages
from nvlm_trt.gateway.refusal import Refusal
from nvlm_trt.gateway.settings import GatewaySettings, Limits
from nvlm_trt.serving.conversation import read_conversation
from tests.gateway.conftest import picture_part, text_part, user

PNG = b"\x89PNG\r\n\x1a\n" + bytes(16)
PICTURE = picture_part(PNG)


def content_of(message, settings):
    return read_messages([message], settings).messages[0]["content"]


@pytest.mark.parametrize(
    ("parts", "content"),
    [
        ([text_part("a")], ["a"]),
        ([text_part("a"), text_part("b")], ["a", "b"]),
        ([PICTURE, text_part("a")], [{}, "a"]),
        ([text_part("a"), PICTURE], [{}, "a"]),
        ([text_part("a"), text_part("b"), PICTURE, PICTURE], [{}, {}, "a", "b"]),
        ([PICTURE, text_part("a"), PICTURE], [{}, {}, "a"]),
        ([text_part("a"), PICTURE, text_part("b")], ["a", {}, "b"]),
        ([PICTURE, text_part("a"), PICTURE, text_part("b")], [{}, "a", {}, "b"]),
        ([PICTURE], [{}]),
        ([picture_part(PNG, "low"), picture_part(PNG, "high"), text_part("a")], [{"max_tiles": 1}, {}, "a"]),
    ],
)
def test_pictures_stand_in_front_unless_the_text_goes_around_them(settings, parts, content):
    assert content_of(user(*parts), settings) == content


def test_pictures_keep_their_order(settings):
    urls = [f"data:image/png;base64,iVBORw0KGgoAAAAAAAA{letter}" for letter in "ABC"]
    parts = [{"type": "image_url", "image_url": {"url": url}} for url in urls]
    messages = [user(*parts[:2], text_part("a")), {"role": "assistant", "content": "b"}, user(parts[2], text_part("c"))]
    assert list(read_messages(messages, settings).pictures) == urls


def test_empty_fields_that_clients_send_back_are_nothing(settings):
    answer: Any = {"role": "assistant", "content": "b", "refusal": None, "annotations": [], "tool_calls": None}
    assert len(read_messages([user("a"), answer, user("c")], settings).messages) == 3


def test_what_is_read_is_what_the_ensemble_reads(settings):
    told = read_messages(
        [{"role": "developer", "content": [text_part("Be brief.")]}, user(picture_part(PNG, "low"), text_part("a"))],
        settings,
    )
    conversation = read_conversation(json.dumps({"messages": told.messages}).encode())
    assert [turn.role for turn in conversation.turns] == ["system", "user"]
    assert conversation.max_tiles == (1,)


@pytest.mark.parametrize(
    ("messages", "code", "param"),
    [
        (None, "E-PARAM-TYPE", "messages"),
        ([], "E-PARAM-TYPE", "messages"),
        ("Hello", "E-PARAM-TYPE", "messages"),
        (["Hello"], "E-PARAM-TYPE", "messages[0]"),
        ([{"content": "Hello"}], "E-PARAM-RANGE", "messages[0].role"),
        ([{"role": "tool", "content": "Hello"}], "E-PARAM-RANGE", "messages[0].role"),
        ([{"role": ["user"], "content": "Hello"}], "E-PARAM-RANGE", "messages[0].role"),
        ([{"role": "user"}], "E-PARAM-TYPE", "messages[0].content"),
        ([user(" \n")], "E-PROMPT-EMPTY", "messages[0].content"),
        ([user(5)], "E-PARAM-TYPE", "messages[0].content[0]"),
        ([{"role": "user", "content": "a", "name": "Eve"}], "E-PARAM-UNSUPPORTED", "messages[0].name"),
        ([user("a"), {"role": "system", "content": "b"}, user("c")], "E-PARAM-RANGE", "messages[1].role"),
        ([user("a"), {"role": "assistant", "content": "b"}], "E-PARAM-RANGE", "messages"),
        ([{"role": "system", "content": [PICTURE]}, user("a")], "E-PARAM-TYPE", "messages[0].content[0]"),
        ([user({"type": "input_audio", "input_audio": {}})], "E-PARAM-TYPE", "messages[0].content[0]"),
        ([user({"type": "image_url", "image_url": "data:"})], "E-PARAM-TYPE", "messages[0].content[0]"),
        ([user(picture_part(PNG, "max"))], "E-PARAM-RANGE", "messages[0].content[0].image_url.detail"),
        ([user({**text_part("a"), "cache": 1})], "E-PARAM-TYPE", "messages[0].content[0]"),
        ([user({**PICTURE, "uuid": "x"})], "E-PARAM-UNSUPPORTED", "messages[0].content[0].uuid"),
        ([user(text_part("a"), picture_part(b"hello"))], "E-IMAGE-FORMAT", "messages[0].content[1].image_url.url"),
        ([user("a\ud800")], "E-PROMPT-UTF8", "messages[0].content"),
        ([user(PICTURE, PICTURE, PICTURE, text_part("a"))], "E-IMAGE-COUNT", "messages"),
    ],
)
def test_what_cannot_be_read_is_refused_by_its_place(messages, code, param):
    with pytest.raises(Refusal) as refused:
        read_messages(messages, GatewaySettings(limits=Limits(pictures=2)))
    assert (refused.value.code, refused.value.param) == (code, param)
