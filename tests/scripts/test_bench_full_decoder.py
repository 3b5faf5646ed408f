"""The measurement for a GPU machine, at a small size: in numpy, and with the GPU's arithmetic on torch's CPU device."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from nvlm_trt.decoder import layer_ops
from nvlm_trt.reference.layer_ops import TorchOps
from scripts.bench_full_decoder import main


def run(*arguments: str | Path) -> Any:
    fixed = ["--preset", "small", "--layers", "2", "--tokens", "300", "--json"]
    return CliRunner().invoke(main, [*fixed, *map(str, arguments)])


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_some_layers_are_converted_and_the_whole_decoder_is_calibrated(
    device: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(layer_ops.DEVICES, "cuda", lambda: TorchOps("cpu"))
    result = run("--device", device, "--out", tmp_path / "out")
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert report["disagreement"] < 1e-4
    assert [(part["part"], part["layers"], part["of"]) for part in report["parts"]] == [
        ("calibrate", 2, 2),
        ("convert", 2, 2),
        ("whole", 4, 4),
    ]
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == ["config.json", "rank0.safetensors"]
    assert [file.name for file in tmp_path.iterdir()] == ["out"]


def test_a_run_that_must_end_extrapolates() -> None:
    report = json.loads(run("--device", "cpu", "--minutes", "0.0000001").stdout)
    whole = report["parts"][-1]
    assert (whole["layers"], whole["of"]) == (1, 4)
    assert whole["total_s"] == pytest.approx(4 * whole["median_s"])


def test_a_device_that_computes_otherwise_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    class Wrong(TorchOps):
        def amax(self, values: Any) -> float:
            return super().amax(values) * 1.001

    monkeypatch.setitem(layer_ops.DEVICES, "cuda", lambda: Wrong("cpu"))
    result = run("--device", "cuda", "--minutes", "0")
    assert result.exit_code == 1
    assert "differ from the CPU's by 1.0e-03" in result.stderr
