from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nvlm_trt.plan.gpu import GPUS
from nvlm_trt.plan.resolve import load_recipe
from nvlm_trt.plan.roofline import ASSUMED, Assumptions, speed
from nvlm_trt.plan.workload import Workload
from tests.release import RELEASE

H200 = GPUS["H200-141GB"]
ONE = load_recipe("h200x1-fp8", RELEASE)
EIGHT = load_recipe("h200x8-fp8", RELEASE)
IDEAL = Assumptions(1, 1, 1, 1, 1, 0)
TEXT = Workload(0, 1000, 2)


def test_one_token_takes_the_time_of_reading_weights_and_cache() -> None:
    quick = speed(RELEASE, ONE, H200, TEXT, 1, IDEAL)
    read = 75_199_761_536 - 152_064 * 8192 * 2 + 1001 * 327_680
    assert quick.step_alone_s == pytest.approx(read / 4.8e12)


def test_a_prompt_takes_the_time_of_its_multiplications() -> None:
    quick = speed(RELEASE, ONE, H200, Workload(0, 8000, 2), 1, IDEAL)
    linears = 2 * 70_212_648_960 * 8000 / 1.979e15
    attention = 2 * 8000**2 * 8192 * 80 / 0.989e15
    assert quick.prefill_s == pytest.approx(linears + attention)


def test_a_picture_takes_the_vision_engine_s_time_and_text_none() -> None:
    assert speed(RELEASE, ONE, H200, TEXT, 1, IDEAL).vision_s == 0
    one, two = (speed(RELEASE, ONE, H200, Workload(n, 100, 2), 1, IDEAL).vision_s for n in (1, 2))
    assert two == pytest.approx(2 * one)
    # About 11.9 TFLOP a tile: 5.5 G parameters at 1025 positions, attention, the projector at 256.
    assert one == pytest.approx(7 * 12.3e12 / 0.989e15, rel=0.05)


def test_eight_gpus_are_faster_but_not_eight_times() -> None:
    one, eight = (speed(RELEASE, recipe, H200, TEXT, 1, Assumptions()) for recipe in (ONE, EIGHT))
    assert one.step_alone_s / 8 < eight.step_alone_s < one.step_alone_s / 3


@settings(deadline=None, max_examples=30)
@given(count=st.integers(1, 200), pictures=st.integers(0, 4), text=st.integers(1, 4000), answer=st.integers(1, 1000))
def test_more_company_slows_each_and_serves_more(count: int, pictures: int, text: int, answer: int) -> None:
    work = Workload(pictures, text, answer)
    few, many = (speed(RELEASE, ONE, H200, work, n, Assumptions()) for n in (count, count + 1))
    assert few.step_alone_s <= few.step_full_s <= many.step_full_s
    assert many.full_tokens_s >= few.full_tokens_s * 0.999
    assert few.time_to_first_token_s > 0


def test_every_assumption_is_explained() -> None:
    assert ASSUMED.keys() == {field.name for field in dataclasses.fields(Assumptions)}
