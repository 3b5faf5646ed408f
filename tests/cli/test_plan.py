from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from nvlm_trt.checkpoint.synthetic import SIZES
from nvlm_trt.checkpoint.synthetic.config_json import config_json
from nvlm_trt.cli import main
from nvlm_trt.pipeline.recipe_file import recipe_names

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("release") / "config.json"
    file.write_text(json.dumps(config_json(SIZES["full"])), encoding="utf-8")
    return file


def plan(*arguments: str | Path):
    return CliRunner().invoke(main, ["plan", *map(str, arguments)], catch_exceptions=False)


@pytest.mark.parametrize("recipe", recipe_names())
def test_every_recipe_is_planned_from_the_config_alone(release: Path, recipe: str) -> None:
    told = json.loads(plan(release, "--recipe", recipe, "--json").stdout)
    assert told["format"] == 1
    assert told["decoder_bytes_per_rank_by_tp"] == {
        "1": 75_199_761_536,
        "2": 38_846_909_568,
        "4": 20_670_483_584,
        "8": 11_582_270_592,
    }
    assert told["kv_bytes_per_token"] == {"bf16": 327_680, "fp8": 163_840}
    assert (told["gpu_memory"] is None) == (recipe == "embedded")
    assert all(choice["reason"] for choice in told["choices"])
    text = plan(release, "--recipe", recipe).stdout
    assert "tp 1: 75.2 GB, tp 2: 38.8 GB, tp 4: 20.7 GB, tp 8: 11.6 GB" in text
    assert max(map(len, text.splitlines())) <= 160


def test_a_folder_and_its_config_plan_alike(small_checkpoint: Path) -> None:
    folder = plan(small_checkpoint, "--recipe", "h200x1-fp8", "--json").stdout
    assert folder == plan(small_checkpoint / "config.json", "--recipe", "h200x1-fp8", "--json").stdout


def test_requests_are_counted_for_the_lengths_that_are_asked(release: Path) -> None:
    asked = ["--pictures", "2", "--text-tokens", "1000", "--answer-tokens", "100"]
    told = json.loads(plan(release, "--recipe", "h200x1-fp8", "--json", *asked).stdout)
    assert told["workload"]["total_tokens"] == 2 * (7 * 261 + 5) + 1000 + 100
    usual = json.loads(plan(release, "--recipe", "h200x1-fp8", "--json").stdout)
    assert told["num_requests"] < usual["num_requests"]
    # The engine stays the recipe's.
    assert told["recipe"] == usual["recipe"]
    text_only = json.loads(plan(release, "--recipe", "h200x1-fp8", "--json", "--pictures", "0").stdout)
    assert text_only["speed"]["vision_s"] == 0


def test_what_does_not_fit_is_said_with_exit_code_2(release: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "one.toml"
    recipe.write_text((ROOT / "build/recipes/h100x2-fp8.toml").read_text().replace("count = 2", "count = 1"))
    result = plan(release, "--recipe", recipe)
    assert result.exit_code == 2
    assert result.stderr.startswith("error: E-RECIPE-MEMORY")


def test_a_folder_that_is_no_model(tmp_path: Path) -> None:
    result = plan(tmp_path, "--recipe", "embedded")
    assert result.exit_code == 5
    assert plan(tmp_path / "nothing", "--recipe", "embedded").exit_code == 5


def test_it_takes_well_under_a_second_and_loads_nothing_heavy(release: Path) -> None:
    program = (
        "import sys, time\n"
        "from nvlm_trt.cli import main\n"
        "start = time.process_time()\n"
        "main(sys.argv[1:], standalone_mode=False)\n"
        "print(time.process_time() - start, file=sys.stderr)\n"
        "heavy = {'torch', 'onnx', 'onnxruntime', 'tokenizers', 'tritonclient', 'tensorrt_rtx'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    command = [sys.executable, "-c", program, "plan", str(release), "--recipe", "h200x1-fp8"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert float(done.stderr) < 1.0
