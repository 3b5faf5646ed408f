"""The driver against an executable named ``trtllm-build`` that behaves, and misbehaves, like the real one."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from nvlm_trt.decoder.trtllm_build import check_engines, run_trtllm_build
from nvlm_trt.decoder.trtllm_format import Mapping, checkpoint_json
from nvlm_trt.errors import ArtefactError, BuildError, MissingToolError
from tests.decoder import fake_trtllm_build
from tests.decoder.test_build_command import recipe_with
from tests.decoder.test_trtllm_format import RELEASE

RECIPE = recipe_with(tp=2)


@pytest.fixture
def checkpoint_dir(tmp_path: Path) -> Path:
    folder = tmp_path / "a checkpoint"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(checkpoint_json(RELEASE, Mapping(2))), encoding="utf-8")
    return folder


@pytest.fixture
def engine_dir(tmp_path: Path) -> Path:
    return tmp_path / "decoder" / "engine"


@pytest.fixture(autouse=True)
def tool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    executable = tmp_path / "bin" / "trtllm-build"
    executable.parent.mkdir()
    executable.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{fake_trtllm_build.__file__}" "$@"\n')
    executable.chmod(0o755)
    monkeypatch.setenv("PATH", f"{executable.parent}:/usr/bin:/bin")
    monkeypatch.delenv("FAKE_TRTLLM", raising=False)


def left_in(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir())


def test_a_build_leaves_the_engines_and_its_log(checkpoint_dir: Path, engine_dir: Path) -> None:
    run_trtllm_build(RECIPE, RELEASE, checkpoint_dir, engine_dir)
    assert left_in(engine_dir) == ["config.json", "model.cache", "rank0.engine", "rank1.engine"]
    assert left_in(engine_dir.parent) == ["engine", "trtllm-build.log"]
    assert "version: 1.2.1" in (engine_dir.parent / "trtllm-build.log").read_text()
    check_engines(engine_dir, RECIPE, RELEASE)


def test_a_build_replaces_the_engines_of_another_recipe(checkpoint_dir: Path, engine_dir: Path) -> None:
    run_trtllm_build(recipe_with(tp=2, max_batch_size=4), RELEASE, checkpoint_dir, engine_dir)
    run_trtllm_build(RECIPE, RELEASE, checkpoint_dir, engine_dir)
    check_engines(engine_dir, RECIPE, RELEASE)


@pytest.mark.parametrize(
    ("fault", "code", "says"),
    [
        ("exit", "E-BUILD-TRTLLM", "exit status 3"),
        ("killed", "E-BUILD-TRTLLM", "memory ran out"),
        ("half", "E-ENGINE-INCOMPLETE", "rank1.engine"),
        ("empty", "E-ENGINE-INCOMPLETE", "rank0.engine, rank1.engine"),
        ("other", "E-ENGINE-CONFIG", "max_batch_size = 49"),
    ],
)
def test_a_build_that_goes_wrong_says_how_and_keeps_the_old_engines(
    checkpoint_dir: Path, engine_dir: Path, monkeypatch: pytest.MonkeyPatch, fault: str, code: str, says: str
) -> None:
    run_trtllm_build(RECIPE, RELEASE, checkpoint_dir, engine_dir)
    before = {file.name: file.read_bytes() for file in engine_dir.iterdir()}
    monkeypatch.setenv("FAKE_TRTLLM", fault)
    with pytest.raises((BuildError, ArtefactError)) as caught:
        run_trtllm_build(RECIPE, RELEASE, checkpoint_dir, engine_dir)
    assert caught.value.code == code
    assert says in caught.value.what
    assert str(engine_dir.parent) not in str(caught.value)
    assert {file.name: file.read_bytes() for file in engine_dir.iterdir()} == before
    assert left_in(engine_dir.parent) == ["engine", "trtllm-build.log"]


def test_without_the_tool_the_error_names_the_container(
    checkpoint_dir: Path, engine_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(MissingToolError) as caught:
        run_trtllm_build(RECIPE, RELEASE, checkpoint_dir, engine_dir)
    assert caught.value.code == "E-TOOL-TRTLLM"
    assert RECIPE.container is not None
    assert RECIPE.container.image in caught.value.fix
    assert not engine_dir.parent.exists()


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"pretrained_config": 3}', "not json"])
def test_an_engine_folder_with_a_broken_config_is_refused(checkpoint_dir: Path, engine_dir: Path, text: str) -> None:
    run_trtllm_build(RECIPE, RELEASE, checkpoint_dir, engine_dir)
    (engine_dir / "config.json").write_text(text)
    with pytest.raises(ArtefactError, match="E-ENGINE-"):
        check_engines(engine_dir, RECIPE, RELEASE)
