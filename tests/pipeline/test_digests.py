from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nvlm_trt.pipeline.digests import DigestMemory, RecallOnly, UnreadFile, sha256_file, sha256_json


@settings(deadline=None, max_examples=20)
@given(data=st.binary(max_size=1000))
def test_a_file_s_digest_is_that_of_its_bytes(data: bytes, tmp_path_factory: pytest.TempPathFactory) -> None:
    file = tmp_path_factory.mktemp("digest") / "file"
    file.write_bytes(data)
    assert sha256_file(file).sha256 == hashlib.sha256(data).hexdigest()
    assert sha256_file(file).size == len(data)


def test_pieces_add_up(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(bytes(9_000_000))
    counts: list[int] = []
    sha256_file(file, counts.append)
    assert len(counts) > 1
    assert sum(counts) == 9_000_000


def test_json_digests_do_not_depend_on_the_order_of_keys() -> None:
    assert sha256_json({"a": 1, "b": [2]}) == sha256_json({"b": [2], "a": 1})
    assert sha256_json({"a": 1}) != sha256_json({"a": "1"})


def test_memory_survives_being_written_down_and_forgets_what_changed(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"one")
    memory = DigestMemory()
    first = memory.digest(file)
    (tmp_path / "memory.json").write_text(memory.dump())
    again = RecallOnly.load(tmp_path / "memory.json")
    assert again.digest(file) == first
    file.write_bytes(b"two")
    os.utime(file, ns=(0, 0))
    with pytest.raises(UnreadFile, match="file"):
        again.digest(file)
    assert memory.digest(file).sha256 == hashlib.sha256(b"two").hexdigest()


def test_known_bytes_are_not_read_but_counted(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"12345")
    memory = DigestMemory()
    memory.digest(file)
    counts: list[int] = []
    memory.digest(file, counts.append)
    assert counts == [5]


@pytest.mark.parametrize("text", ["", "[]", "{", '{"x": 1}', '{"x": ["a", "b", "c"]}'])
def test_a_damaged_memory_knows_nothing(tmp_path: Path, text: str) -> None:
    (tmp_path / "memory.json").write_text(text)
    (tmp_path / "x").write_bytes(b"")
    assert DigestMemory.load(tmp_path / "memory.json").recall(tmp_path / "x") is None
