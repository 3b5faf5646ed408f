"""A Hugging Face checkpoint to be spoiled, and ways to do it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from nvlm_trt.checkpoint.safetensors_file import SafetensorsFile
from nvlm_trt.checkpoint.safetensors_writer import TensorSpec, write_safetensors
from nvlm_trt.checkpoint.tensor_spec import dtype_tag

__all__ = [
    "BIAS",
    "FIRST",
    "INDEX",
    "LAST",
    "Spoil",
    "change_json",
    "change_shard",
    "overwrite",
    "spoil_config",
    "spoil_first",
    "spoil_index",
]

INDEX = "model.safetensors.index.json"
FIRST, LAST = "model-00001-of-00005.safetensors", "model-00005-of-00005.safetensors"
BIAS = "mlp1.0.bias"
Spoil = Callable[[Path], None]


def change_json(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))


def change_shard(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Rewrite a shard with the arrays that ``change`` leaves."""
    file = SafetensorsFile(path)
    arrays = {name: file.read(name) for name in file.names()}
    change(arrays)
    specs = [TensorSpec(name, dtype_tag(array.dtype), array.shape) for name, array in arrays.items()]
    write_safetensors(path, specs, arrays.__getitem__)


def spoil_index(change: Callable[[dict[str, Any]], object]) -> Spoil:
    return lambda folder: change_json(folder / INDEX, change)


def spoil_config(change: Callable[[dict[str, Any]], object]) -> Spoil:
    return lambda folder: change_json(folder / "config.json", change)


def spoil_first(change: Callable[[dict[str, Any]], object]) -> Spoil:
    return lambda folder: change_shard(folder / FIRST, change)


def overwrite(file_name: str, content: bytes) -> Spoil:
    def spoil(folder: Path) -> None:
        (folder / file_name).write_bytes(content)

    return spoil
