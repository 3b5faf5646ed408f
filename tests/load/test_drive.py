"""Driving real, small servers that stall, refuse, die and cheat."""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Sequence

import pytest

from nvlm_trt.load.answers import Answers
from nvlm_trt.load.doors.registry import door_of
from nvlm_trt.load.drive import Driven, drive
from nvlm_trt.load.record import UNFINISHED, Record
from nvlm_trt.load.request import LoadRequest, Planned
from nvlm_trt.load.summary import distribution
from tests.load.servers import Behaviour, event, head, in_event_loop, served

REQUEST = LoadRequest(0, " Name three colours.", 4, 2)


def plan(due_s: Sequence[float | None]) -> list[Planned]:
    return [Planned(REQUEST, at_s) for at_s in due_s]


async def driven(
    behave: Behaviour,
    planned: list[Planned],
    clients: int | None,
    *,
    path: str = "",
    timeout_s: float = 20.0,
    stop: asyncio.Event | None = None,
) -> Driven:
    async with served(behave) as url:
        door = door_of(url + path).open(url + path, timeout_s)
        prepared = [(one, door.prepare(one.request, [])) for one in planned]
        try:
            return await drive(door, prepared, clients, stop or asyncio.Event())
        finally:
            await door.close()


def e2e_ms(run: Driven) -> list[float]:
    return [Record.of(taken, run.start_s, None).e2e_ms for taken in run.done]


class Stalling:
    """Answers one request after another at once, but takes 0.4 s over the eleventh."""

    def __init__(self) -> None:
        self.one_at_a_time = asyncio.Lock()

    async def __call__(self, number: int, writer: asyncio.StreamWriter) -> None:
        async with self.one_at_a_time:
            await asyncio.sleep(0.4 if number == 11 else 0)
        writer.write(head() + event("a") + event("b"))


@in_event_loop
async def test_a_stall_is_counted_for_all_who_would_have_come() -> None:
    """Forty requests, fifty a second: the twenty that are due during the stall wait for its end, the first 400 ms, the
    last hardly. A client that waits for its answer before it asks again would see one slow request.
    """
    opened = await driven(Stalling(), plan([number / 50 for number in range(40)]), None)
    closed = await driven(Stalling(), plan([None] * 40), 1)
    assert [taken.code for taken in opened.done + closed.done] == [None] * 80
    slow = [taken > 150 for taken in e2e_ms(opened)]
    assert sum(slow) >= 11
    assert sum(taken > 150 for taken in e2e_ms(closed)) < 4
    tail = distribution(e2e_ms(opened))
    assert tail is not None
    assert tail.p90 > 300


@in_event_loop
async def test_open_loop_requests_do_not_wait_for_answers() -> None:
    together = asyncio.Event()
    waiting = 0

    async def behave(number: int, writer: asyncio.StreamWriter) -> None:
        nonlocal waiting
        waiting += 1
        if waiting == 5:
            together.set()
        await together.wait()
        writer.write(head() + event("a"))

    run = await driven(behave, plan([0.0, 0.01, 0.02, 0.03, 0.04]), None)
    assert [taken.code for taken in run.done] == [None] * 5


@pytest.mark.parametrize("clients", [None, 1])
@in_event_loop
async def test_the_clock_starts_after_garbage_has_been_collected(
    clients: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process with much in its memory takes longer for that than the lead before the first request."""
    collect = gc.collect

    def slowly() -> int:
        time.sleep(0.3)
        return collect()

    async def behave(number: int, writer: asyncio.StreamWriter) -> None:
        writer.write(head() + event("a"))

    monkeypatch.setattr(gc, "collect", slowly)
    run = await driven(behave, plan([0.0 if clients is None else None]), clients)
    lag_ms = Record.of(run.done[0], run.start_s, None).lag_ms
    assert lag_ms is not None
    assert lag_ms < 150


@in_event_loop
async def test_a_closed_loop_has_as_many_requests_as_clients() -> None:
    now = most = 0

    async def behave(number: int, writer: asyncio.StreamWriter) -> None:
        nonlocal now, most
        now += 1
        most = max(most, now)
        await asyncio.sleep(0.01)
        now -= 1
        writer.write(head() + event("a"))

    run = await driven(behave, plan([None] * 12), 3)
    assert len(run.done) == 12
    assert most == 3
    assert sorted(taken.number for taken in run.done) == list(range(12))


@in_event_loop
async def test_every_way_to_fail_has_its_code() -> None:
    async def behave(number: int, writer: asyncio.StreamWriter) -> None:
        if number == 1:  # a proxy's refusal
            writer.write(head("429 Too Many Requests", "text/plain") + b"slow down")
        elif number == 2:  # our own, in Triton's words
            writer.write(head("400 Bad Request") + b'data: {"error":"in ensemble, E-BUSY-QUEUE: It is full."}\n\n')
        elif number == 3:
            writer.write(head("503 Service Unavailable", "text/html"))
        elif number == 4:  # an error after the first token
            writer.write(head() + event("a") + b'data: {"error":"E-ENGINE-FAULT: The engine failed."}\n\n')
        elif number == 5:  # nothing at all, and then an end
            writer.write(head())
        elif number == 6:  # responses without a token
            writer.write(head() + event("", 0))
        elif number == 7:
            writer.write(head() + b"data: {no json\n\n")
        elif number == 8:
            writer.write(head() + b'data: {"text_output": "a"}\n\n')
        elif number == 9:  # the connection breaks in the middle
            writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\ndata:")
        elif number == 11:  # longer than the client waits
            writer.write(head() + event("a"))
            await writer.drain()
            await asyncio.sleep(2)
        else:  # 10 and 12 ask to stop what was left in the middle
            writer.write(head())

    run = await driven(behave, plan([None] * 10), 1, timeout_s=0.5)
    assert [taken.code for taken in sorted(run.done, key=lambda taken: taken.number)] == [
        "HTTP-429",
        "E-BUSY-QUEUE",
        "HTTP-503",
        "E-ENGINE-FAULT",
        "E-SERVER-EMPTY",
        "E-SERVER-EMPTY",
        "E-SERVER-PROTOCOL",
        "E-SERVER-PROTOCOL",
        "E-SERVER-LOST",
        "E-SERVER-TIMEOUT",
    ]


@in_event_loop
async def test_openai_s_errors_and_usage() -> None:
    async def behave(number: int, writer: asyncio.StreamWriter) -> None:
        if number == 1:
            piece = b'data: {"choices":[{"index":0,"delta":{"content":"a b"}}],"usage":null}\n\n'
            usage = b'data: {"choices":[],"usage":{"prompt_tokens":9,"completion_tokens":2}}\n\n'
            writer.write(head() + piece + piece + usage + b"data: [DONE]\n\n")
        elif number == 2:
            error = b'{"error":{"message":"E-BUSY-GATEWAY: It is full.","code":"E-BUSY-GATEWAY"}}'
            writer.write(head("429 Too Many Requests", "application/json") + error)
        else:
            writer.write(head() + b"data: {}\n\n")

    run = await driven(behave, plan([None] * 3), 1, path="/v1")
    assert [taken.code for taken in run.done] == [None, "E-BUSY-GATEWAY", "E-SERVER-PROTOCOL"]
    whole = run.done[0]
    assert (whole.text, whole.input_tokens, whole.output_tokens, whole.tokens) == ("a ba b", 9, 2, [None, None])


@in_event_loop
async def test_a_server_that_is_gone_is_unreachable() -> None:
    async def behave(number: int, writer: asyncio.StreamWriter) -> None:
        raise AssertionError("never asked")

    async with served(behave) as url:
        pass
    door = door_of(url).open(url, 0.5)
    try:
        run = await drive(door, [(one, door.prepare(one.request, [])) for one in plan([None])], 1, asyncio.Event())
    finally:
        await door.close()
    assert [taken.code for taken in run.done] == ["E-SERVER-UNREACHABLE"]


@pytest.mark.parametrize("clients", [2, None])
@in_event_loop
async def test_a_stop_keeps_what_was_measured(clients: int | None) -> None:
    """It comes with the fourth request, when the first two were answered long ago and the last two wait."""
    stop = asyncio.Event()

    async def behave(number: int, writer: asyncio.StreamWriter) -> None:
        if number == 4:
            stop.set()
        if number > 2:
            await asyncio.sleep(5)
        writer.write(head() + event("a"))

    due = [None] * 50 if clients else [0.0, 0.0, 2.0, 2.0, *[60.0] * 46]
    run = await driven(behave, plan(due), clients, stop=stop)
    assert run.interrupted
    assert sorted(taken.code or "" for taken in run.done) == ["", "", UNFINISHED, UNFINISHED]


def test_answers_are_compared_with_those_alone() -> None:
    other = LoadRequest(0, " another", 1, 1)
    third = LoadRequest(0, " third", 1, 1)
    answers = Answers()
    for request, text in ((REQUEST, "x"), (REQUEST, "y"), (other, "z"), (third, "z")):
        answers.add(request, text)
    check = answers.against({REQUEST: "x", other: "z", third: None})
    assert (check.asked_alone, check.equal, check.different, check.unanswered) == (3, 2, 1, 1)
    assert "alone 'x', under load 'y'" in check.examples[0]
