"""Costs of a build at full size; ``tests/pipeline/test_real_build.py`` compares them with a real one."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from nvlm_trt.pipeline.recipe_file import recipe_names
from nvlm_trt.pipeline.steps import steps_for
from nvlm_trt.plan.calibration_size import CalibrationSize, calibration_size
from nvlm_trt.plan.cost import RATE_ORIGINS, Rates, build_costs, checkpoint_bytes
from nvlm_trt.plan.resolve import load_recipe
from tests.release import RELEASE

SAMPLES = CalibrationSize(14_000, 42)


def test_the_release_is_read_whole() -> None:
    assert checkpoint_bytes(RELEASE) == 176_901_927_168
    costs = {cost.step: cost for cost in build_costs(RELEASE, load_recipe("h200x1-fp8", RELEASE), SAMPLES, Rates())}
    assert costs["inspect"].reads_bytes == 176_901_927_168
    assert costs["vision.onnx"].reads_bytes + costs["decoder.checkpoint"].reads_bytes == 176_901_927_168
    assert costs["decoder.checkpoint"].writes_bytes == 75_199_761_536
    assert costs["decoder.checkpoint"].memory_bytes == 3_000_000_000 + 152_064 * 8192 * 2


@pytest.mark.parametrize("quantization", ["none", "fp8"])
@pytest.mark.parametrize("name", recipe_names())
def test_every_step_that_costs_something_is_listed(name: str, quantization: str) -> None:
    recipe = load_recipe(name, RELEASE)
    vision = recipe.vision.model_copy(update={"quantization": quantization})
    recipe = recipe.model_copy(update={"vision": vision})
    listed = [cost.step for cost in build_costs(RELEASE, recipe, SAMPLES, Rates())]
    assert listed == [step.name for step in steps_for(recipe) if step.name != "triton.repository"]


def test_the_unified_form_is_as_large_for_any_number_of_gpus() -> None:
    written = set()
    for name in ("h200x1-fp8", "h100x8-fp8"):
        recipe = load_recipe(name, RELEASE)
        decoder = recipe.decoder.model_copy(update={"unified_checkpoint": True})
        costs = build_costs(RELEASE, recipe.model_copy(update={"decoder": decoder}), SAMPLES, Rates())
        written |= {cost.writes_bytes for cost in costs if cost.step == "decoder.unified"}
    # The decoder of one rank, and the vision half with its fp32 tensors.
    assert written == {75_199_761_536 + 18_066_108_672}


def test_times_follow_the_rates() -> None:
    recipe = load_recipe("h200x1-fp8", RELEASE)
    slow, fast = (build_costs(RELEASE, recipe, SAMPLES, Rates(*[rate] * 6)) for rate in (1e9, 2e9))
    assert [cost.seconds for cost in slow] == pytest.approx([2 * cost.seconds for cost in fast])


def test_every_rate_is_explained() -> None:
    assert RATE_ORIGINS.keys() == {field.name for field in dataclasses.fields(Rates)}


def test_a_calibration_s_size_is_told_from_its_list(tmp_path: Path) -> None:
    own = tmp_path / "set.jsonl"
    own.write_text(
        '{"prompt": "12345678"}\n\n'
        '{"prompt": "1234", "images": ["a.png", "b.png"]}\n'
        '{"prompt": "1234", "images": ["a.png", "b.png"]}\n'
    )
    size = calibration_size(RELEASE, str(own))
    assert size.tiles == 2 * 7
    assert size.tokens == 22 + 2 * (21 + 2 * (7 * 261 + 5))
    assert calibration_size(RELEASE, None).tiles > 0


@pytest.mark.parametrize(
    "text",
    ["{", "[]", '{"prompt": 3}', '{"images": []}', '{"prompt": "x", "images": 3}', '{"prompt": "", "images": [[]]}'],
)
def test_a_set_that_cannot_be_read_counts_nothing(tmp_path: Path, text: str) -> None:
    (tmp_path / "set.jsonl").write_text(text)
    assert calibration_size(RELEASE, str(tmp_path / "set.jsonl")) == CalibrationSize(0, 0)
    assert calibration_size(RELEASE, str(tmp_path / "nothing.jsonl")) == CalibrationSize(0, 0)


def test_a_device_spares_the_decoder_s_hours_and_not_the_pictures() -> None:
    cpu = load_recipe("h200x1-fp8", RELEASE)
    cuda = cpu.model_copy(update={"calibration": cpu.calibration.model_copy(update={"device": "cuda"})})
    hours = [
        {cost.step: cost.seconds / 3600 for cost in build_costs(RELEASE, recipe, SAMPLES, Rates())}[
            "decoder.calibration"
        ]
        for recipe in (cpu, cuda)
    ]
    assert hours[0] > 5
    assert 1 < hours[1] < 1.5
