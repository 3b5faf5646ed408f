from __future__ import annotations

import itertools
import resource
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from nvlm_trt.checkpoint.disk import partial_path, publish
from nvlm_trt.checkpoint.safetensors_draft import SafetensorsDraft
from nvlm_trt.checkpoint.safetensors_writer import write_safetensors
from nvlm_trt.checkpoint.tensor_spec import TensorSpec
from nvlm_trt.errors import BuildError
from tests.checkpoint.test_safetensors_writer import Arrays, specs_of, tensor_sets

X = TensorSpec("x", "F32", (3, 2))


@settings(deadline=None, max_examples=80)
@given(tensor_sets, st.randoms(use_true_random=False))
def test_pieces_in_any_order_give_the_streaming_writers_bytes(arrays: Arrays, random: Any):
    with tempfile.TemporaryDirectory() as folder:
        specs, pieces = specs_of(arrays), []
        for name, array in arrays.items():
            cuts = sorted({0, array.size, random.randint(0, array.size), random.randint(0, array.size)})
            pieces += [(name, begin, array.reshape(-1)[begin:end]) for begin, end in itertools.pairwise(cuts)]
        random.shuffle(pieces)
        draft = SafetensorsDraft(Path(folder) / "draft", specs, {"format": "pt"})
        for name, begin, values in pieces:
            draft.write(name, begin, values)
        draft.finish()
        publish([draft.path])
        write_safetensors(Path(folder) / "stream", specs, arrays.__getitem__, {"format": "pt"})
        assert (Path(folder) / "draft").read_bytes() == (Path(folder) / "stream").read_bytes()


@contextmanager
def largest_file(nbytes: int) -> Iterator[None]:
    """No file may grow beyond this: the nearest thing to a small disk that needs no privileges."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (nbytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_disk_without_room_is_said_before_the_first_tensor_and_leaves_nothing(tmp_path: Path):
    with largest_file(1 << 20), pytest.raises(BuildError, match="E-BUILD-SPACE: x cannot be written: no room is left"):
        SafetensorsDraft(tmp_path / "x", [TensorSpec("t", "U8", (1 << 21,))])
    assert list(tmp_path.iterdir()) == []


def test_a_missing_folder_is_said(tmp_path: Path):
    with pytest.raises(BuildError, match="E-BUILD-WRITE") as caught:
        SafetensorsDraft(tmp_path / "none" / "x", [X])
    assert str(tmp_path) not in str(caught.value)


@pytest.mark.parametrize(
    ("first", "values", "fault"),
    [
        (0, np.zeros(6, np.float16), "dtype"),
        (0, np.zeros(7, np.float32), "elements 0 and 7"),
        (5, np.zeros(2, np.float32), "elements 5 and 2"),
        (-1, np.zeros(1, np.float32), "elements -1"),
    ],
)
def test_what_was_not_announced_is_a_bug(tmp_path: Path, first: int, values: NDArray[Any], fault: str):
    draft = SafetensorsDraft(tmp_path / "x", [X])
    with pytest.raises(ValueError, match=fault):
        draft.write("x", first, values)
    draft.discard()
    assert list(tmp_path.iterdir()) == []


def test_a_tensor_filled_twice_or_not_at_all_is_a_bug(tmp_path: Path):
    draft = SafetensorsDraft(tmp_path / "x", [X, TensorSpec("y", "U8", (1,))])
    draft.write("x", 0, np.zeros(6, np.float32))
    with pytest.raises(ValueError, match="twice"):
        draft.write("x", 0, np.zeros(1, np.float32))
    with pytest.raises(ValueError, match="1 tensors are not filled, the first is y"):
        draft.finish()
    draft.discard()


def test_nothing_appears_under_its_name_before_it_is_published(tmp_path: Path):
    (tmp_path / "x").write_bytes(b"old")
    draft = SafetensorsDraft(tmp_path / "x", [X])
    draft.write("x", 0, np.zeros(6, np.float32))
    draft.finish()
    assert (tmp_path / "x").read_bytes() == b"old"
    assert partial_path(tmp_path / "x").exists()
    publish([tmp_path / "x"])
    assert (tmp_path / "x").read_bytes() != b"old"
    assert [file.name for file in tmp_path.iterdir()] == ["x"]


def test_discarding_a_finished_draft_removes_it(tmp_path: Path):
    draft = SafetensorsDraft(tmp_path / "x", [])
    draft.finish()
    draft.discard()
    assert list(tmp_path.iterdir()) == []
