"""One safetensors file: header checked on opening, bytes mapped when a tensor is first read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from nvlm_trt.checkpoint.base import Place, TensorInfo
from nvlm_trt.checkpoint.mapped_file import MappedFile
from nvlm_trt.checkpoint.safetensors_header import read_header
from nvlm_trt.checkpoint.untrusted import shown
from nvlm_trt.errors import CheckpointError

__all__ = ["SafetensorsFile"]


class SafetensorsFile:
    """Tensors of one file by name.

    Raises ``CheckpointError``: E-CKPT-SHARD where the file is missing or cannot be opened, E-CKPT-HEADER where its
    header is not true, E-CKPT-TENSOR for a name it does not hold.
    """

    def __init__(self, path: str | Path) -> None:
        self._path = Path(path)
        try:
            # Before opening: a pipe would wait for its writer.
            if not self._path.is_file():
                raise CheckpointError("E-CKPT-SHARD", f"{shown(self._path.name)} is missing.", "Fetch the file.")
            self._size_bytes = self._path.stat().st_size
            with self._path.open("rb") as file:
                self._header = read_header(file, self._size_bytes, self._path.name)
        except OSError:
            raise _unreadable(self._path) from None
        self._mapped = MappedFile(self._path, self._size_bytes)

    @property
    def path(self) -> Path:
        return self._path

    @property
    def size_bytes(self) -> int:
        return self._size_bytes

    @property
    def metadata(self) -> Mapping[str, str]:
        return self._header.metadata

    @property
    def header_bytes(self) -> bytes:
        """The JSON part as it lies in the file."""
        return self._header.raw

    def names(self) -> Sequence[str]:
        """All tensor names, sorted."""
        return sorted(self._header.tensors)

    def info(self, name: str) -> TensorInfo:
        spec = self._header.tensors.get(name)
        if spec is None:
            raise CheckpointError("E-CKPT-TENSOR", f"{shown(self._path.name)} holds no tensor {shown(name)}.")
        return TensorInfo(name, spec.dtype, spec.shape, spec.nbytes, Place(self._path, self._header.starts[name]))

    def span(self, name: str) -> tuple[int, int]:
        """The tensor's offset in the file and its length, in bytes."""
        nbytes = self.info(name).nbytes
        return self._header.starts[name], nbytes

    def read(self, name: str) -> NDArray[Any]:
        """A read-only view into the mapped file; it keeps the mapping alive by itself."""
        info = self.info(name)
        return self._mapped.array(self._header.tensors[name].numpy_dtype, info.shape, self._header.starts[name])

    def drop_pages(self, name: str) -> None:
        """Release the memory that reading the tensor has filled; views stay valid."""
        self._mapped.drop_pages(*self.span(name))


def _unreadable(path: Path) -> CheckpointError:
    return CheckpointError("E-CKPT-SHARD", f"{shown(path.name)} cannot be opened.", "Check its permissions.")
