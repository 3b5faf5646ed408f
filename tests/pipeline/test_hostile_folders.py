"""Real builds where the disk fills up, the folder cannot be written to, or two builds meet."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from nvlm_trt.errors import NvlmError
from nvlm_trt.pipeline.builder import build
from nvlm_trt.pipeline.explanation import explain
from nvlm_trt.pipeline.verification import verify
from tests.pipeline.toys import snapshot, toy_steps, write_recipe

ROOT = Path(__file__).parents[2]

# A file may not grow past the limit: what a full disk answers, for one file, without a disk of one's own.
LIMITED = """
import resource, signal, sys
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]), int(sys.argv[1])))
from nvlm_trt.cli import main
main(sys.argv[2:])
"""


def arguments(checkpoint: Path, out: Path) -> list[str]:
    return ["build", str(checkpoint), "--recipe", "embedded", "-o", str(out), "--quiet"]


@pytest.mark.parametrize(
    ("limit", "finished"),
    [
        (500, set()),  # not even the digests can be written down
        (200_000, {"inspect"}),  # vision.onnx is larger
        (2_000_000, {"inspect", "vision.onnx"}),  # what calibration keeps between two layers is larger
    ],
)
def test_a_disk_that_fills_up_keeps_what_was_finished(
    built: Path, small_checkpoint: Path, tmp_path: Path, limit: int, finished: set[str]
) -> None:
    out = tmp_path / "out"
    command = [sys.executable, "-c", LIMITED, str(limit), *arguments(small_checkpoint, out)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 7, done.stderr
    assert done.stderr.startswith("error: E-BUILD-SPACE")
    assert len(done.stderr.splitlines()) == 1
    assert not list(out.rglob("*.partial"))
    if finished:
        assert verify(out).faults == ()
    result = build(small_checkpoint, "embedded", out)
    assert {report.step for report in result.steps if report.outcome == "kept"} == finished
    assert snapshot(out) == snapshot(built)


# Root may write anywhere, so the build gives up that right: what the new program may have is bounded before it starts.
WITHOUT_RIGHTS = """
import ctypes, os, sys
PR_CAPBSET_DROP, CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH, CAP_FOWNER = 24, 1, 2, 3
for right in (CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH, CAP_FOWNER):
    ctypes.CDLL(None).prctl(PR_CAPBSET_DROP, right, 0, 0, 0)
os.execv(sys.executable, [sys.executable, "-m", "nvlm_trt", *sys.argv[1:]])
"""


def without_rights(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", WITHOUT_RIGHTS, *words]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.fixture
def read_only(out_of_built: Path) -> Iterator[Path]:
    """A deployment that may not be written to, and lacks a file, so that there is something to do."""
    (out_of_built / "vision/vision.onnx").unlink()
    files = [out_of_built, *out_of_built.rglob("*")]
    for file in files:
        file.chmod(0o555 if file.is_dir() else 0o444)
    yield out_of_built
    for file in files:
        file.chmod(0o755 if file.is_dir() else 0o644)


def test_a_read_only_folder_is_not_built_in_and_can_be_read(small_checkpoint: Path, read_only: Path) -> None:
    out, before = read_only, snapshot(read_only)
    done = without_rights(*arguments(small_checkpoint, out))
    assert done.returncode == 7, done.stderr
    assert done.stderr.startswith("error: E-BUILD-WRITE: out cannot be written to.")
    assert snapshot(out) == before
    done = without_rights(*arguments(small_checkpoint, out / "new"))
    assert done.stderr.startswith("error: E-BUILD-WRITE")
    assert [finding.name for finding in verify(out).findings] == ["vision/vision.onnx"]
    told = without_rights("verify", str(out), "--quiet")
    assert told.returncode == 6
    assert "vision/vision.onnx is gone" in told.stderr
    assert "vision/vision.onnx" in without_rights("explain", str(out)).stdout


def test_two_builds_at_once_are_one_build_and_one_refusal(built: Path, small_checkpoint: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = [sys.executable, "-m", "nvlm_trt", *arguments(small_checkpoint, out)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    processes = [
        subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    ends = [(process.communicate()[1], process.returncode) for process in processes]
    assert 0 in {status for _, status in ends}
    # One that came when the others had ended finds everything there.
    for told, status in ends:
        assert status == 0 or (status == 7 and told.startswith("error: E-BUILD-LOCKED"))
    assert snapshot(out) == snapshot(built)
    assert verify(out).findings == ()


def test_a_failed_rebuild_leaves_the_old_deployment(small_checkpoint: Path, tmp_path: Path) -> None:
    """Not only no half of the new one: the old one is whole and its own."""
    import dataclasses

    out = tmp_path / "out"
    build(small_checkpoint, write_recipe(tmp_path / "a.toml", 2), out, steps=toy_steps())
    before = snapshot(out)

    def fail(_: object) -> None:
        raise NvlmError("E-BUILD-TEST", "It broke.")

    steps = [dataclasses.replace(step, run=fail) if step.name == "second" else step for step in toy_steps()]
    with pytest.raises(NvlmError, match="E-BUILD-TEST"):
        build(small_checkpoint, write_recipe(tmp_path / "b.toml", 3), out, steps=steps)
    assert snapshot(out) == before
    assert verify(out).findings == ()
    assert explain(out).recipe == "toy"
