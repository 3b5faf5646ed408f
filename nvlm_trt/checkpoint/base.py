"""A checkpoint is a config and a lazy stream of named tensors, whatever its layout.

Tensors have the names of the Hugging Face release. ``read`` returns a read-only view into a mapped file where the
tensor lies in one piece, which costs memory only while its pages are used, and otherwise an array assembled from the
ranks' parts. ``info`` says which it is, because a graph can only point at a tensor that has a place.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from numpy.typing import NDArray

from nvlm_trt.model.config import NvlmConfig

__all__ = ["Checkpoint", "Place", "TensorInfo"]


@dataclass(frozen=True, slots=True)
class Place:
    """Where a tensor's bytes lie in C order; ``offset`` counts bytes from the file's start."""

    file: Path
    offset: int


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """What a tensor is and, where it lies in one piece, its place.

    ``dtype`` is the safetensors tag ("BF16", "F32", "F8_E4M3"). ``place`` is None for a tensor that ``read`` assembles.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    nbytes: int
    place: Place | None


class Checkpoint(Protocol):
    @property
    def root(self) -> Path:
        """The folder the checkpoint lies in."""

    @property
    def config(self) -> NvlmConfig: ...

    def names(self) -> Sequence[str]:
        """All tensor names, sorted."""

    def info(self, name: str) -> TensorInfo: ...

    def files(self, name: str) -> Sequence[Path]:
        """The files that hold the tensor or parts of it; all lie below ``root``."""

    def read(self, name: str) -> NDArray[Any]:
        """A read-only array, dtype ``ml_dtypes.bfloat16``, ``float32`` or ``float16`` as stored."""

    def drop_pages(self, name: str) -> None:
        """Release the memory that reading the tensor has filled. Views stay valid and are read from disk again."""

    def fingerprint(self) -> str:
        """SHA-256 in hex that tells this checkpoint from others without reading it whole; the same wherever it lies."""
