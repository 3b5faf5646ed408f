"""A synthetic checkpoint whose key biases are made as large as those that have broken FP8 caches."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np

from nvlm_trt.checkpoint.base import Checkpoint
from nvlm_trt.checkpoint.registry import open_checkpoint
from nvlm_trt.decoder.layer import layer_tensor

__all__ = ["plant_biases"]


def plant_biases(source: Path, folder: Path, layer: int, values: dict[int, float], field: str = "k_bias") -> Checkpoint:
    """A copy of ``source`` in the new ``folder``; ``values`` replaces channels of one layer's bias in its file."""
    shutil.copytree(source, folder)
    info = open_checkpoint(folder).info(layer_tensor(layer, field))
    assert info.place is not None
    assert info.dtype == "F32"
    with info.place.file.open("r+b") as file:
        for channel, value in values.items():
            file.seek(info.place.offset + 4 * channel)
            file.write(np.float32(value).tobytes())
    return open_checkpoint(folder)
