from __future__ import annotations

import asyncio

import pytest

from nvlm_trt.errors import OverloadedError
from nvlm_trt.gateway.admission import Admission


def run(story) -> None:
    asyncio.run(story())


def test_turns_come_in_order_and_a_large_one_is_not_overtaken():
    async def story():
        admission, order = Admission(2, 8, 5), []

        async def enter(name: str, count: int) -> None:
            await admission.take(count)
            order.append(name)

        await enter("first", 1)
        waiting = [asyncio.create_task(enter(name, count)) for name, count in (("pair", 2), ("small", 1))]
        await asyncio.sleep(0)
        assert (admission.running, admission.waiting) == (1, 3)
        admission.give(1)
        await waiting[0]
        assert order == ["first", "pair"]
        admission.give(2)
        await waiting[1]
        assert (admission.running, admission.waiting) == (1, 0)

    run(story)


def test_who_finds_no_room_is_refused_at_once():
    async def story():
        admission = Admission(1, 1, 5)
        await admission.take(1)
        waiting = asyncio.create_task(admission.take(1))
        await asyncio.sleep(0)
        with pytest.raises(OverloadedError, match="E-BUSY-DOOR"):
            admission.check_room()
        with pytest.raises(OverloadedError, match="E-BUSY-DOOR"):
            await admission.take(1)
        admission.give(1)
        await waiting

    run(story)


def test_who_waits_too_long_is_refused_and_leaves_no_trace():
    async def story():
        admission = Admission(1, 4, 0.01)
        await admission.take(1)
        with pytest.raises(OverloadedError, match="could not begin within"):
            await admission.take(1)
        assert admission.waiting == 0
        admission.give(1)
        await admission.take(1)
        assert admission.running == 1

    run(story)


def test_who_leaves_the_queue_lets_the_next_one_through():
    """The one in front needs two and goes; the one behind it needs the one that is free."""

    async def story():
        admission = Admission(2, 8, 5)
        await admission.take(1)
        large, small = asyncio.create_task(admission.take(2)), asyncio.create_task(admission.take(1))
        await asyncio.sleep(0)
        large.cancel()
        await small
        assert (admission.running, admission.waiting) == (2, 0)
        with pytest.raises(asyncio.CancelledError):
            await large

    run(story)


def test_a_turn_that_comes_as_its_owner_leaves_is_given_back():
    async def story():
        admission = Admission(1, 8, 5)
        await admission.take(1)
        leaver = asyncio.create_task(admission.take(1))
        await asyncio.sleep(0)
        admission.give(1)
        leaver.cancel()
        with pytest.raises(asyncio.CancelledError):
            await leaver
        assert admission.running == 0

    run(story)


def test_who_would_wait_in_vain_is_refused_at_once(monkeypatch):
    async def story():
        now_s = 0.0
        monkeypatch.setattr("nvlm_trt.gateway.admission.time.monotonic", lambda: now_s)
        admission = Admission(1, 200, 60)
        await admission.take(1)
        waiting = [asyncio.create_task(admission.take(1)) for _ in range(40)]
        for served in range(20):
            now_s += 1.0
            admission.give(1)
            await waiting[served]
        more = [asyncio.create_task(admission.take(1)) for _ in range(80)]
        await asyncio.sleep(0)
        refused = [task.done() for task in more]
        assert refused == [False] * 43 + [True] * 37  # 20 wait, a slot takes 19 s / 20: 63 fit into a minute
        with pytest.raises(OverloadedError, match="could not begin within"):
            more[-1].result()
        now_s += 600.0
        with pytest.raises(OverloadedError, match="could not begin within"):  # nothing came back for ten minutes
            admission.check_room()
        await _leave(waiting[20:] + more)

    run(story)


def test_a_quiet_hour_says_nothing_about_the_pace(monkeypatch):
    async def story():
        now_s = 0.0
        monkeypatch.setattr("nvlm_trt.gateway.admission.time.monotonic", lambda: now_s)
        admission = Admission(2, 100, 5)
        for _ in range(40):
            await admission.take(1)
            admission.give(1)
        now_s = 3600.0
        await admission.take(2)
        waiting = asyncio.create_task(admission.take(1))
        await asyncio.sleep(0)
        assert not waiting.done()
        assert admission.waiting == 1
        await _leave([waiting])

    run(story)


async def _leave(tasks):
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
