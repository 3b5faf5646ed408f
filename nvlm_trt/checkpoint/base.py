"""A checkpoint is a config and a lazy stream of named tensors, whatever layout it lies in.

Tensors carry the names of the Hugging Face release. ``read`` gives a read-only view into a mapped file, so that a
tensor costs memory only while its pages are looked at; ``info`` says where the bytes lie, so a graph can point at them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from numpy.typing import NDArray

from nvlm_trt.model.config import NvlmConfig

__all__ = ["Checkpoint", "TensorInfo"]


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """Where a tensor lies.

    ``dtype`` is the safetensors tag ("BF16", "F32", "F8_E4M3"); ``offset`` counts bytes from the file's start.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    file: Path
    offset: int
    nbytes: int


class Checkpoint(Protocol):
    @property
    def root(self) -> Path:
        """The folder the checkpoint lies in."""

    @property
    def config(self) -> NvlmConfig: ...

    def names(self) -> Sequence[str]:
        """All tensor names, sorted."""

    def info(self, name: str) -> TensorInfo: ...

    def read(self, name: str) -> NDArray[Any]:
        """A read-only mapped view, dtype ``ml_dtypes.bfloat16``, ``float32`` or ``float16`` as stored."""

    def fingerprint(self) -> str:
        """SHA-256 in hex that tells this checkpoint from others without reading it whole; the same wherever it lies."""
