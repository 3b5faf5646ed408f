"""A point written back as a recipe that ``plan`` takes."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from nvlm_trt.cli import main
from nvlm_trt.pipeline.recipe_file import read_draft, recipe_names, write_draft
from nvlm_trt.resources import resource_folder
from tests.report.samples import measurement, put, study

KEPT = "fp8,exclude=*.layers.0.*"


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> Path:
    folder: Path = tmp_path_factory.mktemp("results")
    put(folder / "precisions.json", study(2, {"bf16": 50, "fp8+kv": 49, KEPT: 50}).dump())
    for name in ("bf16", "fp8+kv", KEPT):
        put(folder / f"{name.partition(',')[0]}-{len(name)}.json", measurement(name, 2, {1: 9, 8: 30}).dump())
    return folder


def choose(results: Path, name: str, file: Path, *more: str):
    return CliRunner().invoke(main, ["report", str(results), "--choose", name, "--recipe", str(file), *more])


@pytest.mark.parametrize("base", [None, "embedded", "h200x1-fp8"])
@pytest.mark.parametrize("name", ["bf16,tiles=2@8 clients", "fp8+kv,tiles=2@1 client", f"{KEPT},tiles=2"])
def test_the_recipe_of_a_point_can_be_planned(results, tmp_path, name, base):
    file = tmp_path / "chosen.toml"
    done = choose(results, name, file, *(["--base", base] if base else []))
    assert (done.exit_code, done.stderr) == (0, "")
    draft = read_draft(str(file))
    assert draft.name == f"{base or 'embedded'}-chosen"
    assert name.partition("@")[0] in draft.description
    assert draft.prompt.max_tiles == 2
    assert draft.decoder.quantization == ("none" if name.startswith("bf16") else "fp8")
    assert draft.decoder.kv_cache == ("fp8" if "+kv" in name else "bf16")
    assert draft.decoder.exclude == (("*.layers.0.*",) if KEPT in name else ())
    model = str(resource_folder("calibration") / "mini")
    planned = CliRunner().invoke(main, ["plan", model, "--recipe", str(file)])
    assert planned.exit_code == 0
    assert "prompt.max_tiles" in planned.stdout


@pytest.mark.parametrize("name", ["", "bf16", "bf16,tiles=6", "fp8+kv,tiles=2@2 clients"])
def test_a_point_that_is_not_there_is_refused_and_those_there_are_named(results, tmp_path, name):
    done = choose(results, name, tmp_path / "chosen.toml")
    assert done.exit_code == 2
    assert "E-REPORT-POINT" in done.stderr
    assert "fp8+kv,tiles=2@8 clients" in done.stderr
    assert not (tmp_path / "chosen.toml").exists()


def test_a_recipe_of_ones_own_must_be_named(tmp_path):
    put(tmp_path / "precisions.json", study(2, {"bf16": 50, "fp8": 49}).dump())
    put(tmp_path / "latency.json", measurement("fp8", 2, {1: 9}, recipe="mine").dump())
    done = choose(tmp_path, "fp8,tiles=2", tmp_path / "chosen.toml")
    assert "E-REPORT-POINT" in done.stderr
    assert "--base" in done.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--choose", "x"], "belong together"),
        (["--recipe", "x.toml"], "belong together"),
        ([], "Nothing is asked for"),
        (["--choose", "bf16,tiles=2", "--recipe", "x.txt"], ".toml"),
        (["-o", "x.html", "--latency", "e2e"], "E-REPORT-FIGURE"),
    ],
)
def test_what_cannot_be_meant_is_refused(results, words, said):
    done = CliRunner().invoke(main, ["report", str(results), *words])
    assert (done.exit_code, said in done.stderr) == (2, True)


@pytest.mark.parametrize("name", recipe_names())
def test_a_recipe_is_read_as_it_was_written(tmp_path, name):
    draft = read_draft(name)
    assert read_draft(str(put(tmp_path / "own.toml", write_draft(draft)))) == draft


@given(st.text(st.characters(exclude_categories=["Cs"])), st.lists(st.text(st.characters(exclude_categories=["Cs"]))))
def test_any_text_can_stand_in_a_recipe(tmp_path_factory, text, patterns):
    draft = read_draft("embedded")
    decoder = draft.decoder.model_copy(update={"exclude": tuple(patterns)})
    odd = draft.model_copy(update={"description": text, "decoder": decoder})
    file = put(tmp_path_factory.mktemp("odd") / "own.toml", write_draft(odd))
    assert read_draft(str(file)) == odd
