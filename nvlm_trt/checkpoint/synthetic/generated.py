"""A synthetic checkpoint without files: each tensor is made when it is asked for, and forgotten.

For measuring at a size that no nearby disk holds. The tensors are those that ``write_checkpoint`` writes for the same
size and seed. Making them takes about four seconds for a decoder layer of the release's size on one core.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nvlm_trt.checkpoint.base import TensorInfo
from nvlm_trt.checkpoint.layout import expected_tensors
from nvlm_trt.checkpoint.synthetic.config_json import config_json
from nvlm_trt.checkpoint.synthetic.size import CheckpointSize
from nvlm_trt.checkpoint.synthetic.values import tensor_pieces
from nvlm_trt.model.config import NvlmConfig

__all__ = ["GeneratedCheckpoint"]


class GeneratedCheckpoint:
    """``Checkpoint`` without files.

    Raises ``CheckpointError`` E-CONFIG-VALUE for sizes that contradict each other.
    """

    def __init__(self, size: CheckpointSize, seed: int = 0) -> None:
        self._config = NvlmConfig.from_json(config_json(size))
        self._specs = expected_tensors(self._config)
        self._seed = seed

    @property
    def root(self) -> Path:
        """A folder that is not there."""
        return Path("generated")

    @property
    def config(self) -> NvlmConfig:
        return self._config

    def names(self) -> Sequence[str]:
        return sorted(self._specs)

    def info(self, name: str) -> TensorInfo:
        spec = self._specs[name]
        return TensorInfo(name, spec.dtype, spec.shape, spec.nbytes, place=None)

    def files(self, name: str) -> Sequence[Path]:
        return ()

    def read(self, name: str) -> NDArray[Any]:
        spec = self._specs[name]
        values = np.empty(spec.num_elements, spec.numpy_dtype)
        start = 0
        for piece in tensor_pieces(spec, self._config, self._seed):
            values[start : start + piece.size] = piece
            start += piece.size
        values.flags.writeable = False
        return values.reshape(spec.shape)

    def drop_pages(self, name: str) -> None:
        pass

    def fingerprint(self) -> str:
        return hashlib.sha256(f"{self._config!r}/{self._seed}".encode()).hexdigest()
