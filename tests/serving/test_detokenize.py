from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nvlm_trt.serving.detokenize import StreamDecoder

IDS = st.lists(st.integers(0, 300) | st.integers(0, 152063), max_size=40)


@pytest.fixture
def stream(qwen) -> StreamDecoder:
    return StreamDecoder(qwen)


@given(ids=IDS, data=st.data())
@settings(deadline=None)
def test_pieces_put_together_are_the_text_at_once(qwen, ids, data):
    stream = StreamDecoder(qwen)
    text, at = "", 0
    while at < len(ids):
        size = data.draw(st.integers(1, len(ids) - at))
        text += stream.push(7, ids[at : at + size])
        at += size
    text += stream.finish(7)
    assert text == qwen.decode_bytes(ids).decode("utf-8", "replace")
    assert stream.num_unfinished == 0


@given(text=st.text(max_size=40))
@settings(deadline=None)
def test_a_text_arrives_in_whole_characters(qwen, text):
    stream = StreamDecoder(qwen)
    pieces = [stream.push(1, [id]) for id in _ids_of_bytes(qwen, text)]
    assert "".join(pieces) == text
    assert "\ufffd" in text or not any("\ufffd" in piece for piece in pieces)


def test_half_a_character_waits_for_the_other_half(stream, qwen):
    first, *rest = _ids_of_bytes(qwen, "日")
    assert stream.push(1, [first]) == ""
    assert stream.num_unfinished == 1
    assert stream.push(1, rest) == "日"
    assert stream.num_unfinished == 0


def test_streams_do_not_mix(stream, qwen):
    left, right = _ids_of_bytes(qwen, "é"), _ids_of_bytes(qwen, "日")
    assert [stream.push(1, left[:1]), stream.push(2, right[:1])] == ["", ""]
    assert [stream.push(2, right[1:]), stream.push(1, left[1:])] == ["日", "é"]


def test_a_stream_that_ends_inside_a_character_says_so(stream, qwen):
    stream.push(1, _ids_of_bytes(qwen, "日")[:2])
    assert stream.finish(1) == "\ufffd"
    assert stream.finish(1) == ""
    assert stream.finish(99) == ""


def test_special_tokens_and_unknown_ids_print_nothing(stream, qwen):
    assert stream.push(1, [qwen.eos_id, *qwen.encode_text("Hi"), 152000, 10**6]) == "Hi"


def test_of_too_many_unfinished_streams_the_one_idle_longest_is_forgotten(qwen):
    stream = StreamDecoder(qwen, max_streams=2)
    first, second, third = _ids_of_bytes(qwen, "日")
    stream.push(1, [first])
    stream.push(2, [first])
    stream.push(1, [second])
    stream.push(3, [first])
    assert stream.num_unfinished == 2
    assert stream.push(1, [third]) == "日"
    assert stream.push(2, [second, third]) == "\ufffd\ufffd"


def _ids_of_bytes(qwen, text: str) -> list[int]:
    """The tokens of single bytes, which cut every character wherever it can be cut."""
    ids_of = {qwen.decode_bytes([id]): id for id in range(256)}
    return [ids_of[bytes([byte])] for byte in text.encode()]
