"""The study's commands, without running them: each with each, and what is measured is not measured again."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from calibration.study import _varied, main
from nvlm_trt.evaluate.data_set import read_data_set
from nvlm_trt.evaluate.tasks import find_task
from nvlm_trt.pipeline.recipe_file import read_draft
from nvlm_trt.precision.spec import parse_precision
from nvlm_trt.resources import resource_folder
from tests.pipeline.test_real_build import changed_recipe
from tests.report.samples import measurement, put, study

MODEL = str(resource_folder("calibration") / "mini")


def commands(out: Path, *more: str) -> list[str]:
    words = [
        MODEL,
        "own",
        "--data",
        str(out / "exam"),
        "-o",
        str(out),
        "--dry-run",
        "--tiles",
        "1",
        "--tiles",
        "6",
        *more,
    ]
    done = CliRunner().invoke(main, words)
    assert (done.exit_code, done.stdout) == (0, "")
    return [line.removeprefix("$ python ") for line in done.stderr.splitlines()]


def test_every_precision_meets_every_tile_limit_and_load(tmp_path):
    told = commands(tmp_path, "--precision", "bf16", "--precision", "fp8,exclude=*.layers.0.*", "--clients", "3")
    asked = [line for line in told if " eval precisions " in line]
    assert [line.partition("--max-tiles ")[2].split()[0] for line in asked] == ["1", "6"]
    assert all("--precision bf16 --precision 'fp8,exclude=*.layers.0.*'" in line for line in asked)
    loads = [line for line in told if "latency.py run" in line]
    assert len(loads) == len([line for line in told if " build " in line]) == 4
    assert all("--clients 3" in line for line in loads)
    assert told[-1].startswith("-m nvlm_trt report")
    assert not list(tmp_path.iterdir())


def question(number: int) -> str:
    return json.dumps({"id": str(number), "prompt": "Which?", "answers": ["this"]}) + "\n"


def kept_study(folder: Path) -> Path:
    """Everything is there; the latency at six tiles."""
    put(folder / "exam" / "questions.jsonl", "".join(question(number) for number in range(3)))
    asked = {"data_sha256": read_data_set(find_task("own"), folder / "exam").digest(), "questions": 3}
    for tiles in (1, 6):
        put(folder / f"tiles-{tiles}" / "precisions.json", study(tiles, {"bf16": 5, "fp8": 5}, **asked).dump())
        put(folder / f"tiles-{tiles}" / "latency-fp8.json", measurement("fp8", tiles, {1: 9, 8: 20}).dump())
    return folder / "tiles-6" / "latency-fp8.json"


LOADS = ("--precision", "fp8", "--clients", "1", "--clients", "8", "--repetitions", "3")


def test_what_is_there_is_kept(tmp_path):
    kept_study(tmp_path)
    assert len(commands(tmp_path, *LOADS)) == 1


@pytest.mark.parametrize(
    ("more", "spoil"),
    [
        (("--limit", "2"), lambda file: None),
        (("--precision", "fp8+kv"), lambda file: None),
        ((), lambda file: file.write_text(file.read_text() + question(3))),
        ((), lambda file: file.write_text(file.read_text().replace("this", "that"))),
    ],
    ids=["a limit", "another precision", "another question", "another answer"],
)
def test_other_questions_or_precisions_are_asked(tmp_path, more, spoil):
    kept_study(tmp_path)
    spoil(tmp_path / "exam" / "questions.jsonl")
    assert sum(" eval precisions " in line for line in commands(tmp_path, *LOADS, *more)) == 2


@pytest.mark.parametrize(
    "spoil",
    [
        lambda points: points[0].update(summary={}),
        lambda points: points.pop(),
        lambda points: points[1]["runs"].pop(),
        lambda points: points[1]["runs"][0].update(interrupted=True),
    ],
    ids=["no valid run", "a load missing", "a run missing", "a run interrupted"],
)
def test_what_is_not_whole_is_measured_again(tmp_path, spoil):
    file = kept_study(tmp_path)
    data = json.loads(file.read_text())
    spoil(data["points"])
    file.write_text(json.dumps(data))
    again = commands(tmp_path, *LOADS)
    assert [line.split()[1 if "latency.py" in line else 2] for line in again] == ["build", "run", "report"]


@pytest.mark.parametrize("precision", ["bf16", "fp8"])
def test_a_recipe_that_also_builds_what_is_not_served_can_be_varied(tmp_path, precision):
    extra = "[calibration]\nerror_bound = 0.1\n\n[decoder]\nunified_checkpoint = true"
    recipe = changed_recipe("embedded", tmp_path / "own.toml", "[decoder]", extra)
    varied = _varied(read_draft(recipe), parse_precision(precision), 1)
    assert varied.decoder.quantization == {"bf16": "none", "fp8": "fp8"}[precision]
    assert (varied.calibration.error_bound, varied.decoder.unified_checkpoint) == (None, False)


@pytest.mark.parametrize("words", [["--precision", "int8"], ["--recipe", "nowhere"]])
def test_what_cannot_be_meant_is_refused_first(tmp_path, words):
    done = CliRunner().invoke(main, [MODEL, "own", "--data", "exam", "-o", str(tmp_path / "out"), *words])
    assert done.exit_code == 1
    assert "Error: E-" in done.stderr
    assert not (tmp_path / "out").exists()
