"""Which shard holds which tensor: ``model.safetensors.index.json``, read as untrusted text.

An index may name files beside itself and nothing else. A shard may be a link, because the Hugging Face cache links
every file of a snapshot to its blobs, but only into the checkpoint's own folder or into those blobs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from nvlm_trt.checkpoint.untrusted import read_object, shown
from nvlm_trt.errors import CheckpointError

__all__ = ["INDEX_FILE", "SINGLE_FILE", "WeightIndex", "read_index"]

INDEX_FILE = "model.safetensors.index.json"
SINGLE_FILE = "model.safetensors"


@dataclass(frozen=True, slots=True)
class WeightIndex:
    """``shard_of`` maps a tensor's name to a file name. ``raw`` is the index as it lies in its file."""

    shard_of: Mapping[str, str]
    total_bytes: int | None
    raw: bytes


def read_index(folder: Path) -> WeightIndex | None:
    """The checked index of ``folder``; ``None`` where one ``model.safetensors`` holds everything.

    Raises ``CheckpointError`` E-CKPT-INDEX; E-CKPT-SHARD where neither file is there.
    """
    path = folder / INDEX_FILE
    if not path.is_file():
        if not (folder / SINGLE_FILE).is_file():
            raise CheckpointError(
                "E-CKPT-SHARD", f"The folder has neither {INDEX_FILE} nor {SINGLE_FILE}.", "Fetch the whole model."
            )
        _check_inside(folder, SINGLE_FILE)
        return None
    if (folder / SINGLE_FILE).exists():
        _reject(f"{INDEX_FILE} and {SINGLE_FILE} are both there, and which one counts is open")
    data, raw = read_object(path, "E-CKPT-INDEX")
    shard_of = data.get("weight_map")
    if not isinstance(shard_of, dict) or not shard_of or not all(isinstance(file, str) for file in shard_of.values()):
        _reject("weight_map is not an object of file names")
    for file_name in sorted(set(shard_of.values())):
        _check_name(file_name)
        _check_inside(folder, file_name)
    metadata = data.get("metadata", {})
    total_bytes = metadata.get("total_size") if isinstance(metadata, dict) else None
    if total_bytes is not None and type(total_bytes) is not int:
        _reject(f"metadata.total_size is {shown(total_bytes)}, not a whole number")
    return WeightIndex(shard_of, total_bytes, raw)


def _check_name(file_name: str) -> None:
    plain = file_name.isprintable() and not set(file_name) & set("/\\") and len(file_name.encode()) <= 255
    if not plain or file_name.startswith(".") or not file_name.endswith(".safetensors"):
        _reject(f"it points at {shown(file_name)}; only .safetensors files beside the index are allowed")


def _check_inside(folder: Path, file_name: str) -> None:
    try:
        target, root = (folder / file_name).resolve(), folder.resolve()
    except (OSError, RuntimeError):  # RuntimeError: links in a circle, before Python 3.13
        _reject(f"{shown(file_name)} is a link that leads nowhere")
    allowed = [root]
    if root.parent.name == "snapshots":
        allowed.append(root.parent.parent / "blobs")
    if not any(target.is_relative_to(place) for place in allowed):
        _reject(f"{shown(file_name)} is a link that leads out of the checkpoint")


def _reject(fault: str) -> NoReturn:
    raise CheckpointError(
        "E-CKPT-INDEX", f"The weights' index cannot be followed: {fault}.", "Fetch the model again from its source."
    )
