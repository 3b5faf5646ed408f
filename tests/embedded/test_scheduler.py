"""The scheduler over both pools and a model whose answers show any confusion in their books."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nvlm_trt.embedded.block_pool import BlockPool
from nvlm_trt.embedded.pool import Pool
from nvlm_trt.embedded.prefix import prefix_keys, reusable_blocks
from nvlm_trt.embedded.request import GenerationRequest
from nvlm_trt.embedded.scheduler import Limits, Scheduler, Step
from nvlm_trt.embedded.sequence import Sequence
from nvlm_trt.embedded.slot_pool import SlotPool
from nvlm_trt.errors import OverloadedError, RequestError, UsageError
from tests.embedded.simulated_runner import (
    HIDDEN_SIZE,
    VOCAB_SIZE,
    SimulatedBlockRunner,
    SimulatedRunner,
    expected_tokens,
)

MAX_SEQ_LEN = 48
NUM_ROWS = 9
TABLES = [np.random.default_rng(seed).standard_normal((NUM_ROWS, HIDDEN_SIZE)).astype(np.float32) for seed in range(2)]


def block_pool(batch: int, num_blocks: int, block_size: int) -> BlockPool:
    return BlockPool(SimulatedBlockRunner(num_blocks, block_size), batch, MAX_SEQ_LEN)


def slot_pool(batch: int, block_size: int = 4) -> SlotPool:
    return SlotPool(SimulatedRunner(batch, MAX_SEQ_LEN), batch, MAX_SEQ_LEN, block_size)


@dataclass
class Simulation:
    """Runs a scheduler's steps, and holds every one against the rules."""

    scheduler: Scheduler
    submitted: list[Sequence] = field(default_factory=list)
    ended: list[Sequence] = field(default_factory=list)
    started: list[Sequence] = field(default_factory=list)

    def add(self, ids, max_tokens: int, table=None) -> Sequence:
        pool = self.scheduler.pool
        request = GenerationRequest("r", np.array(ids, np.int32), max_tokens, table)
        keys = prefix_keys(request, VOCAB_SIZE, pool.block_size)
        reusable = reusable_blocks(len(ids), pool.block_size, self.scheduler.chunk)
        sequence = Sequence(request, lambda emission: None, keys, reusable)
        self.scheduler.add([sequence])
        self.submitted.append(sequence)
        return sequence

    def step(self) -> Step:
        scheduler, step = self.scheduler, self.scheduler.plan()
        assert step.num_rows <= scheduler.limits.max_num_tokens
        assert scheduler.num_running <= scheduler.limits.max_batch_size
        if step.decoding:
            assert step.num_rows - len(step.decoding) <= scheduler.chunk, "streams wait for more than one chunk"
        taking_part = {*step.decoding, *(chunk.sequence for chunk in step.chunks)}
        open_ones = [sequence for sequence in self.submitted if sequence not in self.ended]
        assert not open_ones or open_ones[0] in taking_part, "the oldest makes no progress"
        results: list[tuple[Sequence, Any]] = []
        if step.decoding:
            results += zip(step.decoding, scheduler.pool.decode(step.decoding), strict=True)
            for sequence in step.decoding:
                sequence.cached += 1
        for chunk in step.chunks:
            assert chunk.stop % scheduler.chunk == 0 or chunk.last, "the cut depends on something else than the prompt"
            if chunk.sequence not in self.started:
                self.started.append(chunk.sequence)
            logits = scheduler.pool.prefill(chunk.sequence, chunk.start, chunk.stop)
            results += [(chunk.sequence, logits)] if chunk.last else []
        for sequence, logits in results:
            if sequence.cached == sequence.length and sequence.accept(int(logits.argmax())):
                self.end(sequence)
        return step

    def end(self, sequence: Sequence) -> None:
        self.ended.append(sequence)
        self.scheduler.finish(sequence)

    def assert_answers(self) -> None:
        for sequence in self.submitted:
            request = sequence.request
            whole = expected_tokens(request.input_ids, request.max_tokens, request.prompt_table)
            assert sequence.tokens == whole[: len(sequence.tokens)]
        figures = self.scheduler.pool.figures()
        assert figures["free_tokens"] == figures["pool_tokens"]


@st.composite
def limits_and_pools(draw) -> tuple[Limits, Pool]:
    batch, extra, chunk = draw(st.integers(1, 6)), draw(st.integers(1, 40)), draw(st.integers(1, 16))
    block_size = draw(st.sampled_from([2, 3, 4, 8]))
    if draw(st.booleans()):
        pool: Pool = block_pool(batch, draw(st.integers(MAX_SEQ_LEN // block_size // 2 + 1, 40)), block_size)
    else:
        pool = slot_pool(batch, block_size)
    return Limits(batch, batch + extra, 1000, chunk), pool


# Text or one of two pictures of equal size, a beginning that many share, a tail of its own.
prompts = st.tuples(
    st.integers(0, 2), st.integers(0, 24), st.lists(st.integers(0, VOCAB_SIZE - 1), min_size=1, max_size=9)
)
arrivals = st.lists(st.lists(st.tuples(prompts, st.integers(1, 14)), max_size=4), max_size=10)


def submit(simulation: Simulation, prompt, max_tokens: int) -> None:
    kind, shared, tail = prompt
    beginning = [1, 2, *range(VOCAB_SIZE, VOCAB_SIZE + NUM_ROWS), *range(3, 20)] if kind else [*range(30)]
    room = simulation.scheduler.pool.capacity
    ids = [*beginning[:shared], *tail][: room - 1]
    simulation.add(ids, min(max_tokens, room - len(ids)), TABLES[kind - 1] if kind else None)


@settings(deadline=None)
@given(limits_and_pools(), arrivals)
def test_everyone_ends_with_the_answer_of_a_solo_run_in_order_of_arrival(limits_and_pool, arrivals):
    simulation = Simulation(Scheduler(*limits_and_pool))
    pending = list(arrivals)
    while pending or not simulation.scheduler.idle:
        for prompt, max_tokens in pending.pop(0) if pending else ():
            submit(simulation, prompt, max_tokens)
        simulation.step()
    assert simulation.started == simulation.submitted
    assert {*simulation.ended} == {*simulation.submitted}
    assert all(len(sequence.tokens) == sequence.request.max_tokens for sequence in simulation.submitted)
    simulation.assert_answers()


@settings(deadline=None)
@given(limits_and_pools(), arrivals, st.data())
def test_whoever_leaves_at_any_time_frees_its_memory_and_disturbs_nobody(limits_and_pool, arrivals, data):
    simulation = Simulation(Scheduler(*limits_and_pool))
    for group in arrivals:
        for prompt, max_tokens in group:
            submit(simulation, prompt, max_tokens)
        simulation.step()
        present = simulation.scheduler.sequences()
        for index in data.draw(st.sets(st.integers(0, len(present) - 1), max_size=3)) if present else ():
            simulation.end(present[index])
    while not simulation.scheduler.idle:
        simulation.step()
    assert len({*simulation.ended}) == len(simulation.ended) == len(simulation.submitted)
    simulation.assert_answers()


def test_a_long_prompt_enters_beside_running_streams():
    simulation = Simulation(Scheduler(Limits(max_batch_size=4, max_num_tokens=36, chunk=8), slot_pool(4)))
    simulation.add([1, 2, 3], 20)
    simulation.step()
    simulation.add(range(20), 5)
    steps = [simulation.step() for _ in range(4)]
    assert [[(chunk.start, chunk.stop) for chunk in step.chunks] for step in steps] == [
        [(0, 8)],
        [(8, 16)],
        [(16, 20)],
        [],
    ]
    assert [len(step.decoding) for step in steps] == [1, 1, 1, 2]


def test_prompts_share_a_step_while_nobody_waits_for_tokens():
    simulation = Simulation(Scheduler(Limits(max_batch_size=4, max_num_tokens=36, chunk=8), slot_pool(4)))
    for first in range(5):
        simulation.add([first] * 8, 3)
    step = simulation.step()
    assert [chunk.last for chunk in step.chunks] == [True] * 4
    assert len(simulation.scheduler.waiting) == 1


def test_when_the_pool_runs_out_the_youngest_is_computed_again_later():
    pool = block_pool(batch=3, num_blocks=8, block_size=4)
    simulation = Simulation(Scheduler(Limits(max_batch_size=3, max_num_tokens=30, chunk=8), pool))
    old, young = simulation.add([5] * 7, 20), simulation.add([6] * 7, 20)
    while not simulation.scheduler.counts["preemptions"]:
        simulation.step()
    assert list(simulation.scheduler.waiting) == [young]
    assert young.tokens
    newcomer = simulation.add([7], 2)
    while old not in simulation.ended:
        assert young.place is None or newcomer.place is None or young in simulation.started, "somebody overtook"
        simulation.step()
    while not simulation.scheduler.idle:
        simulation.step()
    assert simulation.ended[0] is old
    simulation.assert_answers()


def test_a_newcomer_waits_until_those_who_run_have_a_block_each_to_spare():
    pool = block_pool(batch=3, num_blocks=5, block_size=4)
    simulation = Simulation(Scheduler(Limits(max_batch_size=3, max_num_tokens=30, chunk=8), pool))
    simulation.add([5] * 7, 4)  # two blocks at first, three in the end
    simulation.add([6] * 9, 3)  # three: one would be left for the first, were there six
    simulation.step()
    assert simulation.scheduler.num_running == 1
    while simulation.scheduler.num_running == 1 and simulation.scheduler.waiting:
        simulation.step()
    assert len(simulation.ended) == 1
    assert simulation.scheduler.counts["preemptions"] == 0


def test_the_queue_is_bounded_and_takes_all_or_none():
    scheduler = Scheduler(Limits(max_batch_size=1, max_num_tokens=8, max_waiting=2), slot_pool(1))
    request = GenerationRequest("r", np.zeros(3, np.int32), 4)
    three = [Sequence(request, lambda emission: None) for _ in range(3)]
    scheduler.add(three[:1])
    with pytest.raises(OverloadedError) as caught:
        scheduler.add(three[1:])
    assert caught.value.code == "E-BUSY-QUEUE"
    assert list(scheduler.waiting) == three[:1]
    scheduler.add(three[1:2])
    with pytest.raises(OverloadedError):
        scheduler.add(three[2:])


def test_more_answers_than_may_ever_wait_are_no_matter_of_time():
    scheduler = Scheduler(Limits(max_batch_size=8, max_num_tokens=16, max_waiting=2), slot_pool(8))
    request = GenerationRequest("r", np.zeros(3, np.int32), 4, num_return_sequences=3)
    with pytest.raises(RequestError, match="E-PARAM-RANGE: num_return_sequences is 3; the queue holds 2"):
        scheduler.add([Sequence(request, lambda emission: None) for _ in range(3)])
    assert scheduler.idle


@pytest.mark.parametrize("values", [(0, 8, 1, 1), (8, 8, 1, 1), (1, 8, 0, 1), (1, 8, 1, 0)])
def test_limits_that_allow_nothing_are_refused(values):
    with pytest.raises(UsageError) as caught:
        Limits(*values)
    assert caught.value.code == "E-USAGE-LIMITS"


@given(st.integers(1, 300), st.integers(2, 64))
def test_chunks_and_blocks_fit_each_other(chunk, block_size):
    fitted = Limits(1, 1000, chunk=chunk).chunk_for(block_size)
    assert 1 <= fitted <= chunk
    assert fitted % block_size == 0 or block_size % fitted == 0
