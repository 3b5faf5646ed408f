"""The command on the mini model, whole, killed, gone on with, and used wrongly."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

from nvlm_trt.cli import main
from nvlm_trt.errors import UsageError
from nvlm_trt.precision.result import load_study
from nvlm_trt.resources import resource_folder
from scripts.draw_exam import draw

PRECISIONS = ("bf16", "fp8", "fp8+kv", "fp8,exclude=*.layers.0.*")
QUESTIONS = 11


@pytest.fixture(scope="module")
def exam(tmp_path_factory):
    """The last question's picture is missing."""
    folder = tmp_path_factory.mktemp("exam")
    draw(folder, QUESTIONS, "numbers", 1)
    (folder / f"{QUESTIONS - 1:05}.png").unlink()
    return folder


def command(exam: Path, out: Path, *more: str, names: tuple[str, ...] = PRECISIONS) -> list[str]:
    model = str(resource_folder("calibration") / "mini")
    named = [word for name in names for word in ("--precision", name)]
    sizes = ["--layer-questions", "3", "--kl-questions", "6", "--threads", "1"]
    return ["eval", "precisions", model, "own", "--data", str(exam), "-o", str(out), *named, *sizes, "--quiet", *more]


@pytest.fixture(scope="module")
def out(exam, tmp_path_factory):
    folder = tmp_path_factory.mktemp("study")
    done = CliRunner().invoke(main, command(exam, folder, "--json"), catch_exceptions=False)
    assert done.exit_code == 0
    assert json.loads(done.stdout) == json.loads((folder / "precisions.json").read_text())
    return folder


def test_the_result_says_what_was_asked_and_what_came_of_it(out):
    study = load_study(out / "precisions.json")
    assert (study.task, study.questions, study.errors) == ("own", QUESTIONS, {"E-IMAGE-FILE": 1})
    assert [one.name for one in study.precisions] == list(PRECISIONS)
    reference, fp8, cache, kept = study.precisions
    assert (reference.difference, reference.agreement) == (None, None)
    assert reference.score.value > 50
    assert sum(count for _, count in reference.groups.values()) == QUESTIONS
    assert reference.checkpoint_bytes > kept.checkpoint_bytes > fp8.checkpoint_bytes
    for one in (fp8, cache, kept):
        assert one.difference is not None
        assert one.agreement is not None
        assert one.difference.value == pytest.approx(one.score.value - reference.score.value)
        agreement = one.agreement
        assert agreement.questions == QUESTIONS - 1
        assert agreement.equal + sum(agreement.first_difference.values()) == QUESTIONS - 1
        assert agreement.forced_questions == 6
        assert 0 < agreement.kl.low <= agreement.kl.value <= agreement.kl.high < 0.5
        assert agreement.kl.value <= agreement.largest_kl
    kl = {one.name: one.agreement.kl.value for one in study.precisions if one.agreement}
    assert len(set(kl.values())) == 3
    assert study.layers is not None
    assert len(study.layers.layers) == study.model.layers == 3
    assert min(study.layers.everything.value, *(layer.alone.value for layer in study.layers.layers)) > 0


def test_the_reference_agrees_with_itself(out):
    """Its logits at its own answers are those it answered from: to the last bit, so nothing diverges."""
    forced = json.loads((out / "forced" / "bf16.json").read_text())
    assert all(one["same"] == [True] * len(one["same"]) and set(one["kl"]) == {0} for one in forced["questions"])
    logits = (out / "forced" / "reference.f32").stat().st_size
    assert logits == 4 * 2048 * sum(len(one["kl"]) for one in forced["questions"])


def test_the_answers_are_files_that_score_and_compare_read(out):
    told = CliRunner().invoke(main, ["eval", "compare", "own", str(out / "bf16"), str(out / "fp8"), "--json"])
    difference = load_study(out / "precisions.json").precisions[1].difference
    assert difference is not None
    assert json.loads(told.stdout)["difference"] == difference.value


def test_the_text_has_every_precision_and_layer(exam, out):
    """And nothing is done twice: all of it is there."""
    before = {file: file.stat().st_mtime_ns for file in (out / "build").rglob("rank0.safetensors")}
    told = CliRunner().invoke(main, command(exam, out), catch_exceptions=False).stdout
    assert all(f"\n{name}" in told for name in PRECISIONS)
    assert f"{QUESTIONS} questions, 1 errors E-IMAGE-FILE" in told
    assert "\nall " in told
    assert {file: file.stat().st_mtime_ns for file in before} == before


def test_a_killed_study_goes_on_and_ends_with_the_same_bytes(exam, out, tmp_path):
    again = tmp_path / "again"
    shutil.copytree(out / "build", tmp_path / "build")
    words = command(exam, again, "--build", str(tmp_path / "build"), names=PRECISIONS[:2])
    running = subprocess.Popen([sys.executable, "-m", "nvlm_trt", *words], stdout=subprocess.DEVNULL)
    answers = again / "fp8-own-dprank=0-partition=0.jsonl"
    deadline_s = time.monotonic() + 60
    while not (answers.exists() and answers.stat().st_size):
        assert running.poll() is None
        assert time.monotonic() < deadline_s
        time.sleep(0.001)
    running.send_signal(signal.SIGKILL)
    running.wait()
    assert not (again / "precisions.json").exists()
    assert CliRunner().invoke(main, words, catch_exceptions=False).exit_code == 0
    for name in ("prompts/rows.f32", "forced/fp8.json", answers.name, "bf16-own-dprank=0-partition=0.jsonl"):
        assert (again / name).read_bytes() == (out / name).read_bytes(), name
    whole, resumed = (json.loads((folder / "precisions.json").read_text()) for folder in (out, again))
    different = {"circumstances": None, "precisions": None}
    assert {**resumed, **different} == {**whole, **different}
    assert resumed["precisions"] == whole["precisions"][:2]


def test_fewer_tiles_are_another_study(exam, out, tmp_path):
    refused = CliRunner().invoke(main, command(exam, out, "--max-tiles", "1"))
    assert refused.exit_code == 2
    assert "E-EVAL-MIXED" in refused.stderr
    shutil.copytree(out / "build", tmp_path / "build")
    few = ["--max-tiles", "1", "--limit", "4", "--layer-questions", "0"]
    words = command(exam, tmp_path, *few, names=PRECISIONS[:2])
    assert CliRunner().invoke(main, words, catch_exceptions=False).exit_code == 0
    study = load_study(tmp_path / "precisions.json")
    assert (study.tiles, study.model.max_tiles, study.layers) == (1, 1, None)
    assert len(list((tmp_path / "build" / "decoder").glob("*/rank0.safetensors"))) == 2


def test_what_it_takes_is_said_before(exam, tmp_path):
    told = CliRunner().invoke(main, command(exam, tmp_path / "nothing", "--dry-run", "--json"))
    cost = json.loads(told.stdout)
    assert list(cost["checkpoint_bytes"]) == list(PRECISIONS)
    assert (cost["layer_variants"], cost["layer_passes"]) == (7, 1)
    assert not (tmp_path / "nothing").exists()


@pytest.mark.parametrize(
    ("more", "code", "exit_code"),
    [
        (("--precision", "int4"), "E-EVAL-PRECISION", 2),
        (("--recipe", "nowhere"), "E-RECIPE-NAME", 2),
        (("--annotations", "nowhere.jsonl"), "E-EVAL-MISSING", 2),
    ],
)
def test_what_cannot_be_compared_is_refused_before_anything_is_built(exam, tmp_path, more, code, exit_code):
    done = CliRunner().invoke(main, command(exam, tmp_path / "out", *more))
    assert (done.exit_code, code in done.stderr) == (exit_code, True)
    assert not (tmp_path / "out").exists()


def test_a_recipe_for_tensorrt_llm_is_refused(exam, tmp_path):
    recipe = tmp_path / "mine.toml"
    shutil.copy(resource_folder("recipes") / "h200x1-fp8.toml", recipe)
    done = CliRunner().invoke(main, command(exam, tmp_path / "out", "--recipe", str(recipe)))
    assert "E-EVAL-PRECISION" in done.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("text", ["", "{}", "[", '{"format": "nvlm-trt precision", "version": 2}'])
def test_what_is_no_result_is_refused(tmp_path, text):
    (tmp_path / "precisions.json").write_text(text)
    with pytest.raises(UsageError, match="E-EVAL-OUTPUT"):
        load_study(tmp_path / "precisions.json")
