from __future__ import annotations

import importlib.util
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from nvlm_trt.checkpoint.registry import open_checkpoint

SCRIPT = Path(__file__).parents[2] / "scripts" / "make_checkpoint.py"


@pytest.fixture(scope="module")
def command() -> click.Command:
    spec = importlib.util.spec_from_file_location("make_checkpoint", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    main = module.main
    assert isinstance(main, click.Command)
    return main


def run(command: click.Command, *arguments: object) -> Result:
    return CliRunner().invoke(command, [str(argument) for argument in arguments])


def test_the_default_is_the_small_one(command: click.Command, tmp_path: Path):
    result = run(command, tmp_path / "out")
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout.startswith("111 tensors, 0.015 GB, 5 shards in ")


def test_every_size_can_be_changed(command: click.Command, tmp_path: Path):
    result = run(command, tmp_path / "out", "--layers", 2, "--vision-layers", 1, "--shards", 3, "--seed", 7)
    assert result.exit_code == 0
    config = open_checkpoint(tmp_path / "out").config
    assert (config.decoder.num_layers, config.vision.num_layers) == (2, 1)
    assert len(list((tmp_path / "out").glob("*-of-00003.safetensors"))) == 3


def test_a_mistake_is_one_line_and_an_exit_code(command: click.Command, tmp_path: Path):
    result = run(command, tmp_path / "out", "--layers", 0)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr == "E-USAGE-SIZE: layers is 0; at least 1 is wanted.\n"
