"""The engine over a simulated model: its books, and requests that come together."""

from __future__ import annotations

import queue
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nvlm_trt.embedded.in_flight import InFlightEngine
from nvlm_trt.embedded.request import FinishReason
from nvlm_trt.embedded.scheduler import Limits
from nvlm_trt.errors import OverloadedError, RequestError
from tests.embedded.answers import PATIENCE_S
from tests.embedded.simulated_runner import VOCAB_SIZE, SimulatedBlockRunner, expected_tokens
from tests.embedded.stepped import SteppedRunner, make_request, pool_over, submit


@settings(deadline=None, max_examples=25)
@given(
    requests=st.lists(
        st.tuples(st.lists(st.integers(0, VOCAB_SIZE - 1), min_size=1, max_size=30), st.integers(1, 20)), max_size=25
    ),
    batch=st.integers(1, 5),
    chunk=st.integers(1, 9),
    num_blocks=st.sampled_from([0, 13, 40]),
)
def test_answers_never_mix_and_all_memory_comes_back(requests, batch, chunk, num_blocks):
    limits = Limits(batch, batch + 9, 25, chunk)
    runner = SimulatedBlockRunner(num_blocks, 4) if num_blocks else None
    engine = InFlightEngine(pool_over(runner, batch, 50), limits, 50)
    listeners = [submit(engine, str(n), ids, max_tokens) for n, (ids, max_tokens) in enumerate(requests)]
    for listener, (ids, max_tokens) in zip(listeners, requests, strict=True):
        assert listener.wait().finish is FinishReason.LENGTH
        assert listener.tokens == expected_tokens(ids, max_tokens)
    metrics = engine.metrics()
    engine.close()
    assert metrics["generated_tokens"] == sum(max_tokens for _, max_tokens in requests)
    assert metrics["prefill_tokens"] + metrics["reused_tokens"] >= sum(len(ids) for ids, _ in requests)
    assert (metrics["running"], metrics["waiting"]) == (0, 0)
    assert metrics["free_tokens"] == metrics["pool_tokens"]


def test_end_id_stop_word_and_length_end_a_request(start):
    engine = start()
    first, second, third, *_ = expected_tokens((1, 2, 3), 5)
    assert len({first, second, third}) == 3
    listener = submit(engine, end_id=third)
    assert (listener.wait().finish, listener.tokens) == (FinishReason.END_ID, [first, second])
    assert listener.emissions[-1].tokens == ()
    listener = submit(engine, stop_words=((first, second),))
    assert (listener.wait().finish, listener.tokens) == (FinishReason.STOP_WORD, [first, second])
    listener = submit(engine, max_tokens=1)
    assert (listener.wait().finish, listener.tokens) == (FinishReason.LENGTH, [first])
    listener = submit(engine, end_id=first)
    assert (listener.wait().finish, listener.tokens) == (FinishReason.END_ID, [])


def test_tokens_come_one_by_one(start):
    listener = submit(start(), max_tokens=4)
    listener.wait()
    assert [len(emission.tokens) for emission in listener.emissions] == [1, 1, 1, 1]
    assert [emission.finish for emission in listener.emissions] == [None, None, None, FinishReason.LENGTH]


def test_bad_requests_are_refused_and_nobody_else_notices(start):
    engine = start()
    good = submit(engine, "good", max_tokens=20)
    for wrong in ({"ids": [VOCAB_SIZE]}, {"ids": [-1]}, {"max_tokens": 62}):
        with pytest.raises(RequestError):
            submit(engine, "bad", **wrong)
    good.wait()
    assert good.tokens == expected_tokens((1, 2, 3), 20)


def test_a_full_queue_refuses_at_once_and_recovers(start):
    runner = SteppedRunner()
    engine = start(runner, Limits(max_batch_size=1, max_num_tokens=9, max_waiting=2, chunk=8))
    running = submit(engine, max_tokens=2)
    assert runner.next_call() == "prefill"
    waiting = [submit(engine, max_tokens=2) for _ in range(2)]
    with pytest.raises(OverloadedError) as caught:
        submit(engine)
    assert caught.value.code == "E-BUSY-QUEUE"
    for _ in range(6):
        runner.permits.put(None)
    for listener in (running, *waiting):
        assert listener.wait().finish is FinishReason.LENGTH


def test_of_prompts_that_come_together_the_first_hears_first(start):
    runner = SteppedRunner()
    engine = start(runner)
    submit(engine, max_tokens=1)
    assert runner.next_call() == "prefill"
    first, second = (submit(engine, name) for name in ("first", "second"))
    for _ in range(2):  # the end of the step before, and the first one's prompt
        runner.permits.put(None)
        assert runner.next_call() == "prefill"
    assert first.first.wait(PATIENCE_S)  # the second one's prompt is not yet computed
    assert second.emissions == []


def test_several_answers_to_one_prompt_share_it_and_each_tells_its_number(start):
    runner = SimulatedBlockRunner(32, 4)
    engine = start(runner, Limits(max_batch_size=4, max_num_tokens=40, chunk=8))
    ends: dict[int, list[int]] = {}
    over: queue.SimpleQueue[tuple[int, FinishReason]] = queue.SimpleQueue()

    def listen(emission):
        ends.setdefault(emission.sequence_index, []).extend(emission.tokens)
        if emission.finish:
            over.put((emission.sequence_index, emission.finish))

    prompt = [*range(20)]
    engine.submit(make_request("several", prompt, 6, num_return_sequences=3), listen)
    assert {over.get(timeout=PATIENCE_S) for _ in range(3)} == {(index, FinishReason.LENGTH) for index in range(3)}
    assert ends == dict.fromkeys(range(3), expected_tokens(prompt, 6))
    assert engine.metrics()["reused_tokens"] == 2 * 16
    engine.submit(make_request("several", [9], 6, num_return_sequences=3), listen)
    engine.cancel("several")
    assert {over.get(timeout=PATIENCE_S)[0] for _ in range(3)} == {0, 1, 2}


def test_who_was_thrown_out_says_nothing_twice(start):
    engine = start(SimulatedBlockRunner(10, 4))
    listeners = [submit(engine, str(first), [first] * 6, 25) for first in range(4)]
    for first, listener in enumerate(listeners):
        assert listener.wait().finish is FinishReason.LENGTH
        assert listener.tokens == expected_tokens([first] * 6, 25)
    metrics = engine.metrics()
    assert metrics["preemptions"] > 0
    assert metrics["generated_tokens"] == 100


def test_what_can_never_fit_the_pool_is_refused_at_once_and_what_just_fits_is_answered(start):
    engine = start(SimulatedBlockRunner(5, 4))
    with pytest.raises(RequestError) as caught:
        submit(engine, ids=[1] * 11, max_tokens=10)
    assert caught.value.code == "E-PROMPT-LENGTH"
    assert "20 positions" in str(caught.value)
    assert submit(engine, ids=[1] * 10, max_tokens=10).wait().finish is FinishReason.LENGTH


def test_many_threads_may_submit_and_cancel_at_once(start):
    engine = start(limits=Limits(max_batch_size=4, max_num_tokens=20, max_waiting=1000, chunk=8))
    ends: queue.SimpleQueue[object] = queue.SimpleQueue()

    def client(number):
        for turn in range(20):
            name = f"{number}.{turn}"
            listener = submit(engine, name, [number + 1] * (turn % 9 + 1), 6)
            if turn % 3 == 0:
                engine.cancel(name)
            last = listener.wait()
            whole = expected_tokens([number + 1] * (turn % 9 + 1), 6)
            ends.put(listener.tokens == whole[: len(listener.tokens)] and (last.finish.name, turn % 3))

    threads = [threading.Thread(target=client, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_S)
    seen = [ends.get(timeout=PATIENCE_S) for _ in range(120)]
    assert set(seen) <= {("LENGTH", 0), ("CANCELLED", 0), ("LENGTH", 1), ("LENGTH", 2)}
    assert engine.metrics()["free_tokens"] == 4 * 64
