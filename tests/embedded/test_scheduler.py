"""The scheduler against a model that is nothing but counters."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nvlm_trt.embedded.request import GenerationRequest
from nvlm_trt.embedded.scheduler import Limits, Move, Scheduler, Step
from nvlm_trt.embedded.sequence import Sequence
from nvlm_trt.errors import OverloadedError, UsageError


def make_sequence(prompt_length: int = 3, max_tokens: int = 4, name: str = "r") -> Sequence:
    return Sequence(GenerationRequest(name, np.zeros(prompt_length, np.int32), max_tokens), lambda emission: None)


@dataclass
class Simulation:
    """Runs a scheduler's steps; ``slots`` says which sequence's rows lie where, and how many."""

    scheduler: Scheduler
    slots: dict[int, tuple[Sequence, int]] = field(default_factory=dict)
    started: list[Sequence] = field(default_factory=list)
    ended: list[Sequence] = field(default_factory=list)

    def step(self) -> Step:
        step, limits = self.scheduler.plan(), self.scheduler.limits
        assert step.num_rows <= limits.max_num_tokens
        assert self.scheduler.num_running <= limits.max_batch_size
        if step.decoding:
            assert step.num_rows - len(step.decoding) <= limits.chunk, "streams wait for more than one chunk"
        for slot, sequence in enumerate(step.decoding):
            assert self.slots[slot] == (sequence, sequence.cached)
            self.slots[slot] = (sequence, sequence.cached + 1)
        for chunk in step.chunks:
            assert chunk.start % limits.chunk == 0, "the cut depends on something else than the prompt"
            assert chunk.start == 0 or self.slots[chunk.slot] == (chunk.sequence, chunk.start)
            if chunk.start == 0:
                self.started.append(chunk.sequence)
            self.slots[chunk.slot] = (chunk.sequence, chunk.stop)
        took = [*step.decoding, *(chunk.sequence for chunk in step.chunks if chunk.last)]
        for sequence in [sequence for sequence in took if sequence.accept(0)]:
            self.end(sequence)
        return step

    def end(self, sequence: Sequence) -> None:
        self.ended.append(sequence)
        for move in self.scheduler.finish(sequence):
            held, length = self.slots[move.source]
            assert length == move.length
            self.slots[move.target] = (held, length)


limits = st.builds(
    lambda batch, extra, chunk: Limits(batch, batch + extra, 1000, chunk),
    st.integers(1, 6),
    st.integers(1, 40),
    st.integers(1, 16),
)
lengths = st.tuples(st.integers(1, 40), st.integers(1, 12))
arrivals = st.lists(st.lists(lengths, max_size=4), max_size=12)


@settings(deadline=None)
@given(limits=limits, arrivals=arrivals)
def test_everyone_ends_in_order_of_arrival_of_their_prompts(limits, arrivals):
    simulation = Simulation(Scheduler(limits))
    submitted: list[Sequence] = []
    pending = list(arrivals)
    num_steps = 0
    while pending or not simulation.scheduler.idle:
        for prompt_length, max_tokens in pending.pop(0) if pending else ():
            submitted.append(make_sequence(prompt_length, max_tokens))
            simulation.scheduler.add(submitted[-1])
        step = simulation.step()
        assert step.num_rows or simulation.scheduler.idle, "a step without progress"
        num_steps += 1
    assert simulation.started == submitted
    assert set(simulation.ended) == set(submitted)
    assert all(len(sequence.tokens) == sequence.request.max_tokens for sequence in submitted)
    # One chunk of the oldest prompt or one token of everybody per step: no schedule is longer than all work in a row.
    work = sum(-(-one.prompt_length // limits.chunk) + one.request.max_tokens for one in submitted)
    assert num_steps <= work + len(arrivals)


@settings(deadline=None)
@given(limits=limits, arrivals=arrivals, data=st.data())
def test_whoever_leaves_at_any_time_leaves_no_gap(limits, arrivals, data):
    simulation = Simulation(Scheduler(limits))
    for group in arrivals:
        for prompt_length, max_tokens in group:
            simulation.scheduler.add(make_sequence(prompt_length, max_tokens))
        simulation.step()
        present = simulation.scheduler.sequences()
        for index in data.draw(st.sets(st.integers(0, len(present) - 1), max_size=3)) if present else ():
            simulation.end(present[index])
    while not simulation.scheduler.idle:
        simulation.step()
    assert simulation.scheduler.num_running == 0
    assert len(set(simulation.ended)) == len(simulation.ended) == sum(map(len, arrivals))


def test_a_long_prompt_enters_beside_running_streams():
    simulation = Simulation(Scheduler(Limits(max_batch_size=4, max_num_tokens=36, chunk=8)))
    simulation.scheduler.add(make_sequence(3, 20))
    simulation.step()
    simulation.scheduler.add(make_sequence(20, 5))
    steps = [simulation.step() for _ in range(4)]
    assert [[(chunk.start, chunk.stop) for chunk in step.chunks] for step in steps] == [
        [(0, 8)],
        [(8, 16)],
        [(16, 20)],
        [],
    ]
    assert [len(step.decoding) for step in steps] == [1, 1, 1, 2]


def test_prompts_share_a_step_while_nobody_waits_for_tokens():
    scheduler = Scheduler(Limits(max_batch_size=4, max_num_tokens=36, chunk=8))
    for _ in range(5):
        scheduler.add(make_sequence(8))
    step = scheduler.plan()
    assert [(chunk.slot, chunk.last) for chunk in step.chunks] == [(0, True), (1, True), (2, True), (3, True)]
    assert len(scheduler.waiting) == 1


def test_the_last_stream_and_the_half_done_prompt_close_a_gap():
    scheduler = Scheduler(Limits(max_batch_size=4, max_num_tokens=20, chunk=8))
    first, second, long = make_sequence(4), make_sequence(6), make_sequence(30)
    for sequence in (first, second, long):
        scheduler.add(sequence)
    scheduler.plan()
    scheduler.plan()
    assert scheduler.decoding == [first, second]
    assert scheduler.prefilling is long
    assert scheduler.finish(first) == [Move(1, 0, 6), Move(2, 1, long.prefilled)]
    assert scheduler.finish(second) == [Move(1, 0, long.prefilled)]


def test_the_queue_is_bounded():
    scheduler = Scheduler(Limits(max_batch_size=1, max_num_tokens=8, max_waiting=2))
    scheduler.add(make_sequence())
    scheduler.add(make_sequence())
    with pytest.raises(OverloadedError) as caught:
        scheduler.add(make_sequence())
    assert caught.value.code == "E-BUSY-QUEUE"


@pytest.mark.parametrize("values", [(0, 8, 1, 1), (8, 8, 1, 1), (1, 8, 0, 1), (1, 8, 1, 0)])
def test_limits_that_allow_nothing_are_refused(values):
    with pytest.raises(UsageError) as caught:
        Limits(*values)
    assert caught.value.code == "E-USAGE-LIMITS"
