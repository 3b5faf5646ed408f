"""The driver against an executable named ``trtllm-build`` that behaves, and misbehaves, like the real one."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import pytest

from nvlm_trt.decoder.engine_check import check_engines, engine_version
from nvlm_trt.decoder.trtllm_build import LOG_NAME, run_trtllm_build
from nvlm_trt.decoder.trtllm_format import Mapping, checkpoint_json
from nvlm_trt.decoder.trtllm_tool import find_trtllm
from nvlm_trt.errors import ArtefactError, BuildError, MissingToolError
from nvlm_trt.pipeline.machine import Gpu
from tests.decoder import fake_trtllm_build
from tests.decoder.test_build_command import recipe_with
from tests.release import RELEASE

ROOT = Path(__file__).parents[2]
RECIPE = recipe_with(tp=2)
MAPPING = Mapping(2, gpus_per_node=RECIPE.gpus_per_node)
H200 = Gpu("NVIDIA H200", 143_771, "580.65", "9.0")
GPUS = (H200, H200)
RANK_BYTES = 1000


@pytest.fixture
def checkpoint_dir(tmp_path: Path) -> Path:
    folder = tmp_path / "a checkpoint"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(checkpoint_json(RELEASE, MAPPING)), encoding="utf-8")
    for rank in range(2):
        (folder / f"rank{rank}.safetensors").write_bytes(bytes(RANK_BYTES))
    return folder


@pytest.fixture
def engine_dir(tmp_path: Path) -> Path:
    return tmp_path / "decoder" / "engine"


def use(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", f"{folder / 'bin'}:/usr/bin:/bin")


@pytest.fixture(autouse=True)
def tool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_trtllm_build.install(tmp_path / "the tool")
    use(tmp_path / "the tool", monkeypatch)
    monkeypatch.delenv("FAKE_TRTLLM", raising=False)


def run(checkpoint_dir: Path, engine_dir: Path, recipe=RECIPE, gpus=GPUS, progress=None) -> None:
    run_trtllm_build(recipe, RELEASE, checkpoint_dir, engine_dir, gpus=gpus, progress=progress)


def left_in(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir())


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def test_a_build_leaves_the_engines_and_its_log(checkpoint_dir: Path, engine_dir: Path) -> None:
    stages: list[tuple[int, int]] = []
    run(checkpoint_dir, engine_dir, progress=lambda done, total: stages.append((done, total)))
    assert left_in(engine_dir) == ["built_on.json", "config.json", "model.cache", "rank0.engine", "rank1.engine"]
    assert left_in(engine_dir.parent) == ["engine", "trtllm-build.log"]
    assert "version: 1.2.1" in (engine_dir.parent / LOG_NAME).read_text()
    assert stages == [(done, 6) for done in range(1, 7)]
    check_engines(engine_dir, RECIPE, RELEASE, [RANK_BYTES] * 2)
    assert engine_version(engine_dir) == "1.2.1"
    assert json.loads((engine_dir / "built_on.json").read_text()) == {"compute_capability": "9.0", "gpu": "NVIDIA H200"}


def test_a_build_replaces_the_engines_of_another_recipe(checkpoint_dir: Path, engine_dir: Path) -> None:
    run(checkpoint_dir, engine_dir, recipe_with(tp=2, max_batch_size=4))
    run(checkpoint_dir, engine_dir)
    check_engines(engine_dir, RECIPE, RELEASE)


class Fault(NamedTuple):
    name: str
    code: str
    says: str
    advises: str


FAULTS = [
    Fault("exit", "E-BUILD-TRTLLM", "exit status 3", LOG_NAME),
    Fault("gpu memory", "E-BUILD-GPU-MEMORY", "GPU memory", "max_batch_size"),
    Fault("host memory", "E-BUILD-MEMORY", "killed", "twice a rank's weights"),
    Fault("host memory 137", "E-BUILD-MEMORY", "killed", "twice a rank's weights"),
    Fault("allocation", "E-BUILD-MEMORY", "machine's memory", "twice a rank's weights"),
    Fault("terminated", "E-BUILD-TRTLLM", "SIGTERM", LOG_NAME),
    Fault("disk", "E-BUILD-SPACE", "disk", "Make room"),
    Fault("flags", "E-BUILD-VERSION", "does not know a flag", "container"),
    Fault("half", "E-ENGINE-INCOMPLETE", "rank1.engine", "decoder.engine"),
    Fault("cut", "E-ENGINE-INCOMPLETE", "rank0.engine, rank1.engine", "decoder.engine"),
    Fault("empty", "E-ENGINE-INCOMPLETE", "rank0.engine, rank1.engine", "decoder.engine"),
    Fault("other", "E-ENGINE-CONFIG", "max_batch_size = 41", "decoder.engine"),
    Fault("no version", "E-ENGINE-CONFIG", "names no version", "decoder.engine"),
]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_a_build_that_goes_wrong_says_how_and_keeps_the_old_engines(
    checkpoint_dir: Path, engine_dir: Path, monkeypatch: pytest.MonkeyPatch, fault: Fault
) -> None:
    run(checkpoint_dir, engine_dir)
    before = contents(engine_dir)
    monkeypatch.setenv("FAKE_TRTLLM", fault.name)
    with pytest.raises((BuildError, ArtefactError)) as caught:
        run(checkpoint_dir, engine_dir)
    assert caught.value.code == fault.code
    assert fault.says in caught.value.what
    assert fault.advises in caught.value.fix
    assert str(engine_dir.parent) not in str(caught.value)
    assert "0x7f00" not in str(caught.value)
    assert contents(engine_dir) == before
    assert left_in(engine_dir.parent) == ["engine", "trtllm-build.log"]


def test_without_the_tool_the_error_names_the_container(
    checkpoint_dir: Path, engine_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(MissingToolError) as caught:
        run(checkpoint_dir, engine_dir)
    assert caught.value.code == "E-TOOL-TRTLLM"
    assert RECIPE.container is not None
    assert RECIPE.container.image in caught.value.fix
    assert not engine_dir.parent.exists()


@pytest.mark.parametrize("version", ["1.1.0", "1.3.0rc2", "0.20.0", "1.20.0"])
def test_another_version_is_refused_before_it_starts(checkpoint_dir, engine_dir, tmp_path, monkeypatch, version):
    fake_trtllm_build.install(tmp_path / "other", version)
    use(tmp_path / "other", monkeypatch)
    with pytest.raises(BuildError) as caught:
        run(checkpoint_dir, engine_dir)
    assert caught.value.code == "E-BUILD-VERSION"
    assert version in caught.value.what
    assert not (engine_dir.parent / LOG_NAME).exists()


def test_a_version_that_only_the_log_tells_stops_the_build(checkpoint_dir, engine_dir, tmp_path, monkeypatch) -> None:
    fake_trtllm_build.install(tmp_path / "other", "1.2.0", says="1.3.0")
    use(tmp_path / "other", monkeypatch)
    monkeypatch.setenv("FAKE_TRTLLM", "hangs")
    with pytest.raises(BuildError, match=r"E-BUILD-VERSION: .*1\.3\.0"):
        run(checkpoint_dir, engine_dir)
    assert left_in(engine_dir.parent) == ["trtllm-build.log"]


def test_the_version_is_that_of_the_interpreter_the_tool_runs_in(tmp_path: Path, monkeypatch) -> None:
    assert find_trtllm(RECIPE).version == "1.2.1"
    script = tmp_path / "plain" / "trtllm-build"
    script.parent.mkdir()
    script.write_text("#!/bin/sh\n")
    script.chmod(0o755)
    monkeypatch.setenv("PATH", str(script.parent))
    assert find_trtllm(RECIPE).version is None
    (tmp_path / "python").symlink_to(tmp_path / "the tool" / "bin" / "python")
    script.write_text(f"#!{tmp_path / 'python'}\n")
    assert find_trtllm(RECIPE).version == "1.2.1"


@pytest.mark.parametrize(
    ("gpus", "says"),
    [
        ((), "no GPU"),
        ((Gpu("NVIDIA L40S", 46_068, "580.65", "8.9"),), "NVIDIA L40S, compute capability 8.9"),
        ((H200, Gpu("NVIDIA RTX A400", 4_094, "580.65", "8.6")), "8.6"),
        ((Gpu("NVIDIA H100 slice", 0, "580.65", "9.0"),), "has 0.0 GB"),
    ],
)
def test_gpus_that_are_not_the_recipe_s_are_refused_before_it_starts(checkpoint_dir, engine_dir, gpus, says) -> None:
    with pytest.raises(BuildError) as caught:
        run(checkpoint_dir, engine_dir, gpus=gpus)
    assert caught.value.code == "E-BUILD-GPU"
    assert says in caught.value.what
    assert not (engine_dir.parent / LOG_NAME).exists()


def test_a_disk_that_is_too_small_is_found_before_it_starts(checkpoint_dir, engine_dir, monkeypatch) -> None:
    usage = shutil.disk_usage("/")._replace(free=1500)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(BuildError, match="E-BUILD-SPACE"):
        run(checkpoint_dir, engine_dir)
    assert not (engine_dir.parent / LOG_NAME).exists()


def test_a_checkpoint_that_lacks_a_rank_is_refused(checkpoint_dir: Path, engine_dir: Path) -> None:
    (checkpoint_dir / "rank1.safetensors").unlink()
    with pytest.raises(ArtefactError, match=r"E-ARTEFACT-FILE: .*rank1\.safetensors"):
        run(checkpoint_dir, engine_dir)


def test_an_engine_for_machines_with_other_numbers_of_gpus_is_refused(checkpoint_dir: Path, engine_dir: Path) -> None:
    """It would build, and at its start on the second machine look for GPUs that are not there."""
    config = checkpoint_json(RELEASE, dataclasses.replace(MAPPING, gpus_per_node=1))
    (checkpoint_dir / "config.json").write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(ArtefactError, match=r"E-ENGINE-CONFIG: .*mapping\.gpus_per_node = 1"):
        run(checkpoint_dir, engine_dir)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"pretrained_config": 3}', "not json"])
def test_an_engine_folder_with_a_broken_config_is_refused(checkpoint_dir: Path, engine_dir: Path, text: str) -> None:
    run(checkpoint_dir, engine_dir)
    (engine_dir / "config.json").write_text(text)
    with pytest.raises(ArtefactError, match="E-ENGINE-"):
        check_engines(engine_dir, RECIPE, RELEASE)
    assert engine_version(engine_dir) is None


PROGRAM = """
import sys
from pathlib import Path
from tests.decoder.test_trtllm_build import run
run(Path(sys.argv[1]), Path(sys.argv[2]))
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_the_tool_does_not_outlive_the_build(checkpoint_dir, engine_dir, monkeypatch, number) -> None:
    """Also not a build that was killed: half of one must not go on writing alone."""
    monkeypatch.setenv("FAKE_TRTLLM", "hangs")
    command = [sys.executable, "-c", PROGRAM, str(checkpoint_dir), str(engine_dir)]
    log = engine_dir.parent / LOG_NAME
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL) as process:
        wait_for(lambda: log.is_file() and "PID" in log.read_text())
        pid = int(log.read_text().partition("PID ")[2].split()[0])
        process.send_signal(number)
        process.wait(30)
    wait_for(lambda: not alive(pid))


def wait_for(condition) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def alive(pid: int) -> bool:
    """A process whose parent has not yet asked for its end is dead all the same."""
    with contextlib.suppress(OSError):
        os.kill(pid, 0)
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    return False
