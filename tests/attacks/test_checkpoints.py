"""Broken model folders and recipes through the command line: one line, its code and exit status, nothing half done."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from nvlm_trt.cli import main
from tests.attacks.attack import secrets_in
from tests.attacks.checkpoints import CHECKPOINTS, Spoiled, fill_tensor

ROOT = Path(__file__).parents[2]


@pytest.fixture
def folder(small_checkpoint: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(small_checkpoint, tmp_path / "model"))


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [*map(str, arguments)])


def check(exit_code: int, stderr: str, code: str, private: Path) -> None:
    """One clean line on stderr. Only the name of what was typed may be in it, not where it lies."""
    *progress, line = stderr.splitlines()
    assert line.startswith(f"error: {code}: "), stderr
    assert not any("error" in earlier for earlier in progress)
    assert secrets_in(line.replace("/etc/passwd", "").replace("../elsewhere", "")) is None, line
    assert str(private) not in stderr
    assert exit_code == {"E-CKPT": 5, "E-CONFIG": 5, "E-TOKENIZER": 5, "E-RECIPE": 2}["-".join(code.split("-")[:2])]


@pytest.mark.parametrize("spoiled", CHECKPOINTS, ids=lambda spoiled: spoiled.name)
def test_a_spoiled_folder_is_neither_inspected_nor_built(folder: Path, tmp_path: Path, spoiled: Spoiled):
    spoiled.spoil(folder)
    out = tmp_path / "out"
    for result in (run("inspect", folder), run("build", folder, "--recipe", "embedded", "-o", out)):
        check(result.exit_code, result.stderr, spoiled.code, tmp_path)
        assert result.stdout == ""
    assert run("serve", out, "--dry-run").exit_code == 6


def test_weights_that_are_no_numbers_end_the_build_and_leave_nothing_that_can_be_served(folder: Path, tmp_path: Path):
    """Only reading every tensor shows it, so some steps were done before."""
    fill_tensor(folder, "language_model.model.norm.weight", b"\xff")
    out = tmp_path / "out"
    result = run("build", folder, "--recipe", "embedded", "-o", out)
    check(result.exit_code, result.stderr, "E-CKPT-NAN", tmp_path)
    served = run("serve", out, "--dry-run", "--json")
    assert served.exit_code == 6
    assert json.loads(served.stdout)["error"]["code"].startswith("E-ARTEFACT-")
    assert not [file for file in out.rglob("*") if "partial" in file.name]


def test_a_failed_build_leaves_an_older_deployment_whole(folder: Path, tmp_path: Path):
    out = tmp_path / "out"
    assert run("build", folder, "--recipe", "embedded", "-o", out).exit_code == 0
    before = {file: file.read_bytes() for file in sorted(out.rglob("*")) if file.is_file()}
    (folder / "model-00002-of-00005.safetensors").unlink()
    assert run("build", folder, "--recipe", "embedded", "-o", out).exit_code == 5
    assert {file: file.read_bytes() for file in sorted(out.rglob("*")) if file.is_file()} == before


def test_the_command_itself_shows_no_traceback(folder: Path, tmp_path: Path):
    (folder / "model-00002-of-00005.safetensors").unlink()
    done = subprocess.run(
        [sys.executable, "-m", "nvlm_trt", "build", folder, "--recipe", "embedded", "-o", tmp_path / "out"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    check(done.returncode, done.stderr, "E-CKPT-SHARD", tmp_path)
    assert done.stdout == ""


@pytest.mark.parametrize(
    ("tried", "text", "code"),
    [
        ("an unknown key", 'name = "a"\ndescription = "b"\nbatch = 3\n', "E-RECIPE-KEY"),
        ("an unknown section", "[server]\nport = 1\n", "E-RECIPE-KEY"),
        ("a value of another type", "name = 5\n", "E-RECIPE-KEY"),
        ("what is not TOML", "name = \n", "E-RECIPE-SYNTAX"),
        ("bytes that are no text", "name = '\udcff'\n", "E-RECIPE-SYNTAX"),
        ("lists nested until the parser gives up", "name = " + "[" * 100_000, "E-RECIPE-SYNTAX"),
    ],
    ids=lambda value: value if value[:2] in ("an", "a ", "wh", "by", "li") else "",
)
def test_a_recipe_that_cannot_be_meant(small_checkpoint: Path, tmp_path: Path, tried: str, text: str, code: str):
    recipe = tmp_path / "mine.toml"
    recipe.write_bytes(text.encode("utf-8", "surrogateescape"))
    result = run("build", small_checkpoint, "--recipe", recipe, "-o", tmp_path / "out")
    check(result.exit_code, result.stderr, code, tmp_path)
    assert not (tmp_path / "out").exists(), tried
