from __future__ import annotations

import shlex
from pathlib import Path

from nvlm_trt.pipeline.container import container_command
from nvlm_trt.pipeline.recipe_file import read_draft
from nvlm_trt.plan.resolve import load_recipe
from nvlm_trt.resources import resource_folder
from tests.release import RELEASE


def test_one_gpu_or_all(tmp_path: Path) -> None:
    for name, gpus in (("h200x1-fp8", "device=0"), ("h100x2-fp8", "all")):
        command = container_command(load_recipe(name, RELEASE), name, tmp_path / "model", tmp_path / "out")
        assert command[command.index("--gpus") + 1] == gpus
    assert container_command(load_recipe("embedded", RELEASE), "embedded", tmp_path, tmp_path) == ()


def test_a_step_and_a_set_of_the_user_s_own_go_along(tmp_path: Path) -> None:
    recipe = load_recipe("h200x1-fp8", RELEASE)
    own = recipe.calibration.model_copy(update={"set": "/data/my sets/set.jsonl"})
    recipe = recipe.model_copy(update={"calibration": own})
    command = container_command(recipe, "h200x1-fp8", tmp_path / "model", tmp_path / "out", "decoder.engine")
    assert "/data/my sets:/data/my sets:ro" in command
    inner = command[-1].partition(" && ")[2]
    assert shlex.split(inner)[-2:] == ["--until", "decoder.engine"]


def test_a_recipe_of_the_user_s_own_finds_its_set_in_the_container(tmp_path: Path) -> None:
    text = (resource_folder("recipes") / "h200x1-fp8.toml").read_text(encoding="utf-8")
    own = tmp_path / "own.toml"
    own.write_text(f"{text}\n[calibration]\nset = 'sets/set.jsonl'\n", encoding="utf-8")
    recipe = load_recipe(str(own), RELEASE)
    command = container_command(recipe, str(own), tmp_path / "model", tmp_path / "out")
    words = shlex.split(command[-1].partition(" && ")[2])
    named = words[words.index("--recipe") + 1]
    # Both lie where they lie here, so the one names the other as it does here.
    assert f"{named}:{named}:ro" in command
    assert f"{tmp_path / 'sets'}:{tmp_path / 'sets'}:ro" in command
    assert read_draft(named).calibration.set == str(tmp_path / "sets" / "set.jsonl")
