"""The engine over a simulated model: its books, and everything that can go wrong around them."""

from __future__ import annotations

import logging
import queue
import threading
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nvlm_trt.embedded.block_pool import BlockPool
from nvlm_trt.embedded.in_flight import InFlightEngine
from nvlm_trt.embedded.request import FinishReason, GenerationRequest
from nvlm_trt.embedded.scheduler import Limits
from nvlm_trt.embedded.slot_pool import SlotPool
from nvlm_trt.errors import ArtefactError, CancelledError, NvlmError, OverloadedError, RequestError
from tests.embedded.answers import PATIENCE_S, Listener
from tests.embedded.simulated_runner import VOCAB_SIZE, SimulatedBlockRunner, SimulatedRunner, expected_tokens


class Stepped:
    """Every call waits for permission, so that a test decides what happens between two of them."""

    def __init__(self, *args):
        super().__init__(*args)
        self.permits: queue.SimpleQueue[BaseException | None] = queue.SimpleQueue()
        self.calls: queue.SimpleQueue[str] = queue.SimpleQueue()

    def _call(self, name):
        self.calls.put(name)
        permit = self.permits.get(timeout=PATIENCE_S)
        if isinstance(permit, BaseException):
            raise permit

    def prefill(self, *args):
        self._call("prefill")
        return super().prefill(*args)  # type: ignore[misc]

    def decode(self, *args):
        self._call("decode")
        return super().decode(*args)  # type: ignore[misc]

    def next_call(self):
        return self.calls.get(timeout=PATIENCE_S)


class SteppedRunner(Stepped, SimulatedRunner):
    def __init__(self, num_slots=4, max_seq_len=64):
        super().__init__(num_slots, max_seq_len)


class SteppedBlockRunner(Stepped, SimulatedBlockRunner):
    def __init__(self, num_blocks=32, block_size=4):
        super().__init__(num_blocks, block_size)


def pool_over(runner, max_batch_size, max_seq_len):
    if isinstance(runner, SimulatedBlockRunner):
        return BlockPool(runner, max_batch_size, max_seq_len)
    runner = runner or SimulatedRunner(max_batch_size, max_seq_len)
    return SlotPool(runner, max_batch_size, max_seq_len, block_size=4)


@pytest.fixture
def start():
    """Starts an engine over a runner; closes it after the test."""
    engines = []

    def start_engine(runner=None, limits=None, max_seq_len=64):
        limits = limits or Limits(max_batch_size=4, max_num_tokens=20, max_waiting=8, chunk=8)
        engine = InFlightEngine(pool_over(runner, limits.max_batch_size, max_seq_len), limits, max_seq_len)
        engines.append((engine, runner))
        return engine

    yield start_engine
    for engine, runner in engines:
        if isinstance(runner, Stepped):
            for _ in range(200):
                runner.permits.put(None)
        engine.close()


def make_request(name="r", ids=(1, 2, 3), max_tokens=5, **fields):
    return GenerationRequest(name, np.array(ids, np.int32), max_tokens, **fields)


def submit(engine, *args, **fields):
    listener = Listener()
    engine.submit(make_request(*args, **fields), listener)
    return listener


def wait_until(holds):
    deadline = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.001)


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


def cancelled(listener):
    last = listener.wait()
    assert isinstance(last.error, CancelledError)
    return last.finish is FinishReason.CANCELLED


@pytest.mark.parametrize("runner_class", [SteppedRunner, SteppedBlockRunner])
def test_cancelling_before_the_first_step_during_the_prompt_and_during_the_answer(start, runner_class):
    runner = runner_class()
    engine = start(runner)
    answering = submit(engine, "answering", max_tokens=30)
    runner.next_call()
    prompting = submit(engine, "prompting", [5] * 30)
    waiting = submit(engine, "waiting")
    runner.permits.put(None)
    answering.first.wait(PATIENCE_S)
    assert runner.next_call() == "decode"
    runner.permits.put(None)
    assert runner.next_call() == "prefill"
    assert engine.metrics()["free_tokens"] < engine.metrics()["pool_tokens"]
    for name in ("answering", "prompting", "waiting"):
        assert engine.cancel(name) == 1
        assert engine.cancel(name) == 0
    runner.permits.put(None)  # ends the running step; the next one starts without them
    for listener in (answering, prompting, waiting):
        assert cancelled(listener)
    assert engine.metrics()["free_tokens"] == engine.metrics()["pool_tokens"]
    assert len(answering.tokens) == 2
    assert (prompting.tokens, waiting.tokens) == ([], [])
    wait_until(lambda: engine.metrics()["running"] == 0)
    assert runner.calls.empty()


def test_cancelling_takes_every_request_of_that_name_and_no_other(start):
    runner = SteppedRunner()
    engine = start(runner)
    same = [submit(engine, "same", max_tokens=40) for _ in range(3)]
    other = submit(engine, "other")
    assert engine.cancel("same") == 3
    assert engine.cancel("nobody") == 0
    for _ in range(60):
        runner.permits.put(None)
    assert all(map(cancelled, same))
    assert other.wait().finish is FinishReason.LENGTH
    assert other.tokens == expected_tokens((1, 2, 3), 5)


class BrokenRunner(SteppedRunner):
    def move(self, source, target, length):
        raise RuntimeError("/secret/path 0xdeadbeef")


@pytest.mark.parametrize("num_good_calls", [0, 1])
def test_a_fault_of_the_model_ends_every_request_with_an_error(start, caplog, num_good_calls):
    runner = SteppedRunner()
    engine = start(runner, Limits(max_batch_size=2, max_num_tokens=20, chunk=8))
    listeners = [submit(engine, str(number), max_tokens=9) for number in range(4)]
    for _ in range(num_good_calls):
        runner.permits.put(None)
    runner.permits.put(RuntimeError("/secret/path 0xdeadbeef"))
    assert_faulted(engine, listeners, caplog)


def test_a_fault_while_a_finished_request_leaves_reaches_that_request_too(start, caplog):
    runner = BrokenRunner()
    engine = start(runner, Limits(max_batch_size=2, max_num_tokens=20, chunk=8))
    short = submit(engine, "short", max_tokens=2)
    runner.next_call()
    listeners = [short, *(submit(engine, str(number), max_tokens=9) for number in range(3))]
    for _ in range(4):
        runner.permits.put(None)
    assert_faulted(engine, listeners, caplog)


def assert_faulted(engine, listeners, caplog):
    with caplog.at_level(logging.CRITICAL, "nvlm_trt.embedded.in_flight"):
        ends = [listener.wait() for listener in listeners]
    assert {end.finish for end in ends} == {FinishReason.ERROR}
    assert {end.error.code for end in ends} == {"E-ENGINE-FAULT"}
    assert "secret" not in str(ends[0].error)
    with pytest.raises(ArtefactError) as caught:
        submit(engine)
    assert caught.value.code == "E-ENGINE-FAULT"
    assert (engine.metrics()["running"], engine.metrics()["healthy"]) == (0, False)
    engine.close(drain_s=PATIENCE_S)


def test_whatever_ends_the_thread_is_a_fault(start, caplog):
    """Not every failure of a compiled library is an ``Exception``."""

    class Panic(BaseException):
        pass

    runner = SteppedBlockRunner()
    engine = start(runner)
    listener = submit(engine)
    runner.permits.put(Panic())
    assert_faulted(engine, [listener], caplog)


def test_a_listener_that_fails_ends_its_own_request_only(start, caplog):
    caplog.set_level(logging.CRITICAL, "nvlm_trt.embedded.in_flight")
    engine = start()
    calls = []

    def failing(emission):
        calls.append(emission)
        raise ValueError

    engine.submit(make_request("failing", max_tokens=40), failing)
    other = submit(engine, "other", max_tokens=20)
    assert other.wait().finish is FinishReason.LENGTH
    wait_until(lambda: engine.metrics()["running"] == 0)
    assert len(calls) == 1
    assert engine.metrics()["generated_tokens"] < 40


def test_a_listener_may_use_the_engine(start):
    engine = start()
    second = Listener()

    def first(emission):
        if emission.finish:
            assert engine.metrics()["running"] == 0
            assert engine.cancel("nobody") == 0
            engine.submit(make_request("second"), second)

    engine.submit(make_request("first"), first)
    second.wait()
    assert second.tokens == expected_tokens((1, 2, 3), 5)


def test_closing_ends_everyone_and_refuses_newcomers(start):
    runner = SteppedRunner()
    engine = start(runner, Limits(max_batch_size=1, max_num_tokens=9, chunk=8))
    listeners = [submit(engine, str(n), max_tokens=30) for n in range(3)]
    runner.next_call()
    threading.Timer(0.01, runner.permits.put, (None,)).start()
    engine.close()
    assert all(map(cancelled, listeners))
    with pytest.raises(NvlmError) as caught:
        submit(engine)
    assert caught.value.code == "E-ENGINE-CLOSED"
    engine.close()


def test_closing_takes_no_more_and_lets_open_requests_end(start):
    runner = SteppedRunner()
    engine = start(runner)
    listener = submit(engine, max_tokens=3)
    runner.next_call()
    closing = threading.Thread(target=engine.close, args=(PATIENCE_S,))
    closing.start()
    wait_until(lambda: not engine.metrics()["healthy"])
    with pytest.raises(NvlmError) as caught:
        submit(engine)
    assert caught.value.code == "E-ENGINE-CLOSED"
    for _ in range(3):
        runner.permits.put(None)
    assert listener.wait().finish is FinishReason.LENGTH
    closing.join(PATIENCE_S)
    assert not closing.is_alive()


def test_closing_ends_at_its_deadline_whoever_is_not_done(start):
    runner = SteppedRunner()
    engine = start(runner)
    listener = submit(engine, max_tokens=60)
    closing = threading.Thread(target=engine.close, args=(0.02,))
    closing.start()
    while closing.is_alive():
        runner.permits.put(None)
        closing.join(0.02)
    assert cancelled(listener)
    assert len(listener.tokens) < 60


def test_closing_waits_no_longer_than_for_the_last_answer(start):
    engine = start()
    listeners = [submit(engine, str(n), max_tokens=30) for n in range(6)]
    begun = time.monotonic()
    engine.close(drain_s=PATIENCE_S)
    assert time.monotonic() - begun < PATIENCE_S / 2
    assert {listener.emissions[-1].finish for listener in listeners} == {FinishReason.LENGTH}


def test_a_runner_that_has_something_to_give_back_is_closed(start):
    class Owner(SimulatedRunner):
        closed = threading.Event()

        def close(self):
            self.closed.set()

    engine = start(Owner(4, 64))
    assert not Owner.closed.is_set()
    engine.close()
    assert Owner.closed.is_set()


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


def test_an_engine_may_be_closed_by_a_listener(start):
    engine = start()
    ended = Listener()
    engine.submit(make_request(max_tokens=30), lambda emission: (engine.close(), ended(emission)))
    assert cancelled(ended)


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
