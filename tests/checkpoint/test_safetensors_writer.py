from __future__ import annotations

import hashlib
import math
import tempfile
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from nvlm_trt.checkpoint.safetensors_file import SafetensorsFile
from nvlm_trt.checkpoint.safetensors_writer import TensorSpec, write_safetensors
from nvlm_trt.checkpoint.tensor_spec import DTYPES
from nvlm_trt.errors import BuildError

Arrays = dict[str, NDArray[Any]]


def specs_of(arrays: Arrays) -> list[TensorSpec]:
    tags = {dtype: tag for tag, dtype in DTYPES.items()}
    return [TensorSpec(name, tags[array.dtype], array.shape) for name, array in arrays.items()]


def random_array(tag: str, shape: tuple[int, ...], seed: int) -> NDArray[Any]:
    raw = np.random.default_rng(seed).bytes(math.prod(shape) * DTYPES[tag].itemsize)
    if tag == "BOOL":
        raw = bytes(byte & 1 for byte in raw)
    return np.frombuffer(raw, DTYPES[tag]).reshape(shape)


def raw_bytes(array: NDArray[Any]) -> bytes:
    return np.ascontiguousarray(array).tobytes()


tensor_sets = st.dictionaries(
    st.text(st.characters(codec="utf-8"), min_size=1, max_size=12).filter(lambda name: name != "__metadata__"),
    st.builds(
        random_array,
        st.sampled_from(sorted(DTYPES)),
        st.lists(st.integers(0, 4), max_size=4).map(tuple),
        st.integers(0, 2**32),
    ),
    max_size=8,
)


@settings(deadline=None, max_examples=150)
@given(tensor_sets)
def test_the_file_is_byte_for_byte_the_librarys(arrays: Arrays):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "ours.safetensors"
        digest = write_safetensors(path, specs_of(arrays), arrays.__getitem__, {"format": "pt"})
        ours = path.read_bytes()
        assert ours == safetensors.numpy.save(arrays, {"format": "pt"})
        assert digest == hashlib.sha256(ours).hexdigest()


@settings(deadline=None, max_examples=100)
@given(tensor_sets)
def test_a_file_of_the_library_is_read_equal(arrays: Arrays):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "theirs.safetensors"
        safetensors.numpy.save_file(arrays, path, {"key": "välue"})
        file = SafetensorsFile(path)
        assert file.names() == sorted(arrays)
        assert dict(file.metadata) == {"key": "välue"}
        for name, array in arrays.items():
            read = file.read(name)
            assert (read.dtype, read.shape, raw_bytes(read)) == (array.dtype, array.shape, raw_bytes(array))
            assert not read.flags.writeable
            offset, nbytes = file.span(name)
            assert raw_bytes(array) == path.read_bytes()[offset : offset + nbytes]


def test_pieces_give_the_bytes_of_the_whole(tmp_path: Path):
    whole = np.arange(1000, dtype=np.float32).reshape(10, 100)
    spec = TensorSpec("x", "F32", (10, 100))
    write_safetensors(tmp_path / "whole", [spec], lambda _: whole)
    write_safetensors(tmp_path / "pieces", [spec], lambda _: iter(np.array_split(whole.reshape(-1), 7)))
    assert (tmp_path / "whole").read_bytes() == (tmp_path / "pieces").read_bytes()


def test_a_transposed_array_is_written_in_c_order(tmp_path: Path):
    array = np.arange(6, dtype=np.int32).reshape(2, 3).T
    write_safetensors(tmp_path / "x", [TensorSpec("x", "I32", (3, 2))], lambda _: array)
    assert SafetensorsFile(tmp_path / "x").read("x").tolist() == array.tolist()


def test_one_tensor_is_made_after_the_other(tmp_path: Path):
    alive: list[str] = []

    def produce(name: str) -> Iterator[NDArray[Any]]:
        alive.append(name)
        assert alive == [name]
        yield np.zeros(4, np.int8)
        alive.remove(name)

    write_safetensors(tmp_path / "x", [TensorSpec(name, "I8", (4,)) for name in "cab"], produce)


@pytest.mark.parametrize(
    ("produced", "fault"),
    [
        (np.zeros((2, 3), np.float32), "shape"),
        (np.zeros((3, 2), np.float16), "dtype"),
        (iter([np.zeros(5, np.float32)]), "5 elements"),
        (iter([np.zeros(4, np.float32), np.zeros(3, np.float32)]), "7 elements"),
        (iter([]), "0 elements"),
    ],
)
def test_what_was_not_announced_leaves_no_file(tmp_path: Path, produced: Any, fault: str):
    with pytest.raises(ValueError, match=fault):
        write_safetensors(tmp_path / "x", [TensorSpec("x", "F32", (3, 2))], lambda _: produced)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("names", [["x", "x"], ["__metadata__"]])
def test_names_a_header_cannot_hold_are_a_bug(tmp_path: Path, names: list[str]):
    with pytest.raises(ValueError, match="twice or has the metadata's name"):
        write_safetensors(
            tmp_path / "x", [TensorSpec(name, "F32", ()) for name in names], lambda _: np.zeros((), np.float32)
        )


def test_a_failing_producer_leaves_the_old_file(tmp_path: Path):
    path = tmp_path / "x"
    path.write_bytes(b"old")

    def produce(name: str) -> NDArray[Any]:
        raise RuntimeError(name)

    with pytest.raises(RuntimeError):
        write_safetensors(path, [TensorSpec("x", "F32", ())], produce)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_killed_writers_leftover_is_overwritten(tmp_path: Path):
    (tmp_path / "x.partial").write_bytes(b"left over" * 100)
    write_safetensors(tmp_path / "x", [TensorSpec("x", "I8", (1,))], lambda _: np.ones(1, np.int8))
    assert SafetensorsFile(tmp_path / "x").read("x").tolist() == [1]
    assert list(tmp_path.iterdir()) == [tmp_path / "x"]


def test_a_full_disk_is_said_and_leaves_nothing(tmp_path: Path):
    # The one device that is always full.
    (tmp_path / "x.partial").symlink_to("/dev/full")
    with pytest.raises(BuildError, match=r"E-BUILD-SPACE: x cannot be written: no room is left"):
        write_safetensors(tmp_path / "x", [TensorSpec("x", "I8", (1,))], lambda _: np.ones(1, np.int8))
    assert list(tmp_path.iterdir()) == []


def test_a_missing_folder_is_said(tmp_path: Path):
    with pytest.raises(BuildError, match="E-BUILD-WRITE") as caught:
        write_safetensors(tmp_path / "none" / "x", [], lambda _: np.ones(1))
    assert str(tmp_path) not in str(caught.value)


def test_a_tensor_is_gone_when_the_next_one_is_made(tmp_path: Path):
    made: list[weakref.ref[Any]] = []

    def produce(name: str) -> Any:
        assert all(earlier() is None for earlier in made)
        array = np.zeros(5, np.float32)
        made.append(weakref.ref(array))
        return array

    write_safetensors(tmp_path / "x.safetensors", [TensorSpec(name, "F32", (5,)) for name in "abc"], produce)
    assert len(made) == 3
