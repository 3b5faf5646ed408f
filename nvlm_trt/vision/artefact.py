"""The vision folder of a build: its files by name, how they are written, and the graph read back.

The graph carries the fingerprint of the checkpoint it was written for, since it points at that one's bytes.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError

from nvlm_trt.checkpoint.disk import sync_folder, writing
from nvlm_trt.errors import ArtefactError
from nvlm_trt.vision.dtype import ONNX_DTYPE, GraphDtype
from nvlm_trt.vision.graph import INPUT, OUTPUT

__all__ = [
    "GRAPH_FILE",
    "INDEX_FILE",
    "PLAN_FILE",
    "PLAN_INFO_FILE",
    "SIDE_FILE",
    "GraphInfo",
    "checkpoint_fingerprint",
    "read_artefact",
    "read_graph",
    "set_checkpoint_fingerprint",
    "write_artefact",
]

GRAPH_FILE = "vision.onnx"
INDEX_FILE = "weights.json"
SIDE_FILE = "weights.safetensors"
PLAN_FILE = "vision.plan"
PLAN_INFO_FILE = "vision.plan.json"

_FINGERPRINT_KEY = "checkpoint"
_DTYPE_OF_ONNX: dict[int, GraphDtype] = {number: name for name, number in ONNX_DTYPE.items()}


@dataclass(frozen=True, slots=True)
class GraphInfo:
    """What a vision graph takes and gives; ``tile_size`` in pixels."""

    tile_size: int
    tokens_per_tile: int
    output_size: int
    dtype: GraphDtype

    @classmethod
    def of(cls, model: onnx.ModelProto) -> GraphInfo:
        """Raises ``ArtefactError`` E-ARTEFACT-GRAPH for a graph with other inputs or outputs than ours."""
        values = {value.name: value.type.tensor_type for value in (*model.graph.input, *model.graph.output)}
        if set(values) != {INPUT, OUTPUT} or any(len(value.shape.dim) < 3 for value in values.values()):
            raise _bad_graph("has other inputs and outputs than a vision graph")
        tiles, rows = values[INPUT].shape.dim, values[OUTPUT].shape.dim
        dtype = _DTYPE_OF_ONNX.get(values[OUTPUT].elem_type)
        if dtype is None:
            raise _bad_graph("gives rows of an unknown type")
        return cls(tiles[1].dim_value, rows[1].dim_value, rows[2].dim_value, dtype)


def read_graph(folder: Path) -> onnx.ModelProto:
    """Raises ``ArtefactError``: E-ARTEFACT-MISSING or E-ARTEFACT-GRAPH."""
    try:
        model = onnx.load_model_from_string(read_artefact(folder, GRAPH_FILE))
    except DecodeError:
        raise _bad_graph("is not an ONNX file") from None
    GraphInfo.of(model)
    return model


def set_checkpoint_fingerprint(model: onnx.ModelProto, fingerprint: str) -> None:
    onnx.helper.set_model_props(model, {_FINGERPRINT_KEY: fingerprint})


def checkpoint_fingerprint(model: onnx.ModelProto) -> str:
    """Nothing where the graph does not say."""
    return next((prop.value for prop in model.metadata_props if prop.key == _FINGERPRINT_KEY), "")


def read_artefact(folder: Path, name: str) -> bytes:
    """Raises ``ArtefactError`` E-ARTEFACT-MISSING."""
    try:
        return (folder / name).read_bytes()
    except OSError:
        raise ArtefactError(
            "E-ARTEFACT-MISSING", f"The vision folder has no readable {name}.", "Run nvlm-trt build again."
        ) from None


def write_artefact(folder: Path, name: str, data: bytes) -> None:
    """Write beside, sync, rename. Raises ``BuildError`` E-BUILD-WRITE where the disk does not let us."""
    partial = folder / f"{name}.partial"
    try:
        with writing(name):
            with partial.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            partial.replace(folder / name)
            sync_folder(folder)
    finally:
        partial.unlink(missing_ok=True)


def _bad_graph(what: str) -> ArtefactError:
    return ArtefactError("E-ARTEFACT-GRAPH", f"{GRAPH_FILE} {what}.", "Run nvlm-trt build again.")
