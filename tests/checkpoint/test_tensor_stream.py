from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from nvlm_trt.checkpoint import buffers, tensor_stream
from nvlm_trt.checkpoint.base import Checkpoint
from nvlm_trt.checkpoint.registry import open_checkpoint
from nvlm_trt.checkpoint.synthetic import SIZES, write_checkpoint
from nvlm_trt.checkpoint.tensor_stream import Block, row_shape, stream_tensors
from nvlm_trt.errors import CheckpointError
from tests.decoder.altered import Altered


@pytest.fixture(scope="module")
def checkpoint(small_checkpoint: Path) -> Checkpoint:
    return open_checkpoint(small_checkpoint)


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensor_stream, "BLOCK_BYTES", 1 << 15)


def collected(checkpoint: Checkpoint, names: list[str]) -> dict[str, NDArray[Any]]:
    tensors: dict[str, list[NDArray[Any]]] = {}
    with stream_tensors(checkpoint, names) as blocks:
        for block in blocks:
            rows = tensors.setdefault(block.name, [])
            assert block.first_row == sum(map(len, rows))
            rows.append(block.values.copy())
            assert block.last == (sum(map(len, rows)) == row_shape(checkpoint.info(block.name).shape)[0])
            block.release()
    assert list(tensors) == names
    return {name: np.concatenate(rows) for name, rows in tensors.items()}


def test_blocks_are_the_tensors_in_the_order_asked_for(checkpoint: Checkpoint) -> None:
    names = list(reversed(checkpoint.names()))
    for name, tensor in collected(checkpoint, names).items():
        assert tensor.tobytes() == checkpoint.read(name).tobytes()
        assert tensor.dtype == checkpoint.read(name).dtype


def test_tensors_without_a_place_are_copied_and_let_go(checkpoint: Checkpoint) -> None:
    names = [name for name in checkpoint.names() if ".layers.0." in name]
    # One of them strided, as a view into a larger array is.
    tensors = {name: checkpoint.read(name) for name in names}
    strided = names[0]
    tensors[strided] = np.repeat(tensors[strided], 2, axis=0)[::2]
    scattered = Altered(checkpoint, tensors)
    for name, tensor in collected(scattered, names).items():
        assert tensor.tobytes() == checkpoint.read(name).tobytes()
    assert scattered.reads == scattered.dropped == names


@pytest.mark.parametrize("layers", [1, 4])
def test_memory_is_that_of_the_largest_group_held(
    checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch, layers: int
) -> None:
    made: list[int] = []

    def counted(nbytes: int) -> NDArray[np.uint8]:
        made.append(nbytes)
        return np.empty(nbytes, np.uint8)

    monkeypatch.setattr(buffers, "aligned_buffer", counted)
    held = [
        [f"language_model.model.layers.{layer}.mlp.{name}_proj.weight" for name in ("gate", "up")]
        for layer in range(layers)
    ]
    checkpoint = Altered(checkpoint, {name: checkpoint.read(name) for group in held for name in group})
    with stream_tensors(checkpoint, [name for group in held for name in group], held) as blocks:
        for group in held:
            waiting: list[Block] = []
            while len([block for block in waiting if block.last]) < len(group):
                waiting.append(next(blocks))
            for block in waiting:
                block.release()
    group_bytes = sum(checkpoint.info(name).nbytes for name in held[0])
    assert group_bytes <= sum(made) <= group_bytes * 1.3 + 8 * made[0]


def test_leaving_early_ends_the_reader(checkpoint: Checkpoint) -> None:
    before = threading.active_count()
    with stream_tensors(checkpoint, list(checkpoint.names())) as blocks:
        next(blocks)
    assert threading.active_count() == before


@pytest.mark.parametrize("fault", ["gone", "cut"])
def test_a_shard_that_cannot_be_read_to_its_end_is_said(tmp_path: Path, fault: str) -> None:
    write_checkpoint(tmp_path / "model", SIZES["small"], num_shards=2)
    checkpoint = open_checkpoint(tmp_path / "model")
    name = "language_model.lm_head.weight"
    (shard,) = checkpoint.files(name)
    if fault == "gone":
        shard.unlink()
    else:
        with shard.open("r+b") as file:
            file.truncate(1000)
    with pytest.raises(CheckpointError) as caught:
        collected(checkpoint, [name])
    assert caught.value.code == "E-CKPT-SHARD"
    assert shard.name in caught.value.what
    assert str(tmp_path) not in str(caught.value)
