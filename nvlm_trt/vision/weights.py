"""Maps an initializer's name to its bytes in the file that holds them.

``weights.json`` says for each initializer of ``vision.onnx`` whether its bytes are the checkpoint's own or lie in
``weights.safetensors`` beside it. Both are looked up by name and checked against the dtype and shape that the graph
declares. The checkpoint's fingerprint is compared with the graph's, so that weights of a retrained model of the same
sizes cannot slip in.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
from numpy.typing import NDArray
from onnx import TensorProto

from nvlm_trt.checkpoint.base import Checkpoint, TensorInfo
from nvlm_trt.checkpoint.registry import open_checkpoint
from nvlm_trt.checkpoint.safetensors_file import SafetensorsFile
from nvlm_trt.errors import ArtefactError, CheckpointError
from nvlm_trt.vision.artefact import INDEX_FILE, SIDE_FILE, checkpoint_fingerprint, read_artefact
from nvlm_trt.vision.dtype import ONNX_DTYPE, SAFETENSORS_DTYPE
from nvlm_trt.vision.graph import parameters

__all__ = ["map_weights"]

_TAG_OF_ONNX = {number: SAFETENSORS_DTYPE[name] for name, number in ONNX_DTYPE.items()}
_TAG_OF_ONNX[TensorProto.FLOAT8E4M3FN] = "F8_E4M3"


def map_weights(model: onnx.ModelProto, vision_folder: Path, checkpoint_folder: Path) -> dict[str, NDArray[Any]]:
    """A read-only view of every external initializer's bytes.

    Raises ``ArtefactError``: E-ARTEFACT-CHECKPOINT for a graph of another checkpoint, E-ARTEFACT-WEIGHTS for
    weights that are missing, short or not what the graph declares; and what opening the checkpoint raises.
    """
    checkpoint = open_checkpoint(checkpoint_folder)
    if checkpoint_fingerprint(model) != checkpoint.fingerprint():
        raise ArtefactError(
            "E-ARTEFACT-CHECKPOINT",
            "vision.onnx was written for another checkpoint than the one given.",
            "Name the checkpoint this build was made from, or run nvlm-trt build again.",
        )
    index = _read_index(vision_folder)
    declared = parameters(model)
    if set(index) != set(declared):
        raise _wrong(f"{INDEX_FILE} and vision.onnx name different weights")
    sources: dict[str, Checkpoint | SafetensorsFile] = {"checkpoint": checkpoint}
    if "side" in index.values():
        sources["side"] = _named(SIDE_FILE, lambda: SafetensorsFile(vision_folder / SIDE_FILE))
    return {name: _map(sources[index[name]], name, declared[name]) for name in sorted(declared)}


def _map(source: Checkpoint | SafetensorsFile, name: str, declared: TensorProto) -> NDArray[Any]:
    info: TensorInfo = _named(name, lambda: source.info(name))
    if info.dtype != _TAG_OF_ONNX.get(declared.data_type) or info.shape != tuple(declared.dims):
        raise _wrong(
            f"{name} is {info.dtype} {list(info.shape)}; "
            f"the graph wants {_TAG_OF_ONNX.get(declared.data_type)} {list(declared.dims)}"
        )
    view: NDArray[Any] = _named(name, lambda: source.read(name))
    return view


def _read_index(folder: Path) -> dict[str, str]:
    try:
        data = json.loads(read_artefact(folder, INDEX_FILE))
        index = {str(name): str(entry["file"]) for name, entry in data.items()}
    except (ValueError, AttributeError, KeyError, TypeError):
        raise _wrong(f"{INDEX_FILE} cannot be read") from None
    if not set(index.values()) <= {"checkpoint", "side"}:
        raise _wrong(f"{INDEX_FILE} names a file that is neither checkpoint nor side")
    return index


def _named(what: str, look_up: Callable[[], Any]) -> Any:
    """A look-up whose failure is a fault of the artefact, not of a checkpoint."""
    try:
        return look_up()
    except CheckpointError as error:
        raise _wrong(f"{what}: {error.what.removesuffix('.')}") from None


def _wrong(what: str) -> ArtefactError:
    return ArtefactError("E-ARTEFACT-WEIGHTS", f"{what}.", "Run nvlm-trt build again with this checkpoint.")
