from __future__ import annotations

import shlex
from pathlib import Path

from nvlm_trt.pipeline.container import container_command
from nvlm_trt.plan.resolve import load_recipe
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
