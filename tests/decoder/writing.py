"""TensorRT-LLM checkpoints as they were written."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from nvlm_trt.checkpoint.safetensors_file import SafetensorsFile
from nvlm_trt.decoder.trtllm_checkpoint import ConversionReport
from nvlm_trt.decoder.trtllm_format import Kind

__all__ = ["DTYPES", "LAYER", "Write", "digests", "tensors_of"]

DTYPES = {Kind.PLAIN: "BF16", Kind.WEIGHT: "F8_E4M3", Kind.WEIGHT_SCALE: "F32", Kind.INPUT_SCALE: "F32"}
LAYER = "language_model.model.layers.1."
Write = Callable[..., tuple[Path, ConversionReport]]


def tensors_of(file: Path) -> dict[str, NDArray[Any]]:
    opened = SafetensorsFile(file)
    return {name: opened.read(name) for name in opened.names()}


def digests(folder: Path) -> dict[str, str]:
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in folder.iterdir()}
