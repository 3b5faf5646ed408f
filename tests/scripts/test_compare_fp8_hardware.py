"""The comparison with a device's FP8, on the CPU's own FP8 product: what it says and how it exits."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from scripts.compare_fp8_hardware import TOLERANCE, main


@pytest.fixture
def folder(deployment: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(deployment / "decoder" / "checkpoint", tmp_path / "checkpoint"))


def test_every_linear_of_every_layer_is_compared(folder: Path) -> None:
    result = CliRunner().invoke(main, [str(folder), "--device", "cpu", "--tokens", "33", "--json"])
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert len(report["linears"]) == 4 * 5
    assert all(linear["worst"] < 1e-5 for linear in report["linears"])
    assert report["tolerance"] == TOLERANCE


@pytest.mark.parametrize("factor", [1.01, 0.5])
def test_a_device_that_scales_otherwise_is_found_out(folder: Path, monkeypatch, factor: float) -> None:
    true_product = torch._scaled_mm

    def product(*arguments: Any, **options: Any) -> Any:
        return true_product(*arguments, **options) * np.float32(factor)

    monkeypatch.setattr(torch, "_scaled_mm", product)
    result = CliRunner().invoke(main, [str(folder), "--device", "cpu", "--tokens", "8"])
    assert result.exit_code == 1
    assert "BEYOND" in result.stdout
