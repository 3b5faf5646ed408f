from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nvlm_trt.pipeline.order import in_order, needed_for
from nvlm_trt.pipeline.step import Step
from nvlm_trt.pipeline.steps import steps_for
from nvlm_trt.plan.resolve import load_recipe
from tests.release import RELEASE


def step(number: int, reads: set[int]) -> Step:
    return Step(str(number), lambda _: None, outputs=(f"{number}/out",), artefacts=tuple(f"{n}" for n in reads))


@settings(deadline=None)
@given(data=st.data())
def test_each_step_comes_after_those_it_reads(data: st.DataObject) -> None:
    count = data.draw(st.integers(1, 8))
    steps = [step(n, data.draw(st.sets(st.integers(0, n - 1))) if n else set()) for n in range(count)]
    ordered = in_order(data.draw(st.permutations(steps)))
    place = {one.name: index for index, one in enumerate(ordered)}
    assert len(ordered) == count
    for one in steps:
        assert all(place[name] < place[one.name] for name in one.artefacts)


@settings(deadline=None)
@given(data=st.data())
def test_what_a_step_needs_is_all_it_reads_and_nothing_else(data: st.DataObject) -> None:
    count = data.draw(st.integers(1, 8))
    reads = [data.draw(st.sets(st.integers(0, n - 1))) if n else set() for n in range(count)]
    steps = [step(n, reads[n]) for n in range(count)]
    last = data.draw(st.integers(0, count - 1))
    wanted, waiting = set(), [last]
    while waiting:
        number = waiting.pop()
        wanted.add(number)
        waiting.extend(reads[number] - wanted)
    assert [int(one.name) for one in needed_for(steps[last], steps)] == sorted(wanted)


def test_steps_that_wait_for_each_other_are_a_bug() -> None:
    with pytest.raises(ValueError, match="wait for each other"):
        in_order([step(0, {1}), step(1, {0})])


def test_the_order_of_a_production_build() -> None:
    steps = steps_for(load_recipe("h200x1-fp8", RELEASE))
    names = ["inspect", "vision.onnx", "vision.engine", "decoder.calibration", "decoder.checkpoint", "decoder.engine"]
    assert [one.name for one in in_order(steps)] == [*names, "triton.repository"]
