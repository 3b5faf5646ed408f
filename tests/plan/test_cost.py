"""Costs of a build at full size; ``tests/pipeline/test_real_build.py`` compares them with a real one."""

from __future__ import annotations

import dataclasses

import pytest

from nvlm_trt.pipeline.recipe_file import recipe_names
from nvlm_trt.pipeline.steps import steps_for
from nvlm_trt.plan.cost import RATE_ORIGINS, Rates, build_costs, checkpoint_bytes
from nvlm_trt.plan.resolve import load_recipe
from tests.decoder.test_trtllm_format import RELEASE


def test_the_release_is_read_whole() -> None:
    assert checkpoint_bytes(RELEASE) == 176_901_927_168
    costs = {cost.step: cost for cost in build_costs(RELEASE, load_recipe("h200x1-fp8", RELEASE), 14_000, Rates())}
    assert costs["inspect"].reads_bytes == 176_901_927_168
    assert costs["vision.onnx"].reads_bytes + costs["decoder.checkpoint"].reads_bytes == 176_901_927_168
    assert costs["decoder.checkpoint"].writes_bytes == 75_199_761_536
    assert costs["decoder.checkpoint"].memory_bytes == 3_000_000_000 + 152_064 * 8192 * 2


@pytest.mark.parametrize("name", recipe_names())
def test_every_step_that_costs_something_is_listed(name: str) -> None:
    recipe = load_recipe(name, RELEASE)
    listed = [cost.step for cost in build_costs(RELEASE, recipe, 14_000, Rates())]
    assert listed == [step.name for step in steps_for(recipe) if step.name != "triton.repository"]


def test_times_follow_the_rates() -> None:
    recipe = load_recipe("h200x1-fp8", RELEASE)
    slow, fast = (build_costs(RELEASE, recipe, 14_000, Rates(*[rate] * 6)) for rate in (1e9, 2e9))
    assert [cost.seconds for cost in slow] == pytest.approx([2 * cost.seconds for cost in fast])


def test_every_rate_is_explained() -> None:
    assert RATE_ORIGINS.keys() == {field.name for field in dataclasses.fields(Rates)}
