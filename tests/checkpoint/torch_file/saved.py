"""A file as torch saves it, and opening it."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import torch

from nvlm_trt.checkpoint.torch_file import TensorRef, TorchFile

__all__ = ["GOOD", "LABEL", "WEIGHT", "opened", "saved"]

LABEL = "mp_rank_00/model_optim_rng.pt"


def saved(value: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


WEIGHT = torch.arange(12, dtype=torch.float32).reshape(3, 4)
GOOD = saved({"weight": WEIGHT, "other": WEIGHT + 1})


def opened(path: Path) -> tuple[TorchFile, dict[str, Any]]:
    file = TorchFile(path, LABEL)
    file.locate(value for value in file.value.values() if isinstance(value, TensorRef))
    return file, file.value
