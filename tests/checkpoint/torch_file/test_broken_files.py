"""Archives that are not what torch writes: each is refused, and its fault named."""

from __future__ import annotations

import io
import struct
import tracemalloc
import warnings
import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from nvlm_trt.checkpoint.torch_file import TensorRef, TorchFile
from nvlm_trt.errors import CheckpointError
from tests.checkpoint.torch_file.saved import GOOD, LABEL, WEIGHT, opened


def rewritten(change: Callable[[dict[str, bytes]], object], compression: int = zipfile.ZIP_STORED) -> bytes:
    """A saved file's archive with its members changed."""
    with zipfile.ZipFile(io.BytesIO(GOOD)) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    change(members)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def directory_entry(data: bytes, ending: str) -> int:
    """Where the directory's entry of the member with this ending begins."""
    at = data.index(b"PK\x01\x02")
    while True:
        name_bytes, extra_bytes, comment_bytes = struct.unpack_from("<3H", data, at + 28)
        if data[at + 46 : at + 46 + name_bytes].endswith(ending.encode()):
            return at
        at += 46 + name_bytes + extra_bytes + comment_bytes


def patched(ending: str, field: int, form: str, value: int) -> bytes:
    data = bytearray(GOOD)
    struct.pack_into(form, data, directory_entry(GOOD, ending) + field, value)
    return bytes(data)


def doubled() -> bytes:
    buffer = io.BytesIO(GOOD)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        with zipfile.ZipFile(buffer, "a") as archive:
            archive.writestr(next(name for name in archive.namelist() if name.endswith("data.pkl")), b"N.")
    return buffer.getvalue()


def overlapping() -> bytes:
    """Storage 1's entry points at storage 0."""
    first = struct.unpack_from("<L", GOOD, directory_entry(GOOD, "data/0") + 42)[0]
    return patched("data/1", 42, "<L", first)


def with_a_longer_name() -> bytes:
    """A member's own header claims a name that reaches far into the data."""
    data = bytearray(GOOD)
    header = struct.unpack_from("<L", GOOD, directory_entry(GOOD, "data/0") + 42)[0]
    struct.pack_into("<H", data, header + 26, 60_000)
    return bytes(data)


def without_a_header() -> bytes:
    data = bytearray(GOOD)
    header = struct.unpack_from("<L", GOOD, directory_entry(GOOD, "data/0") + 42)[0]
    data[header : header + 4] = b"none"
    return bytes(data)


def legacy() -> bytes:
    buffer = io.BytesIO()
    torch.save({"weight": WEIGHT}, buffer, _use_new_zipfile_serialization=False)
    return buffer.getvalue()


def longer_than_the_file() -> bytes:
    data = bytearray(GOOD)
    for field in (20, 24):
        struct.pack_into("<L", data, directory_entry(GOOD, "data/1") + field, 0x7FFFFFFF)
    return bytes(data)


FAULTS: dict[str, tuple[Callable[[], bytes], str, str]] = {
    "empty": (lambda: b"", "E-CKPT-HEADER", "not an archive of torch.save"),
    "text": (lambda: b"version https://git-lfs.github.com/spec/v1", "E-CKPT-HEADER", "not an archive of torch.save"),
    "written before torch 1.6": (legacy, "E-CKPT-HEADER", "torch before 1.6"),
    "cut": (lambda: GOOD[:-1], "E-CKPT-HEADER", "directory is broken or cut short"),
    "cut in half": (lambda: GOOD[: len(GOOD) // 2], "E-CKPT-HEADER", "directory is broken or cut short"),
    "only a beginning": (lambda: GOOD[:4], "E-CKPT-HEADER", "directory is broken or cut short"),
    "compressed": (lambda: rewritten(dict, zipfile.ZIP_DEFLATED), "E-CKPT-HEADER", "is compressed"),
    "a bomb": (
        lambda: rewritten(lambda members: members.update({"x/data/9": bytes(1 << 24)}), zipfile.ZIP_BZIP2),
        "E-CKPT-HEADER",
        "is compressed",
    ),
    "a method that hides its size": (lambda: patched("data/0", 20, "<L", 1), "E-CKPT-HEADER", "is compressed"),
    "encrypted": (lambda: patched("data/0", 8, "<H", 1), "E-CKPT-HEADER", "is encrypted"),
    "a member twice": (doubled, "E-CKPT-HEADER", "two members have one name"),
    "members over each other": (overlapping, "E-CKPT-HEADER", "into the member after it"),
    "a member beyond the file": (
        lambda: patched("data/0", 42, "<L", 0x7FFFFFFF),
        "E-CKPT-HEADER",
        "reaches beyond the file",
    ),
    "a member longer than the file": (
        longer_than_the_file,
        "E-CKPT-HEADER",
        "reaches beyond the file",
    ),
    "a header that reaches on": (with_a_longer_name, "E-CKPT-HEADER", "reaches beyond the file"),
    "no header in front": (without_a_header, "E-CKPT-HEADER", "no header stands in front of"),
    "no pickle": (
        lambda: rewritten(lambda members: members.pop(pickle_of(members))),
        "E-CKPT-HEADER",
        "it has 0 pickles",
    ),
    "two pickles": (
        lambda: rewritten(lambda members: members.update({"other/data.pkl": b"N."})),
        "E-CKPT-HEADER",
        "it has 2 pickles",
    ),
    "a huge pickle": (
        lambda: rewritten(lambda members: members.update({pickle_of(members): bytes((1 << 24) + 1)})),
        "E-CKPT-HEADER",
        "its pickle has 16777217 bytes",
    ),
    "big-endian": (
        lambda: rewritten(lambda members: members.update({sibling(members, "byteorder"): b"big"})),
        "E-CKPT-HEADER",
        "not in little-endian",
    ),
    "a missing storage": (
        lambda: rewritten(lambda members: members.pop(sibling(members, "data/0"))),
        "E-CKPT-HEADER",
        "it has no member",
    ),
    "a short storage": (
        lambda: rewritten(lambda members: members.update({sibling(members, "data/0"): bytes(47)})),
        "E-CKPT-HEADER",
        "storage 0 has 47 bytes, not 48",
    ),
    "a storage elsewhere": (
        lambda: rewritten(
            lambda members: members.update(
                {pickle_of(members): members[pickle_of(members)].replace(b"X\x01\x00\x00\x000", b"X\x01\x00\x00\x00/")}
            )
        ),
        "E-CKPT-HEADER",
        "it has no member",
    ),
    "a pickle that asks for more": (
        lambda: rewritten(lambda members: members.update({pickle_of(members): b"\x80\x02cos\nsystem\n."})),
        "E-CKPT-PICKLE",
        f"{LABEL} cannot be read: in its pickle, it asks for os.system",
    ),
}


def pickle_of(members: dict[str, bytes]) -> str:
    return next(name for name in members if name.endswith("/data.pkl"))


def sibling(members: dict[str, bytes], name: str) -> str:
    return pickle_of(members).removesuffix("data.pkl") + name


@pytest.mark.parametrize("fault", FAULTS)
def test_a_broken_file_is_named(path: Path, fault: str):
    make, code, said = FAULTS[fault]
    path.write_bytes(make())
    tracemalloc.start()
    try:
        with pytest.raises(CheckpointError) as caught:
            opened(path)
        assert tracemalloc.get_traced_memory()[1] < 40_000_000
    finally:
        tracemalloc.stop()
    assert caught.value.code == code
    assert said in caught.value.what
    assert LABEL in caught.value.what
    assert str(path.parent) not in str(caught.value)


def test_a_huge_directory_is_not_read(path: Path):
    size = 1 << 30
    with path.open("wb") as file:
        file.write(b"PK\x03\x04")
        file.seek(size)
        file.write(b"PK\x05\x06" + struct.pack("<4H2LH", 0, 0, 1, 1, size // 2, size // 2, 0))
    tracemalloc.start()
    try:
        with pytest.raises(CheckpointError, match=r"E-CKPT-HEADER: .* directory is broken"):
            TorchFile(path, LABEL)
        assert tracemalloc.get_traced_memory()[1] < 40_000_000
    finally:
        tracemalloc.stop()


@settings(deadline=None, max_examples=300)
@given(st.integers(0, len(GOOD) - 1), st.binary(min_size=1, max_size=8))
@example(155, b"\0.")
def test_damage_is_read_or_refused_and_nothing_else(tmp_path_factory: pytest.TempPathFactory, at: int, put: bytes):
    path = tmp_path_factory.getbasetemp() / "damaged.pt"
    path.write_bytes(GOOD[:at] + put + GOOD[at + len(put) :])
    # Whatever else is raised would fail the test.
    with suppress(CheckpointError):
        file = TorchFile(path, LABEL)
        values = file.value.values() if isinstance(file.value, dict) else ()
        tensors = [value for value in values if isinstance(value, TensorRef)]
        file.locate(tensors)
        for tensor in tensors:
            file.read(tensor).tobytes()
