from __future__ import annotations

import gc
import json
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors
import safetensors.numpy
from hypothesis import example, given, settings
from hypothesis import strategies as st

from nvlm_trt.checkpoint.safetensors_file import SafetensorsFile
from nvlm_trt.errors import CheckpointError


def file_bytes(header: Any, data: bytes = b"", *, length: int | None = None) -> bytes:
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(raw) if length is None else length).to_bytes(8, "little") + raw + data


def entry(dtype: Any, shape: Any, *offsets: Any) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": list(offsets)}


TWO = {"a": entry("U8", [4], 0, 4), "b": entry("U8", [4], 4, 8)}

# What the file tries: its bytes, and what the error must say.
ATTACKS: dict[str, tuple[bytes, str]] = {
    "nothing at all": (b"", "has 0 bytes"),
    "ends inside the length": (b"\x08\0\0", "has 3 bytes"),
    "header beyond the file": (file_bytes({}, length=3), "claims 3 bytes and only 2 follow"),
    "header of two exabytes": (file_bytes({}, length=2**61), "claims 2305843009213693952 bytes; at most 100000000"),
    "header just over the limit": (file_bytes({}, length=100_000_001), "claims 100000001 bytes"),
    "empty header": (file_bytes(b""), "is not JSON"),
    "not JSON": (file_bytes(b"{]"), "is not JSON"),
    "not UTF-8": (file_bytes(b'{"\xff": 1}'), "is not JSON"),
    "a list": (file_bytes([]), "is not a JSON object"),
    "a thousand brackets": (file_bytes(b"[" * 100_000), "is not JSON"),
    "a number of a million digits": (file_bytes(b'{"a":' + b"9" * 1_000_000 + b"}"), "is not JSON"),
    "infinity": (file_bytes(b'{"a": Infinity}'), "is not JSON"),
    "one name twice": (
        file_bytes(b'{"a":%s,"a":%s}' % ((json.dumps(TWO["a"]).encode(),) * 2), bytes(4)),
        "gives a twice",
    ),
    "one key of an entry twice": (
        file_bytes(b'{"a":{"dtype":"U8","dtype":"I8","shape":[1],"data_offsets":[0,1]}}', b"x"),
        "gives dtype twice",
    ),
    "metadata that is no object": (file_bytes({"__metadata__": [1]}), "__metadata__"),
    "metadata that is not a text": (file_bytes({"__metadata__": {"a": 1}}), "__metadata__"),
    "entry that is a number": (file_bytes({"a": 3}), "tensor a needs dtype"),
    "entry without a shape": (file_bytes({"a": {"dtype": "U8", "data_offsets": [0, 0]}}), "tensor a needs dtype"),
    "entry with a key more": (file_bytes({"a": {**TWO["a"], "more": 1}}, bytes(4)), "nothing else"),
    "unknown dtype": (file_bytes({"a": entry("F7", [1], 0, 1)}, b"x"), "has dtype F7; known are BOOL"),
    "dtype that is an object": (file_bytes({"a": entry({"U8": 1}, [1], 0, 1)}, b"x"), "has dtype a JSON object"),
    "shape that is a number": (file_bytes({"a": entry("U8", 4, 0, 4)}, bytes(4)), "has shape 4"),
    "negative size": (file_bytes({"a": entry("U8", [-4], 0, 4)}, bytes(4)), r"has shape \[-4\]"),
    "two negative sizes": (file_bytes({"a": entry("U8", [-2, -2], 0, 4)}, bytes(4)), "has shape"),
    "fractional size": (file_bytes({"a": entry("U8", [4.0], 0, 4)}, bytes(4)), "has shape"),
    "a truth as a size": (file_bytes({"a": entry("U8", [True], 0, 1)}, b"x"), "has shape"),
    "size over 64 bits": (file_bytes({"a": entry("U8", [2**64 + 4], 0, 4)}, bytes(4)), "has shape"),
    "sizes that wrap round 64 bits": (
        file_bytes({"a": entry("U8", [2**32, 2**32 + 1], 0, 2**32 % 2**32)}),
        "more than memory can address",
    ),
    "a huge size behind a zero": (file_bytes({"a": entry("F32", [0, 2**62], 0, 0)}), "more than memory can address"),
    "a thousand axes": (file_bytes({"a": entry("U8", [1] * 1000, 0, 1)}, b"x"), "at most 32"),
    "one offset": (file_bytes({"a": entry("U8", [4], 4)}, bytes(4)), "two whole numbers"),
    "negative offset": (file_bytes({"a": entry("U8", [4], -4, 0)}, bytes(4)), "two whole numbers"),
    "offsets as text": (file_bytes({"a": entry("U8", [4], "0", "4")}, bytes(4)), "two whole numbers"),
    "offsets backwards": (file_bytes({"a": entry("U8", [4], 4, 0)}, bytes(4)), "lies at bytes 4 to 0 of 4"),
    "data beyond the file": (file_bytes({"a": entry("U8", [8], 0, 8)}, bytes(4)), "lies at bytes 0 to 8 of 4"),
    "fewer bytes than the shape": (file_bytes({"a": entry("F32", [4], 0, 4)}, bytes(4)), "takes 4 bytes; F32"),
    "more bytes than the shape": (file_bytes({"a": entry("BF16", [1], 0, 4)}, bytes(4)), "takes 4 bytes; BF16"),
    "overlap": (
        file_bytes({"a": entry("U8", [4], 0, 4), "b": entry("U8", [4], 2, 6)}, bytes(6)),
        "tensor b begins at byte 2, not at 4: it overlaps",
    ),
    "two names for the same bytes": (file_bytes({"a": TWO["a"], "b": TWO["a"]}, bytes(4)), "overlaps"),
    "gap": (
        file_bytes({"a": entry("U8", [4], 0, 4), "b": entry("U8", [1], 5, 6)}, bytes(6)),
        "tensor b begins at byte 5, not at 4: it leaves a gap",
    ),
    "gap before the first": (file_bytes({"a": entry("U8", [1], 1, 2)}, bytes(2)), "leaves a gap"),
    "bytes behind the last": (file_bytes(TWO, bytes(9)), "take 8 bytes and 9 follow"),
    "bytes without a tensor": (file_bytes({}, bytes(1)), "take 0 bytes and 1 follow"),
    "a name of control characters": (file_bytes({"\x1b[2J\n": 3}), r"tensor \?\[2J\? needs"),
    "a name of half a surrogate": (file_bytes({"\ud800": 3}), r"tensor \\ud800 needs"),
    "a name of a megabyte": (file_bytes({"x" * 1_000_000: 3}), r"xxx\.\.\. needs"),
}


def open_bytes(folder: Path, content: bytes) -> SafetensorsFile:
    path = folder / "weights.safetensors"
    path.write_bytes(content)
    return SafetensorsFile(path)


@pytest.mark.parametrize("attack", ATTACKS)
def test_a_lying_header_is_refused(tmp_path: Path, attack: str):
    content, said = ATTACKS[attack]
    with pytest.raises(CheckpointError, match=said) as caught:
        open_bytes(tmp_path, content)
    assert caught.value.code == "E-CKPT-HEADER"
    assert "weights.safetensors" in caught.value.what
    assert str(tmp_path) not in str(caught.value)
    assert len(str(caught.value)) < 600


def test_entries_may_come_in_any_order(tmp_path: Path):
    file = open_bytes(tmp_path, file_bytes({"b": TWO["b"], "a": TWO["a"]}, b"aaaabbbb"))
    assert file.names() == ["a", "b"]
    assert (file.read("a").tobytes(), file.read("b").tobytes()) == (b"aaaa", b"bbbb")


def test_a_file_of_no_tensors_is_a_file(tmp_path: Path):
    assert open_bytes(tmp_path, file_bytes({})).names() == []


WHOLE = safetensors.numpy.save({"a": np.arange(4, dtype=np.float32), "b": np.zeros((2, 0, 3), np.int8)}, {"k": "v"})


@settings(deadline=None, max_examples=300)
@given(
    st.lists(st.tuples(st.integers(0, len(WHOLE) - 1), st.integers(0, 255)), max_size=3),
    st.integers(0, len(WHOLE)),
    st.binary(max_size=4),
)
@example([], len(WHOLE), b"")
def test_a_damaged_file_is_refused_or_safe_to_read(changes: list[tuple[int, int]], keep: int, more: bytes):
    content = bytearray(WHOLE)
    for at, byte in changes:
        content[at] = byte
    with tempfile.TemporaryDirectory() as folder:
        try:
            file = open_bytes(Path(folder), bytes(content[:keep]) + more)
        except CheckpointError:
            return
        assert sum(file.read(name).nbytes for name in file.names()) + len(file.header_bytes) + 8 == file.size_bytes
        # Never more trusting than the library itself.
        safetensors.deserialize(bytes(content[:keep]) + more)


def test_a_view_outlives_its_file_object(tmp_path: Path):
    view = open_bytes(tmp_path, file_bytes(TWO, b"aaaabbbb")).read("b")
    gc.collect()
    (tmp_path / "weights.safetensors").unlink()
    assert view.tobytes() == b"bbbb"
    with pytest.raises(ValueError, match="read-only"):
        view[0] = 1


def test_an_unknown_name_is_said(tmp_path: Path):
    file = open_bytes(tmp_path, file_bytes(TWO, bytes(8)))
    for ask in (file.read, file.info):
        with pytest.raises(CheckpointError, match=r"E-CKPT-TENSOR: weights.safetensors holds no tensor c"):
            ask("c")


def test_a_missing_file_is_said(tmp_path: Path):
    with pytest.raises(CheckpointError, match=r"E-CKPT-SHARD: gone.safetensors is missing"):
        SafetensorsFile(tmp_path / "gone.safetensors")


def test_neither_a_folder_nor_a_pipe_is_opened(tmp_path: Path):
    os.mkfifo(tmp_path / "pipe")
    for name in ("pipe", "."):
        with pytest.raises(CheckpointError, match="E-CKPT-SHARD"):
            SafetensorsFile(tmp_path / name)


@pytest.mark.parametrize("size_bytes", [0, 20, 1000])
def test_a_file_that_changes_its_size_before_it_is_read_is_refused(tmp_path: Path, size_bytes: int):
    file = open_bytes(tmp_path, file_bytes(TWO, bytes(8)))
    os.truncate(file.path, size_bytes)
    with pytest.raises(CheckpointError, match="E-CKPT-SHARD"):
        file.read("a")
