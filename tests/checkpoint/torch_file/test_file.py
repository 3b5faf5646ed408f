from __future__ import annotations

import os
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch

from nvlm_trt.checkpoint.tensor_spec import dtype_tag
from nvlm_trt.checkpoint.torch_file import OPAQUE, TorchFile
from nvlm_trt.errors import CheckpointError
from tests.checkpoint.resident import resident_bytes
from tests.checkpoint.torch_file.saved import GOOD, LABEL, WEIGHT, opened, saved

TENSORS = {
    "whole": WEIGHT,
    "bfloat16": WEIGHT.bfloat16(),
    "half": WEIGHT.half(),
    "bytes": WEIGHT.byte(),
    "booleans": WEIGHT > 3,
    "columns": WEIGHT[:, 1:3],
    "every second row": WEIGHT[::2],
    "transposed": WEIGHT.T,
    "a scalar": torch.tensor(3.0),
    "an element": WEIGHT[1, 2],
    "empty": torch.zeros(0, 5),
    "repeated": WEIGHT[:1].expand(1000, 4),
    "a parameter": torch.nn.Parameter(WEIGHT),
    "channels last": torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last),
}


def test_tensors_are_read_as_torch_reads_them(path: Path):
    path.write_bytes(saved(TENSORS))
    file, found = opened(path)
    for name, tensor in torch.load(path).items():
        array = file.read(found[name])
        plain = tensor.detach()
        wanted = (plain.float() if plain.dtype == torch.bfloat16 else plain).numpy()
        assert array.shape == tuple(tensor.shape), name
        assert found[name].dtype == dtype_tag(array.dtype)
        np.testing.assert_array_equal(array.astype(wanted.dtype), wanted)
        assert not array.flags.writeable


def test_a_span_holds_the_tensor(path: Path):
    path.write_bytes(saved(TENSORS))
    file, found = opened(path)
    for name in ("whole", "an element", "empty", "bfloat16"):
        offset, nbytes = file.span(found[name])
        assert path.read_bytes()[offset : offset + nbytes] == file.read(found[name]).tobytes()
    assert file.span(found["columns"])[1] == (2 * 4 + 2) * 4


def test_what_is_no_tensor_is_left_alone(path: Path):
    path.write_bytes(saved({"sparse": torch.eye(3).to_sparse(), "complex": torch.zeros(2, dtype=torch.complex64)}))
    assert TorchFile(path, LABEL).value == {"sparse": OPAQUE, "complex": OPAQUE}


def test_opening_reads_no_tensors_and_pages_can_be_dropped(path: Path):
    big = torch.ones(1 << 24, dtype=torch.float32)
    torch.save({"big": big}, path)
    tracemalloc.start()
    try:
        file, found = opened(path)
        view = file.read(found["big"])
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()
    before = resident_bytes(path)
    assert view.sum(dtype=np.float64) == 1 << 24
    assert resident_bytes(path) - before > 60_000_000
    file.drop_pages(found["big"])
    assert resident_bytes(path) - before < 1_000_000
    assert view[-1] == 1


def test_a_missing_file_a_folder_and_a_pipe_are_said(path: Path, tmp_path: Path):
    with pytest.raises(CheckpointError, match=rf"E-CKPT-SHARD: {LABEL} is missing"):
        TorchFile(path, LABEL)
    with pytest.raises(CheckpointError, match="E-CKPT-SHARD"):
        TorchFile(tmp_path, LABEL)
    os.mkfifo(path)
    with pytest.raises(CheckpointError, match="E-CKPT-SHARD"):
        TorchFile(path, LABEL)


def test_a_file_that_changes_after_it_was_opened_is_said(path: Path):
    path.write_bytes(GOOD)
    file, found = opened(path)
    path.write_bytes(GOOD + b"more")
    with pytest.raises(CheckpointError, match=r"E-CKPT-SHARD: .* has changed its size"):
        file.read(found["weight"])
