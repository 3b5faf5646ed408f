from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pytest

from nvlm_trt.embedded.in_flight import InFlightEngine
from nvlm_trt.embedded.request import Emission, FinishReason
from nvlm_trt.embedded.scheduler import Limits
from nvlm_trt.embedded.slot_pool import SlotPool
from nvlm_trt.errors import NvlmError, RequestError
from nvlm_trt.serving.decoder_calls import DecoderCalls
from nvlm_trt.serving.shutdown import ENDING, Shutdown
from tests.embedded.simulated_runner import SimulatedRunner, expected_tokens

LONG = 4000


class HeldReply:
    def __init__(self) -> None:
        self.tokens: list[list[int]] = []
        self.log_probs: list[float] = []
        self.error: NvlmError | None = None
        self.over = threading.Event()
        self.started = threading.Event()
        self.gone = False

    def send(self, tensors, *, final) -> None:
        assert not self.over.is_set()
        self.tokens.append(tensors["output_ids"].ravel().tolist())
        self.last = tensors
        if "output_log_probs" in tensors:
            so_far = tensors["output_log_probs"].ravel().tolist()
            assert so_far[: len(self.log_probs)] == self.log_probs
            self.log_probs = so_far
        self.started.set()
        if final:
            self.over.set()

    def fail(self, error) -> None:
        self.error = error
        self.over.set()

    def end(self) -> None:
        self.over.set()

    def is_cancelled(self) -> bool:
        return self.gone


def tensors(*ids: int, max_tokens: int = 5, **more) -> dict[str, Any]:
    return {
        "input_ids": np.array([ids], np.int32),
        "request_output_len": np.array([[max_tokens]], np.int32),
        **{name: np.array([[value]]) for name, value in more.items()},
    }


@pytest.fixture
def engine() -> InFlightEngine:
    return InFlightEngine(SlotPool(SimulatedRunner(2, 8192), 2, 8192), Limits(2, 8192, 8, 256), 8192)


@pytest.fixture
def calls(engine) -> Iterator[DecoderCalls]:
    calls = DecoderCalls(engine, poll_s=0.005)
    yield calls
    calls.close()


def test_a_stream_gets_all_its_tokens_in_order_the_last_with_the_end(calls):
    reply = HeldReply()
    calls.take("a", tensors(3, 4, max_tokens=50, streaming=True, return_log_probs=True), reply)
    assert reply.over.wait(5)
    assert [token for piece in reply.tokens for token in piece] == expected_tokens([3, 4], 50)
    assert all(reply.tokens)
    assert len(reply.log_probs) == 50, "as TensorRT-LLM: of all tokens so far, with each response again"
    assert reply.last["cum_log_probs"].item() == pytest.approx(sum(reply.log_probs), rel=1e-5)


def test_an_end_token_shows_as_a_response_without_tokens_after_all_others(calls):
    reply = HeldReply()
    tokens = expected_tokens([3, 4], 50)
    end = next(token for token in tokens[5:] if token not in tokens[:5])
    calls.take("a", tensors(3, 4, max_tokens=50, streaming=True, end_id=end), reply)
    assert reply.over.wait(5)
    assert reply.tokens[-1] == []
    assert all(reply.tokens[:-1])
    assert [token for piece in reply.tokens for token in piece] == tokens[: tokens.index(end)]


def test_without_streaming_all_comes_in_one_response(calls):
    reply = HeldReply()
    calls.take("a", tensors(3, 4, return_log_probs=True), reply)
    assert reply.over.wait(5)
    assert reply.tokens == [expected_tokens([3, 4], 5)]
    assert reply.last["output_log_probs"].shape == (1, 1, 5)
    assert reply.last["cum_log_probs"].item() == pytest.approx(float(reply.last["output_log_probs"].sum()))


@pytest.mark.parametrize("streaming", [True, False])
def test_several_answers_come_with_their_number_and_the_last_ends_the_request(calls, streaming):
    class Numbered(HeldReply):
        def send(self, tensors, *, final) -> None:
            numbers.append(tensors["sequence_index"].item())
            super().send(tensors, final=final)

    numbers: list[int] = []
    reply = Numbered()
    calls.take("a", tensors(3, 4, streaming=streaming, num_return_sequences=3), reply)
    assert reply.over.wait(5)
    for index in range(3):
        pieces = [piece for number, piece in zip(numbers, reply.tokens, strict=True) if number == index]
        assert [token for piece in pieces for token in piece] == expected_tokens([3, 4], 5)
        assert streaming or len(pieces) == 1
    calls.take("a", tensors(3), HeldReply())  # its id is free


def test_stopping_one_of_several_answers_stops_all_with_one_error(calls, engine):
    reply = HeldReply()
    calls.take("a", tensors(3, max_tokens=LONG, streaming=True, num_return_sequences=2), reply)
    assert reply.started.wait(5)
    calls.stop("a")
    assert reply.over.wait(5)
    assert reply.error is not None
    assert reply.error.code.startswith("E-CANCEL-")
    assert engine.metrics()["running"] == 0


def test_a_stop_request_with_its_id_ends_a_stream_and_only_that(calls):
    stopped, other, stopper = HeldReply(), HeldReply(), HeldReply()
    calls.take("a", tensors(3, max_tokens=LONG, streaming=True), stopped)
    calls.take("b", tensors(4, max_tokens=20, streaming=True), other)
    assert stopped.started.wait(5)
    calls.take("a", {"stop": np.array([[True]])}, stopper)
    assert stopper.over.is_set()
    assert stopped.over.wait(5)
    assert stopped.error is not None
    assert stopped.error.code.startswith("E-CANCEL-")
    assert other.over.wait(5)
    assert [token for piece in other.tokens for token in piece] == expected_tokens([4], 20)


def test_a_stop_request_for_nothing_is_answered_all_the_same(calls):
    reply = HeldReply()
    calls.take("nobody", {"stop": np.array([[True]])}, reply)
    assert reply.over.is_set()
    assert reply.error is None


def test_who_went_away_is_noticed(calls, engine):
    reply = HeldReply()
    calls.take("a", tensors(3, max_tokens=LONG, streaming=True), reply)
    assert reply.started.wait(5)
    reply.gone = True
    assert reply.over.wait(5)
    assert engine.metrics()["running"] == 0
    assert len(reply.tokens) < LONG


@pytest.mark.parametrize("streaming", [True, False])
def test_an_open_id_is_refused_a_second_time_and_free_again_afterwards(calls, streaming):
    first, second = HeldReply(), HeldReply()
    calls.take("a", tensors(3, max_tokens=LONG, streaming=streaming), first)
    with pytest.raises(RequestError, match="E-PARAM-ID"):
        calls.take("a", tensors(4), second)
    calls.stop("a")
    assert first.over.wait(5)
    calls.take("a", tensors(4), second)
    assert second.over.wait(5)
    assert second.tokens == [expected_tokens([4], 5)]


def test_requests_without_an_id_are_not_each_others(calls):
    replies = [HeldReply(), HeldReply()]
    for reply in replies:
        calls.take("", tensors(3), reply)
    assert all(reply.over.wait(5) for reply in replies)
    with pytest.raises(RequestError, match="E-PARAM-ID"):
        calls.take("", {"stop": np.array([[True]])}, HeldReply())


def test_a_refused_request_leaves_its_id_free(calls):
    with pytest.raises(RequestError, match="E-PROMPT-"):
        calls.take("a", tensors(3, max_tokens=100_000), HeldReply())
    reply = HeldReply()
    calls.take("a", tensors(3), reply)
    assert reply.over.wait(5)


def test_closing_answers_open_requests(engine):
    calls = DecoderCalls(engine)
    reply = HeldReply()
    calls.take("a", tensors(3, max_tokens=LONG, streaming=True), reply)
    calls.close()
    assert reply.over.is_set()
    assert reply.error is not None
    assert reply.error.code.startswith("E-CANCEL-")


def test_what_is_stopped_at_the_servers_end_says_so(engine, tmp_path):
    calls = DecoderCalls(engine, check_going=Shutdown(str(tmp_path)).check_going)
    before, after = HeldReply(), HeldReply()
    for reply, name in ((before, "a"), (after, "b")):
        calls.take(name, tensors(3, max_tokens=LONG, streaming=True), reply)
    calls.stop("a")
    assert before.over.wait(5)
    (tmp_path / ENDING).touch()
    calls.stop("b")
    assert after.over.wait(5)
    calls.close()
    assert [reply.error and reply.error.code for reply in (before, after)] == ["E-CANCEL-REQUEST", "E-CANCEL-SHUTDOWN"]


def test_closing_may_wait_for_open_requests(engine):
    calls = DecoderCalls(engine)
    reply = HeldReply()
    calls.take("a", tensors(3, max_tokens=20), reply)
    calls.close(drain_s=30)
    assert reply.tokens == [expected_tokens([3], 20)]


def test_figures_are_observed(engine):
    seen: list[Mapping[str, Any]] = []
    calls = DecoderCalls(engine, seen.append, poll_s=0.005)
    deadline = time.monotonic() + 5
    while not seen and time.monotonic() < deadline:
        time.sleep(0.005)
    calls.close()
    assert {"running", "waiting", "prefill_tokens", "generated_tokens"} <= seen[0].keys()


def test_what_is_made_but_not_sent_is_observed(engine):
    class Stuck(HeldReply):
        def send(self, tensors, *, final) -> None:
            assert going.wait(10)
            super().send(tensors, final=final)

    seen: list[Mapping[str, Any]] = []
    going, reply = threading.Event(), Stuck()
    calls = DecoderCalls(engine, seen.append, poll_s=0.005)
    calls.take("a", tensors(3), reply)
    deadline = time.monotonic() + 5
    while not (seen and (seen[-1]["running"], seen[-1]["unsent"]) == (0, 1)) and time.monotonic() < deadline:
        time.sleep(0.005)
    assert (seen[-1]["running"], seen[-1]["unsent"]) == (0, 1)
    going.set()
    calls.close()
    assert not calls.unsent
    assert reply.tokens == [expected_tokens([3], 5)]


@pytest.mark.parametrize(
    ("finish", "code"), [(FinishReason.CANCELLED, "E-CANCEL-STOPPED"), (FinishReason.ERROR, "E-SERVER-INTERNAL")]
)
def test_an_engine_that_ends_a_request_without_a_word_still_gives_an_error(finish, code):
    class Terse:
        def submit(self, request, listener, begun=None):
            listener(Emission((), finish=finish))

        def cancel(self, request_id):
            return 0

        def metrics(self):
            return {}

        def close(self, drain_s=0):
            pass

    calls = DecoderCalls(Terse())
    reply = HeldReply()
    calls.take("a", tensors(3), reply)
    calls.close()
    assert reply.error is not None
    assert reply.error.code == code
