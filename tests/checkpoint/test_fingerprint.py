from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nvlm_trt.checkpoint.fingerprint import Fingerprint
from nvlm_trt.errors import CheckpointError

CONTENT = bytes(range(256)) * 128


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "weights").write_bytes(CONTENT)
    return tmp_path / "weights"


def of_parts(*parts: bytes) -> str:
    fingerprint = Fingerprint()
    for part in parts:
        fingerprint.add(part)
    return fingerprint.hexdigest()


def of_samples(file: Path, *spans: tuple[int, int]) -> str:
    fingerprint = Fingerprint()
    fingerprint.add_samples(file, spans)
    return fingerprint.hexdigest()


@settings(deadline=None)
@given(st.lists(st.binary(max_size=4), max_size=3), st.lists(st.binary(max_size=4), max_size=3))
def test_bytes_cannot_move_from_one_part_to_the_next_unseen(left: list[bytes], right: list[bytes]):
    assert (of_parts(*left) == of_parts(*right)) == (left == right)


def test_it_is_sha256_of_parts_behind_their_lengths():
    assert of_parts(b"ab") == hashlib.sha256(b"\2\0\0\0\0\0\0\0ab").hexdigest()


@pytest.mark.parametrize("nbytes", [0, 1, 4095, 4096, 8192, 8193, 32768])
def test_samples_are_the_first_and_the_middle_4_kib(file: Path, nbytes: int):
    span = CONTENT[:nbytes]
    middle = nbytes // 2
    assert of_samples(file, (0, nbytes)) == of_parts(span[:4096], span[middle : middle + 4096])


def test_spans_begin_where_they_are_said_to(file: Path):
    assert of_samples(file, (5, 9000), (1000, 2)) == of_parts(
        CONTENT[5:4101], CONTENT[4505:8601], CONTENT[1000:1001] + CONTENT[1001:1002], CONTENT[1001:1002]
    )


def test_a_file_that_cannot_be_read_is_said(tmp_path: Path):
    for path in (tmp_path / "gone", tmp_path):
        with pytest.raises(CheckpointError, match=r"E-CKPT-SHARD: .* cannot be read"):
            of_samples(path, (0, 1))
