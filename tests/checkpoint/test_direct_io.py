from __future__ import annotations

import errno
import itertools
import os
import tempfile
from io import FileIO
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from nvlm_trt.checkpoint import direct_io
from nvlm_trt.checkpoint.direct_io import PAGE_BYTES, DirectReader, DirectWriter, aligned_buffer


def random_bytes(count: int) -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, count, dtype=np.uint8)


def written(path: Path, content: NDArray[np.uint8], cuts: list[int], order: list[int]) -> bytes:
    """``content`` written in pieces that begin at ``cuts``, in the given order."""
    edges = sorted({0, len(content), *(cut for cut in cuts if cut < len(content))})
    pieces = list(itertools.pairwise(edges))
    writer = DirectWriter(path, len(content))
    for index in sorted(range(len(pieces)), key=lambda index: order[index % len(order)]):
        begin, end = pieces[index]
        writer.write(begin, content[begin:end])
    writer.sync()
    writer.close()
    return path.read_bytes()


@settings(deadline=None, max_examples=60)
@given(
    size=st.integers(1, 5 * PAGE_BYTES),
    cuts=st.lists(st.integers(0, 5 * PAGE_BYTES), max_size=6),
    order=st.lists(st.integers(0, 100), min_size=1, max_size=7),
)
def test_pieces_in_any_order_give_the_file(size: int, cuts: list[int], order: list[int]):
    with tempfile.TemporaryDirectory() as folder:
        content = random_bytes(size)
        assert written(Path(folder) / "x", content, cuts, order) == content.tobytes()


@settings(deadline=None, max_examples=60)
@given(
    size=st.integers(1, 5 * PAGE_BYTES),
    offset=st.integers(0, 5 * PAGE_BYTES),
    count=st.integers(0, 5 * PAGE_BYTES),
)
def test_any_range_is_read(size: int, offset: int, count: int):
    offset, content = min(offset, size), random_bytes(size)
    count = min(count, size - offset)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x"
        path.write_bytes(content.tobytes())
        reader = DirectReader(path)
        read = reader.read(offset, count, aligned_buffer(count + 2 * PAGE_BYTES))
        reader.close()
        assert read.tobytes() == content[offset : offset + count].tobytes()


def test_columns_and_rows_wider_than_the_staging_buffer_are_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(direct_io, "_STAGING_BYTES", PAGE_BYTES)
    matrix = random_bytes(30 * 5000).reshape(30, 5000).view(np.uint16)
    writer = DirectWriter(tmp_path / "x", matrix.nbytes)
    writer.write(0, matrix[:10])
    columns = matrix[10:20, 100:600]
    writer.write(matrix[:10].nbytes, columns)
    writer.close()
    data = (tmp_path / "x").read_bytes()
    assert data[: matrix[:10].nbytes] == matrix[:10].tobytes()
    assert data[matrix[:10].nbytes :][: columns.nbytes] == columns.tobytes()


def test_the_file_has_its_size_from_the_start(tmp_path: Path):
    writer = DirectWriter(tmp_path / "x", 10_000)
    assert (tmp_path / "x").stat().st_size == 10_000
    assert (tmp_path / "x").stat().st_blocks * 512 >= 10_000
    writer.close()
    writer.close()


def test_a_file_that_ends_too_early_is_said(tmp_path: Path):
    for size in (0, 100, PAGE_BYTES, PAGE_BYTES + 100):
        (tmp_path / "x").write_bytes(bytes(size))
        reader = DirectReader(tmp_path / "x")
        with pytest.raises(EOFError):
            reader.read(10, 2 * PAGE_BYTES, aligned_buffer(4 * PAGE_BYTES))
        reader.close()


def test_where_direct_transfers_are_not_offered_the_cache_serves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(direct_io, "_open_direct", lambda path, mode: None)
    content = random_bytes(3 * PAGE_BYTES + 5)
    assert written(tmp_path / "x", content, [7, 5000], [2, 1, 3]) == content.tobytes()
    reader = DirectReader(tmp_path / "x")
    assert reader.read(7, 9000, aligned_buffer(5 * PAGE_BYTES)).tobytes() == content[7:9007].tobytes()
    reader.close()


def test_where_they_are_offered_and_then_refused_the_cache_serves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    direct: list[FileIO] = []

    def open_and_remember(path: Path, mode: str) -> FileIO:
        direct.append(FileIO(path, mode))
        return direct[-1]

    def refuse(descriptor: int) -> None:
        if any(not file.closed and file.fileno() == descriptor for file in direct):
            raise OSError(errno.EINVAL, "refused")

    real_pwrite, real_preadv = os.pwrite, os.preadv

    def pwrite(descriptor, data, offset):
        refuse(descriptor)
        return real_pwrite(descriptor, data, offset)

    def preadv(descriptor, buffers, offset):
        refuse(descriptor)
        return real_preadv(descriptor, buffers, offset)

    monkeypatch.setattr(direct_io, "_open_direct", open_and_remember)
    monkeypatch.setattr(os, "pwrite", pwrite)
    monkeypatch.setattr(os, "preadv", preadv)
    content = random_bytes(3 * PAGE_BYTES + 5)
    assert written(tmp_path / "x", content, [7, 5000], [2, 1, 3]) == content.tobytes()
    reader = DirectReader(tmp_path / "x")
    assert reader.read(7, 9000, aligned_buffer(5 * PAGE_BYTES)).tobytes() == content[7:9007].tobytes()
    reader.close()


def test_other_faults_are_the_systems_own(tmp_path: Path):
    with pytest.raises(FileNotFoundError):
        DirectReader(tmp_path / "none")
    with pytest.raises(FileNotFoundError):
        DirectWriter(tmp_path / "none" / "x", 1)


def test_a_buffer_begins_on_a_page():
    assert aligned_buffer(100).ctypes.data % PAGE_BYTES == 0
