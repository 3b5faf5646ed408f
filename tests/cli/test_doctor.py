from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from nvlm_trt.cli import main
from nvlm_trt.pipeline import machine

ROOT = Path(__file__).parents[2]
NAMES = [
    *("Python", "GPU", "NVIDIA driver", "TensorRT", "TensorRT-LLM", "TensorRT-RTX"),
    *("Triton server", "libpython", "numpy", "/dev/shm", "ONNX Runtime", "compiled code", "torch"),
]


def test_every_tool_is_named_with_what_it_is_for() -> None:
    result = CliRunner().invoke(main, ["doctor", "--json"], catch_exceptions=False)
    assert result.exit_code == 0
    tools = json.loads(result.stdout)["tools"]
    assert [tool["name"] for tool in tools] == NAMES
    for tool in tools:
        assert tool["detail"]
        assert tool["enables"]
        assert bool(tool["get"]) != tool["found"]


def test_the_text_says_how_to_get_what_is_missing() -> None:
    text = CliRunner().invoke(main, ["doctor"], catch_exceptions=False).stdout
    assert "ONNX Runtime" in text
    for line, after in zip(text.splitlines(), text.splitlines()[1:] + [""], strict=True):
        if line.startswith("no "):
            assert after.strip().startswith("for ")


def fake_tool(folder: Path, name: str, text: str) -> None:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"#!/bin/sh\n{text}\n")
    (folder / name).chmod(0o755)


@pytest.mark.parametrize(
    ("text", "seen"),
    [
        ("echo 'NVIDIA H200, 143771, 580.65.06, 9.0'", "NVIDIA H200, 143771 MiB, compute capability 9.0"),
        ("echo 'no devices were found'; exit 6", "none"),
        ("kill -9 $$", "none"),
    ],
)
def test_a_gpu_is_what_the_driver_says(tmp_path: Path, text: str, seen: str) -> None:
    fake_tool(tmp_path / "bin", "nvidia-smi", text)
    environment = {**os.environ, "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-m", "nvlm_trt", "doctor", "--json"],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    tools = {tool["name"]: tool for tool in json.loads(done.stdout)["tools"]}
    assert tools["GPU"]["detail"] == seen


def test_trtllm_build_runs_where_there_is_a_gpu_and_the_tool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    machine.gpus.cache_clear()
    assert "has none" in (machine.lacking_trtllm_build() or "")
    fake_tool(tmp_path, "nvidia-smi", "echo 'NVIDIA H200, 143771, 580.65.06, 9.0'")
    machine.gpus.cache_clear()
    assert machine.lacking_trtllm_build() == "trtllm-build is not installed"
    fake_tool(tmp_path, "trtllm-build", "true")
    assert machine.lacking_trtllm_build() is None
    machine.gpus.cache_clear()
