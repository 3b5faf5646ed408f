"""What a pickle may contain besides plain Python values: references to tensors, and marks for what was not built."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from nvlm_trt.checkpoint.tensor_spec import DTYPES

__all__ = ["OPAQUE", "STORAGE_DTYPES", "Global", "Opaque", "StorageRef", "TensorRef"]

# torch's storage classes and the safetensors tags of what they hold.
STORAGE_DTYPES: Mapping[str, str] = MappingProxyType(
    {
        "BFloat16Storage": "BF16",
        "BoolStorage": "BOOL",
        "ByteStorage": "U8",
        "CharStorage": "I8",
        "DoubleStorage": "F64",
        "FloatStorage": "F32",
        "HalfStorage": "F16",
        "IntStorage": "I32",
        "LongStorage": "I64",
        "ShortStorage": "I16",
    }
)


class Opaque:
    """An object of a class that is not ours to build: its arguments and state were dropped."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "OPAQUE"


OPAQUE: Final = Opaque()


@dataclass(frozen=True, slots=True)
class Global:
    """The name of a class or function; never looked up."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


@dataclass(frozen=True, slots=True)
class StorageRef:
    """One run of elements, a member of the archive. ``dtype`` is a safetensors tag."""

    dtype: str
    key: str
    num_elements: int

    @property
    def nbytes(self) -> int:
        return self.num_elements * DTYPES[self.dtype].itemsize


@dataclass(frozen=True, slots=True)
class TensorRef:
    """A strided view of a storage that lies inside it. ``offset`` and ``strides`` count elements."""

    storage: StorageRef
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    @property
    def dtype(self) -> str:
        return self.storage.dtype

    @property
    def extent(self) -> int:
        """Elements from the first to the last one, both counted."""
        if 0 in self.shape:
            return 0
        return 1 + sum((size - 1) * stride for size, stride in zip(self.shape, self.strides, strict=True))
