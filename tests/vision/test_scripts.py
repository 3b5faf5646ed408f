"""The vision scripts on the small checkpoint: what they say and how they exit."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import click
import onnx
import pytest
from click.testing import CliRunner, Result

from nvlm_trt.vision import graph
from nvlm_trt.vision.artefact import read_graph, write_artefact
from tests.vision.mistakes import MISTAKES

SCRIPTS = Path(__file__).parents[2] / "scripts"


def run(script: str, *arguments: str | Path) -> Result:
    spec = importlib.util.spec_from_file_location(script, SCRIPTS / f"{script}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    command = module.main
    assert isinstance(command, click.Command)
    return CliRunner().invoke(command, [str(argument) for argument in arguments])


def test_parity_of_a_checkpoint_holds(small_checkpoint: Path, tmp_path: Path):
    result = run("vision_parity", small_checkpoint, "--json", tmp_path / "parity.json")
    assert result.exit_code == 0, result.output
    report = json.loads((tmp_path / "parity.json").read_text())
    assert report["passed"] is True
    assert [link["passed"] for link in report["links"]] == [True, True, True, None]
    assert "ONNX Runtime float32 against torch float32: holds" in result.stdout


@pytest.mark.parametrize("name", ["tanh_gelu", "swap_quarters", "q_norm_over_padded_width", "keep_class_token"])
def test_parity_of_a_wrong_graph_fails(small_checkpoint: Path, vision_folder: Path, name: str):
    model = read_graph(vision_folder)
    MISTAKES[name](model)
    write_artefact(vision_folder, "vision.onnx", model.SerializeToString())
    result = run("vision_parity", small_checkpoint, "--vision", vision_folder, "--no-exact")
    assert result.exit_code == 1
    assert "ONNX Runtime float32 against torch float32: FAILS" in result.stdout
    assert "torch bfloat16 against torch float32: holds" in result.stdout


def test_an_engine_is_exported_built_and_looked_into(small_checkpoint: Path, tmp_path: Path):
    options = ("-c", "8.9", "--profile", "1", "2", "4", "--json")
    result = run("build_vision_rtx", small_checkpoint, tmp_path / "vision", *options)
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert report["export"]["operators"]["Softmax"] == report["build"]["fused_attentions"] == 4
    assert report["build"]["kernels"] > 4
    assert 0 < report["build"]["peak_anonymous_gb"] <= report["build"]["peak_resident_gb"]
    assert (tmp_path / "vision" / "vision.plan").is_file()


def test_an_error_has_its_code_and_exit_status(small_checkpoint: Path, tmp_path: Path):
    result = run("build_vision_rtx", small_checkpoint, tmp_path / "vision", "-c", "9.0")
    assert result.exit_code == 7
    assert "E-BUILD-SM" in result.stderr


GPU_OPTIONS = ("--device", "cpu", "--size", "small", "--tiles", "2", "--runs", "1", "--eager-only", "--json")


def test_the_measurement_for_gpus_runs_on_a_cpu_too():
    result = run("measure_vision_gpu", *GPU_OPTIONS, "--peak-tflops", "1")
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert len(report["parity"]) == 3
    assert all(0 < link["relative_error"] <= link["tolerance"] for link in report["parity"].values())
    assert [(point["tiles"], point["runner"][:5]) for point in report["speed"]] == [(2, "torch"), (2, "graph")]
    assert all(point["share_of_peak"] == pytest.approx(point["tflops"]) for point in report["speed"])
    assert report["tensorrt_rtx"]["code"] == "E-TOOL-GPU"


def test_the_measurement_for_gpus_prints_no_speed_of_a_wrong_graph(monkeypatch: pytest.MonkeyPatch):
    right = graph.vision_graph

    def wrong(*arguments: Any) -> onnx.ModelProto:
        model = right(*arguments)
        MISTAKES["tanh_gelu"](model)
        return model

    monkeypatch.setattr(graph, "vision_graph", wrong)
    result = run("measure_vision_gpu", *GPU_OPTIONS)
    assert result.exit_code == 1
    assert "speed" not in result.stdout
