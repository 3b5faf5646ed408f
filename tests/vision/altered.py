"""A checkpoint with some tensors changed on the way out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nvlm_trt.checkpoint.base import Checkpoint, TensorInfo
from nvlm_trt.model.config import NvlmConfig

__all__ = ["AlteredCheckpoint"]


@dataclass
class AlteredCheckpoint:
    """``change`` gets the real values of ``names`` as a writable copy; ``reads`` and ``dropped`` tell
    what was looked at and let go."""

    real: Checkpoint
    names_changed: Sequence[str] = ()
    change: Callable[[NDArray[Any]], None] = lambda _array: None
    reads: list[str] = field(default_factory=list)
    dropped: list[str] = field(default_factory=list)

    @property
    def root(self) -> Path:
        return self.real.root

    @property
    def config(self) -> NvlmConfig:
        return self.real.config

    def names(self) -> Sequence[str]:
        return self.real.names()

    def info(self, name: str) -> TensorInfo:
        return self.real.info(name)

    def files(self, name: str) -> Sequence[Path]:
        return self.real.files(name)

    def drop_pages(self, name: str) -> None:
        self.dropped.append(name)
        self.real.drop_pages(name)

    def fingerprint(self) -> str:
        return self.real.fingerprint()

    def read(self, name: str) -> NDArray[Any]:
        self.reads.append(name)
        array = self.real.read(name)
        if name in self.names_changed:
            array = np.array(array)
            self.change(array)
        return array
