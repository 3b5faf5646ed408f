from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from nvlm_trt.checkpoint.mapped_file import MappedFile
from nvlm_trt.checkpoint.safetensors_file import SafetensorsFile
from nvlm_trt.checkpoint.safetensors_writer import TensorSpec, write_safetensors
from nvlm_trt.errors import CheckpointError
from tests.checkpoint.resident import resident_bytes

FLOAT = np.dtype(np.float32)
COUNT = 1 << 22


@pytest.fixture
def path(tmp_path: Path) -> Path:
    np.arange(COUNT, dtype=FLOAT).tofile(tmp_path / "numbers")
    return tmp_path / "numbers"


def test_views_have_the_asked_shape_strides_and_offset(path: Path):
    file = MappedFile(path, 4 * COUNT)
    assert file.array(FLOAT, (2, 3), 8).tolist() == [[2, 3, 4], [5, 6, 7]]
    assert file.array(FLOAT, (2, 3), 0, (4, 40)).tolist() == [[0, 10, 20], [1, 11, 21]]
    assert file.array(FLOAT, (), 20) == 5
    assert file.array(FLOAT, (4, 0), 4 * COUNT).shape == (4, 0)
    for shape in ((3,), (0,)):
        assert not file.array(FLOAT, shape, 0).flags.writeable


def test_a_view_beyond_the_file_cannot_be_made(path: Path):
    file = MappedFile(path, 4 * COUNT)
    with pytest.raises((ValueError, TypeError)):
        file.array(FLOAT, (COUNT,), 4)
    with pytest.raises((ValueError, TypeError)):
        file.array(FLOAT, (2,), 0, (4 * COUNT,))


def test_dropped_pages_leave_memory_and_come_back_when_they_are_looked_at(path: Path):
    file = MappedFile(path, 4 * COUNT)
    file.drop_pages(0, 4 * COUNT)  # nothing is mapped yet
    view = file.array(FLOAT, (COUNT,), 0)
    assert view[-1] == COUNT - 1
    total = view.sum(dtype=np.float64)
    assert resident_bytes(path) == 4 * COUNT
    file.drop_pages(2 * COUNT, 2 * COUNT - 1000)
    assert resident_bytes(path) == 2 * COUNT
    file.drop_pages(10, 4 * COUNT - 10)
    file.drop_pages(10, 0)
    assert resident_bytes(path) == 0
    assert view.sum(dtype=np.float64) == total


def test_tensors_of_a_safetensors_file_are_dropped_one_by_one(tmp_path: Path):
    arrays = {name: np.full(COUNT, value, FLOAT) for value, name in enumerate("ab")}
    path = tmp_path / "x.safetensors"
    write_safetensors(path, [TensorSpec(name, "F32", (COUNT,)) for name in arrays], arrays.__getitem__)
    file = SafetensorsFile(path)
    views = {name: file.read(name) for name in arrays}
    assert all(view.sum() == arrays[name].sum() for name, view in views.items())
    assert resident_bytes(path) >= 8 * COUNT
    file.drop_pages("b")
    assert resident_bytes(path) < 4 * COUNT + 200_000
    file.drop_pages("a")
    assert resident_bytes(path) < 200_000
    assert views["b"][-1] == 1


def test_a_file_that_is_gone_or_has_changed_is_said(path: Path):
    path.write_bytes(b"shorter")
    with pytest.raises(CheckpointError, match=r"E-CKPT-SHARD: numbers has changed its size"):
        MappedFile(path, 4 * COUNT).array(FLOAT, (1,), 0)
    for spoil in (lambda: path.write_bytes(b""), path.unlink):
        spoil()
        with pytest.raises(CheckpointError, match=r"E-CKPT-SHARD: numbers cannot be opened"):
            MappedFile(path, 4 * COUNT).array(FLOAT, (1,), 0)
