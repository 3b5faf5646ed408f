"""A production build to its end, on a machine whose ``nvidia-smi`` and ``trtllm-build`` are stand-ins."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from nvlm_trt.errors import BuildError
from nvlm_trt.pipeline.builder import build
from nvlm_trt.pipeline.deployment import open_deployment
from nvlm_trt.pipeline.engines_here import Here
from nvlm_trt.pipeline.explanation import explain
from nvlm_trt.pipeline.machine import Gpu, gpus
from nvlm_trt.pipeline.report import StepReport
from nvlm_trt.pipeline.verification import verify
from tests.decoder import fake_trtllm_build
from tests.pipeline.test_real_build import changed_recipe
from tests.pipeline.toys import snapshot

H200 = Gpu("NVIDIA H200", 143771, "580.65", "9.0")


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    fake_trtllm_build.install(tmp_path / "tool")
    smi = tmp_path / "tool" / "bin" / "nvidia-smi"
    smi.write_text("#!/bin/sh\necho 'NVIDIA H200, 143771, 580.65, 9.0'\n")
    smi.chmod(0o755)
    monkeypatch.setenv("PATH", f"{smi.parent}:{os.environ['PATH']}")
    monkeypatch.delenv("FAKE_TRTLLM", raising=False)
    gpus.cache_clear()
    yield
    gpus.cache_clear()


def recipe(folder: Path, batch_size: int) -> str:
    """As shipped but for the vision engine, for which there is no stand-in here, and the batch."""
    name = changed_recipe("h200x1-fp8", folder / "own.toml", 'engine = "tensorrt"\n', 'engine = "onnxruntime"\n')
    text = Path(name).read_text(encoding="utf-8")
    Path(name).write_text(text.replace('max_batch_size = "auto"', f"max_batch_size = {batch_size}"), encoding="utf-8")
    return name


class Stages:
    def __init__(self) -> None:
        self.seen: list[tuple[int, int]] = []

    def started(self, step: str, number: int, count: int) -> None:
        pass

    def advanced(self, done: int, total: int, unit: str) -> None:
        if unit == "stages":
            self.seen.append((done, total))

    def ended(self, report: StepReport) -> None:
        pass


@pytest.mark.usefixtures("machine")
def test_from_checkpoint_to_engine_and_what_a_new_batch_size_costs(small_checkpoint: Path, tmp_path: Path) -> None:
    out, stages = tmp_path / "out", Stages()
    assert gpus() == (H200,)
    result = build(small_checkpoint, recipe(tmp_path, 16), out, reporter=stages)
    assert not result.left
    assert open_deployment(out).recipe.production
    assert stages.seen == [(1, 3), (2, 3), (3, 3)]
    assert {"decoder/engine/rank0.engine", "decoder/engine/config.json", "decoder/trtllm-build.log"} <= set(
        snapshot(out)
    )
    assert verify(out).findings == ()
    assert explain(out, Here((H200,), None, None, "1.2.1")).serves
    assert not explain(out, Here((), None, None, None)).serves
    again = build(small_checkpoint, recipe(tmp_path, 24), out)
    built = [report.step for report in again.steps if report.outcome == "built"]
    assert built == ["decoder.engine", "triton.repository"]


@pytest.mark.usefixtures("machine")
def test_a_config_with_more_tiles_rebuilds_the_engine(small_checkpoint: Path, tmp_path: Path) -> None:
    """Its prompt table is as large as a picture's rows, and without scales the decoder's checkpoint stays the same."""
    checkpoint, out, name = tmp_path / "checkpoint", tmp_path / "out", recipe(tmp_path, 16)
    text = Path(name).read_text(encoding="utf-8")
    Path(name).write_text(text.replace("[decoder]", '[decoder]\nquantization = "none"'), encoding="utf-8")
    shutil.copytree(small_checkpoint, checkpoint)
    build(checkpoint, name, out)
    old = (out / "decoder" / "engine" / "config.json").read_bytes()
    config = json.loads((checkpoint / "config.json").read_text(encoding="utf-8"))
    config["max_dynamic_patch"] -= 1
    (checkpoint / "config.json").write_text(json.dumps(config), encoding="utf-8")
    again = build(checkpoint, name, out)
    assert "decoder.engine" in [report.step for report in again.steps if report.outcome == "built"]
    assert (out / "decoder" / "engine" / "config.json").read_bytes() != old


@pytest.mark.usefixtures("machine")
def test_an_engine_that_fails_leaves_the_old_one_and_says_why(
    small_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    build(small_checkpoint, recipe(tmp_path, 16), out)
    before = snapshot(out)
    monkeypatch.setenv("FAKE_TRTLLM", "gpu memory")
    with pytest.raises(BuildError, match="E-BUILD-GPU-MEMORY"):
        build(small_checkpoint, recipe(tmp_path, 24), out)
    log = "decoder/trtllm-build.log"
    assert b"CUDA out of memory" in (out / log).read_bytes()
    after = snapshot(out)
    assert {name: data for name, data in after.items() if name != log} == {
        name: data for name, data in before.items() if name != log
    }
    assert verify(out).findings == ()
