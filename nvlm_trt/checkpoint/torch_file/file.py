"""One file that ``torch.save`` wrote: what it describes, and its tensors mapped where they lie."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

from numpy.typing import NDArray

from nvlm_trt.checkpoint.mapped_file import MappedFile, expect_random_reads
from nvlm_trt.checkpoint.tensor_spec import DTYPES
from nvlm_trt.checkpoint.torch_file.pickle_machine import MAX_PICKLE_BYTES, read_pickle
from nvlm_trt.checkpoint.torch_file.values import StorageRef, TensorRef
from nvlm_trt.checkpoint.torch_file.zip_directory import ZipDirectory
from nvlm_trt.checkpoint.untrusted import shown
from nvlm_trt.errors import CheckpointError

__all__ = ["TorchFile"]

_PICKLE = "/data.pkl"


class TorchFile:
    """``value`` is what was saved, with ``TensorRef`` for tensors and ``OPAQUE`` for objects of other classes.

    ``label`` names the file in errors. A tensor can be read once it is located.

    Raises ``CheckpointError``: E-CKPT-SHARD where the file is missing or cannot be opened, E-CKPT-HEADER for an archive
    that is not as torch writes it, E-CKPT-PICKLE for a pickle that asks for more than weights need.
    """

    def __init__(self, path: Path, label: str) -> None:
        self.path = path
        self._label = label
        self._offset_of: dict[StorageRef, int] = {}
        with self._open() as file:
            self.size_bytes = os.fstat(file.fileno()).st_size
            self._directory = ZipDirectory(file, self.size_bytes, label)
            self._archive, self.pickle_bytes = self._read_pickle(file)
        self.value: Any = read_pickle(self.pickle_bytes, label)
        self._mapped = MappedFile(path, self.size_bytes)

    def locate(self, tensors: Iterable[TensorRef]) -> None:
        """Find and check where the tensors' bytes lie. Raises ``CheckpointError`` E-CKPT-HEADER."""
        with self._open() as file:
            for storage in sorted({tensor.storage for tensor in tensors}, key=lambda storage: storage.key):
                member = self._directory.locate(file, f"{self._archive}/data/{storage.key}")
                if member.nbytes != storage.nbytes:
                    self._reject(f"storage {shown(storage.key)} has {member.nbytes} bytes, not {storage.nbytes}")
                self._offset_of[storage] = member.offset

    def span(self, tensor: TensorRef) -> tuple[int, int]:
        """Offset in the file and length in bytes of the part that holds all of the tensor's elements."""
        itemsize = DTYPES[tensor.dtype].itemsize
        return self._offset_of[tensor.storage] + tensor.offset * itemsize, tensor.extent * itemsize

    def read(self, tensor: TensorRef) -> NDArray[Any]:
        """A read-only view into the mapped file; it keeps the mapping alive by itself."""
        dtype = DTYPES[tensor.dtype]
        offset, _ = self.span(tensor)
        return self._mapped.array(dtype, tensor.shape, offset, tuple(step * dtype.itemsize for step in tensor.strides))

    def drop_pages(self, tensor: TensorRef) -> None:
        """Release the memory that reading the tensor has filled; views stay valid."""
        self._mapped.drop_pages(*self.span(tensor))

    def _open(self) -> BinaryIO:
        try:
            # Before opening: a pipe would wait for its writer.
            if not self.path.is_file():
                raise CheckpointError(
                    "E-CKPT-SHARD", f"{shown(self._label)} is missing.", "Fetch the whole checkpoint."
                )
            file = self.path.open("rb")
        except OSError:
            raise CheckpointError(
                "E-CKPT-SHARD", f"{shown(self._label)} cannot be opened.", "Check its permissions."
            ) from None
        # Headers lie far apart: reading ahead would read the weights.
        expect_random_reads(file.fileno())
        return file

    def _read_pickle(self, file: BinaryIO) -> tuple[str, bytes]:
        """The archive's inner folder and its pickle. Torch names the folder as it likes."""
        found = [name for name in self._directory.names() if name.endswith(_PICKLE) and name.count("/") == 1]
        if len(found) != 1:
            self._reject(f"it has {len(found)} pickles; an archive of torch.save has one")
        archive = found[0].removesuffix(_PICKLE)
        member = self._directory.locate(file, found[0])
        if member.nbytes > MAX_PICKLE_BYTES:
            self._reject(f"its pickle has {member.nbytes} bytes; at most {MAX_PICKLE_BYTES} are allowed")
        byteorder = f"{archive}/byteorder"
        if byteorder in self._directory.names():
            order = self._directory.locate(file, byteorder)
            if order.nbytes > 16 or os.pread(file.fileno(), order.nbytes, order.offset) != b"little":
                self._reject("its tensors are not in little-endian byte order")
        return archive, os.pread(file.fileno(), member.nbytes, member.offset)

    def _reject(self, fault: str) -> NoReturn:
        raise CheckpointError(
            "E-CKPT-HEADER",
            f"{shown(self._label)} cannot be read: {fault}.",
            "Fetch the file again from where it was made.",
        )
