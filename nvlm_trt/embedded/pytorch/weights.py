"""Loads checkpoint tensors into tensors on the device, one at a time, through one small buffer.

A rank's file is mapped; its bytes pass through ``_STAGING_BYTES`` of pinned memory, and its pages are released. So a
model of 75 GB is loaded in the memory of the device and a few megabytes of the host's.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from nvlm_trt.embedded.checkpoint import DecoderCheckpoint

__all__ = ["CheckpointWeights", "WeightSource"]

_STAGING_BYTES = 32 << 20
_DTYPES = {
    "float8_e4m3fn": torch.float8_e4m3fn,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "float32": torch.float32,
}


class WeightSource(Protocol):
    def fill(self, name: str, target: Tensor) -> None:
        """Put a checkpoint's tensor into ``target``, contiguous and of its shape, converted where the dtypes differ."""


class CheckpointWeights:
    """One rank's file as a ``WeightSource``."""

    def __init__(self, checkpoint: DecoderCheckpoint, device: torch.device) -> None:
        self._checkpoint = checkpoint
        self._staging = torch.empty(_STAGING_BYTES, dtype=torch.uint8, pin_memory=device.type == "cuda")

    def fill(self, name: str, target: Tensor) -> None:
        stored = self._checkpoint.read(name)
        dtype = _DTYPES[stored.dtype.name]
        same = dtype == target.dtype
        place = target if same else torch.empty(target.shape, dtype=dtype, device=target.device)
        self._copy(stored.reshape(-1).view(np.uint8), place.view(-1).view(torch.uint8))
        if not same:
            target.copy_(place)
        self._checkpoint.drop_pages(name)

    def _copy(self, source: Any, place: Tensor) -> None:
        for start in range(0, len(source), _STAGING_BYTES):
            piece = source[start : start + _STAGING_BYTES]
            self._staging.numpy()[: len(piece)] = piece
            place[start : start + len(piece)].copy_(self._staging[: len(piece)])
