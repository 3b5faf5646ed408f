"""How requests and the engine end: cancelled, by a fault of the model or of a listener, or closed."""

from __future__ import annotations

import logging
import threading
import time

import pytest

from nvlm_trt.embedded.request import FinishReason
from nvlm_trt.embedded.scheduler import Limits
from nvlm_trt.errors import ArtefactError, CancelledError, NvlmError
from tests.embedded.answers import PATIENCE_S, Listener
from tests.embedded.simulated_runner import SimulatedRunner, expected_tokens
from tests.embedded.stepped import SteppedBlockRunner, SteppedRunner, make_request, submit, wait_until


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


def test_an_engine_may_be_closed_by_a_listener(start):
    engine = start()
    ended = Listener()
    engine.submit(make_request(max_tokens=30), lambda emission: (engine.close(), ended(emission)))
    assert cancelled(ended)
