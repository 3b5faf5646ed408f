"""What a conversion leaves when it fails: the folder as it was, whatever the reason."""

from __future__ import annotations

import errno
import hashlib
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from nvlm_trt.checkpoint import tensor_stream
from nvlm_trt.checkpoint.base import Checkpoint
from nvlm_trt.checkpoint.direct_io import DirectWriter
from nvlm_trt.decoder.calibration import Calibration, LayerAmax
from nvlm_trt.decoder.trtllm_checkpoint import write_trtllm_checkpoint
from nvlm_trt.errors import BuildError
from tests.checkpoint.test_safetensors_draft import largest_file
from tests.decoder.altered import Altered


@pytest.fixture(scope="module")
def calibration(checkpoint: Checkpoint) -> Calibration:
    layer = LayerAmax(qkv=4.0, dense=2.0, fc=4.0, proj=8.0, k_cache=3.0, v_cache=3.0)
    return Calibration((layer,) * checkpoint.config.decoder.num_layers, "0" * 64, 1, 1)


@pytest.fixture
def old(checkpoint: Checkpoint, calibration: Calibration, tmp_path: Path) -> Path:
    """A folder that holds an older checkpoint, of another form."""
    write_trtllm_checkpoint(checkpoint, calibration, tmp_path / "old", exclude=["*.0.*"])
    return tmp_path / "old"


def digests(folder: Path) -> dict[str, str]:
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in folder.iterdir()}


def test_a_disk_without_room_is_said_at_once_and_leaves_the_old_folder(
    checkpoint: Checkpoint, calibration: Calibration, old: Path
) -> None:
    before = digests(old)
    scattered = Altered(checkpoint, {name: checkpoint.read(name) for name in checkpoint.names()})
    with largest_file(2_000_000), pytest.raises(BuildError) as caught:
        write_trtllm_checkpoint(scattered, calibration, old)
    assert caught.value.code == "E-BUILD-SPACE"
    assert scattered.reads == []
    assert digests(old) == before


@pytest.mark.parametrize("number", [0, 1, 40])
def test_a_disk_that_fills_up_meanwhile_leaves_the_old_folder_and_no_thread(
    checkpoint: Checkpoint, calibration: Calibration, old: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """Some file systems promise space that they do not have."""
    before, threads, calls = digests(old), threading.active_count(), 0
    real_write = DirectWriter.write

    def write(self: DirectWriter, offset: int, values: NDArray[Any]) -> None:
        nonlocal calls
        calls += 1
        if calls > number:
            raise OSError(errno.ENOSPC, "full")
        real_write(self, offset, values)

    monkeypatch.setattr(DirectWriter, "write", write)
    with pytest.raises(BuildError) as caught:
        write_trtllm_checkpoint(checkpoint, calibration, old, tp=2)
    assert caught.value.code == "E-BUILD-SPACE"
    assert digests(old) == before
    assert threading.active_count() == threads


def test_an_interruption_leaves_the_old_folder_and_no_thread(
    checkpoint: Checkpoint, calibration: Calibration, old: Path
) -> None:
    before, threads = digests(old), threading.active_count()

    def interrupt(done: int, total: int) -> None:
        if done > total // 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_trtllm_checkpoint(checkpoint, calibration, old, progress=interrupt)
    assert digests(old) == before
    assert threading.active_count() == threads


KILLED = """
import os, signal, sys
from pathlib import Path
from nvlm_trt.checkpoint.registry import open_checkpoint
from nvlm_trt.decoder.calibration import Calibration
from nvlm_trt.decoder.trtllm_checkpoint import write_trtllm_checkpoint

def die(done, total):
    if done > total // 2:
        os.kill(os.getpid(), signal.SIGKILL)

calibration = Calibration.from_json(sys.stdin.read())
write_trtllm_checkpoint(open_checkpoint(sys.argv[1]), calibration, Path(sys.argv[2]), progress=die)
"""


def test_a_kill_leaves_the_old_files_and_the_next_run_clears_up(
    checkpoint: Checkpoint, calibration: Calibration, old: Path
) -> None:
    before = digests(old)
    command = [sys.executable, "-c", KILLED, str(checkpoint.root), str(old)]
    killed = subprocess.run(command, input=calibration.to_json(), text=True, check=False)
    assert killed.returncode == -9
    after = digests(old)
    assert {name: digest for name, digest in after.items() if not name.endswith(".partial")} == before
    write_trtllm_checkpoint(checkpoint, calibration, old)
    assert sorted(digests(old)) == ["config.json", "rank0.safetensors"]
    assert digests(old) != before


def test_the_size_of_blocks_does_not_show(
    checkpoint: Checkpoint, calibration: Calibration, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_trtllm_checkpoint(checkpoint, calibration, tmp_path / "large", tp=2, kv_cache="fp8")
    monkeypatch.setattr(tensor_stream, "BLOCK_BYTES", 10_000)
    write_trtllm_checkpoint(checkpoint, calibration, tmp_path / "small", tp=2, kv_cache="fp8")
    assert digests(tmp_path / "large") == digests(tmp_path / "small")


def test_a_float32_weight_that_is_no_bfloat16_is_quantised_from_its_own_values(
    checkpoint: Checkpoint, calibration: Calibration, tmp_path: Path
) -> None:
    name = "language_model.model.layers.0.self_attn.q_proj.weight"
    weight = checkpoint.read(name) * np.float32(1.001)
    write_trtllm_checkpoint(Altered(checkpoint, {name: weight}), calibration, tmp_path / "out")
    write_trtllm_checkpoint(checkpoint, calibration, tmp_path / "release")
    assert digests(tmp_path / "out")["rank0.safetensors"] != digests(tmp_path / "release")["rank0.safetensors"]
