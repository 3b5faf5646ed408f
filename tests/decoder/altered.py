"""A checkpoint that is another one but for a few tensors, and remembers what was read of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from nvlm_trt.checkpoint.base import Checkpoint, TensorInfo
from nvlm_trt.checkpoint.tensor_spec import dtype_tag
from nvlm_trt.model.config import NvlmConfig

__all__ = ["Altered"]


class Altered:
    """Replaced tensors have no place in a file, like those that a reader puts together from several."""

    def __init__(self, base: Checkpoint, tensors: Mapping[str, NDArray[Any]] | None = None, dtype: str = "bfloat16"):
        self._base = base
        self._tensors = tensors or {}
        self.root = base.root
        self.config: NvlmConfig = dataclasses.replace(base.config, dtype=dtype)
        self.reads: list[str] = []
        self.dropped: list[str] = []

    def names(self) -> Sequence[str]:
        return self._base.names()

    def info(self, name: str) -> TensorInfo:
        if name not in self._tensors:
            return self._base.info(name)
        tensor = self._tensors[name]
        return TensorInfo(name, dtype_tag(tensor.dtype), tensor.shape, tensor.nbytes, place=None)

    def files(self, name: str) -> Sequence[Path]:
        return self._base.files(name)

    def read(self, name: str) -> NDArray[Any]:
        self.reads.append(name)
        return self._tensors[name] if name in self._tensors else self._base.read(name)

    def drop_pages(self, name: str) -> None:
        self.dropped.append(name)
        self._base.drop_pages(name)

    def fingerprint(self) -> str:
        return self._base.fingerprint()
