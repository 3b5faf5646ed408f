"""Writes safetensors files of any size, one tensor, or one piece of it, in memory at a time.

All shapes are known before the first byte, so the header goes first and the data streams behind it. Tensors lie widest
dtype first and by name within a dtype: the safetensors library's order, which aligns every tensor to its element size;
the bytes are those the library would write. The file appears under its name only when it is whole and on disk.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from io import FileIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nvlm_trt.checkpoint.disk import partial_path, sync_folder, writing
from nvlm_trt.checkpoint.safetensors_header import render_header
from nvlm_trt.checkpoint.tensor_spec import DTYPES, TensorSpec

__all__ = ["Produce", "TensorSpec", "in_file_order", "write_safetensors"]

Produce = Callable[[str], "NDArray[Any] | Iterator[NDArray[Any]]"]
_RANK = {tag: rank for rank, tag in enumerate(DTYPES)}


def in_file_order(entries: Sequence[TensorSpec]) -> list[TensorSpec]:
    return sorted(entries, key=lambda spec: (-_RANK[spec.dtype], spec.name))


def write_safetensors(
    path: str | Path, entries: Sequence[TensorSpec], produce: Produce, metadata: dict[str, str] | None = None
) -> str:
    """Write ``entries`` to ``path`` and return the file's SHA-256 in hex.

    ``produce(name)`` is called once per entry, in the file's order, and gives the whole array, or an iterator of pieces
    that follow each other in C order. A wrong dtype, shape or element count is the caller's bug: ``ValueError``.
    Raises ``BuildError`` E-BUILD-SPACE where the disk is full, E-BUILD-WRITE where it may not be
    written. Whatever fails, nothing is left.
    """
    path = Path(path)
    ordered = in_file_order(entries)
    header = render_header(ordered, metadata)
    digest = hashlib.sha256(header)
    partial = partial_path(path)
    try:
        with writing(path.name):
            # Unbuffered: a buffer would try the disk once more on closing, and raise there.
            file = partial.open("wb", buffering=0)
        with file:
            with writing(path.name):
                _write(file, memoryview(header))
            for spec in ordered:
                _write_tensor(file, path.name, spec, produce, digest)
            with writing(path.name):
                os.fsync(file.fileno())
        with writing(path.name):
            partial.replace(path)
            sync_folder(path.parent)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    return digest.hexdigest()


def _write_tensor(file: FileIO, path_name: str, spec: TensorSpec, produce: Produce, digest: hashlib._Hash) -> None:
    """A function of its own, because a last piece left in a variable keeps all of its tensor in memory."""
    for piece in _pieces(spec, produce):
        digest.update(piece)
        with writing(path_name):
            _write(file, piece)


def _write(file: FileIO, left: memoryview) -> None:
    # One call to the system takes at most 2 GiB, and less if it likes.
    while left:
        left = left[file.write(left) :]


def _pieces(spec: TensorSpec, produce: Produce) -> Iterator[memoryview]:
    produced = produce(spec.name)
    pieces: Iterable[NDArray[Any]] = produced if isinstance(produced, Iterator) else (_whole(spec, produced),)
    num_elements = 0
    for piece in pieces:
        if piece.dtype != spec.numpy_dtype:
            raise ValueError(f"{spec.name}: dtype {piece.dtype} was produced, {spec.dtype} was announced")
        num_elements += piece.size
        # Through bytes, because bfloat16 and float8 have no buffer format of their own.
        yield np.ascontiguousarray(piece).reshape(-1).view(np.uint8).data
    if num_elements != spec.num_elements:
        raise ValueError(f"{spec.name}: {num_elements} elements were produced, {spec.num_elements} were announced")


def _whole(spec: TensorSpec, array: NDArray[Any]) -> NDArray[Any]:
    if array.shape != spec.shape:
        raise ValueError(f"{spec.name}: shape {array.shape} was produced, {spec.shape} was announced")
    return array
