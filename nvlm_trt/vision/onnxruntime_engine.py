"""The vision engine for machines without a GPU: the build's own graph on ONNX Runtime, in float32."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnxruntime.capi import onnxruntime_pybind11_state as ort_errors

from nvlm_trt.errors import ArtefactError
from nvlm_trt.vision.artefact import GraphInfo, read_graph
from nvlm_trt.vision.engine import check_tiles
from nvlm_trt.vision.graph import INPUT, OUTPUT, parameters
from nvlm_trt.vision.weights import map_weights
from nvlm_trt.vision.widen import widen

__all__ = ["OnnxRuntimeEngine", "add_weights", "check_rows", "open_session"]

_CODES: dict[int, type[np.unsignedinteger[Any]]] = {1: np.uint8, 2: np.uint16}
_LOAD_ERRORS = (
    ort_errors.Fail,
    ort_errors.InvalidArgument,
    ort_errors.InvalidGraph,
    ort_errors.InvalidProtobuf,
    ort_errors.NotImplemented,
    ort_errors.RuntimeException,
)


class OnnxRuntimeEngine:
    """A ``VisionEngine`` on the CPU; ``encode`` gives float32 numpy arrays and is deterministic.

    Raises ``ArtefactError``: E-ARTEFACT-MISSING, -GRAPH, -CHECKPOINT or -WEIGHTS when the folder cannot be used, and
    from ``encode`` E-ENGINE-NAN when the weights make rows that are not numbers.
    """

    def __init__(
        self, vision_folder: Path, checkpoint_folder: Path, max_tiles: int, *, threads: int | None = None
    ) -> None:
        model = read_graph(vision_folder)
        self._info = GraphInfo.of(model)
        self._max_tiles = max_tiles
        weights = map_weights(model, vision_folder, checkpoint_folder)
        self._session = open_session(widen(model), weights, threads)
        # The session may still read from the mapped files.
        self._weights = weights

    @property
    def tile_shape(self) -> tuple[int, int, int]:
        return (self._info.tile_size, self._info.tile_size, 3)

    @property
    def max_tiles(self) -> int:
        return self._max_tiles

    @property
    def tokens_per_tile(self) -> int:
        return self._info.tokens_per_tile

    @property
    def output_size(self) -> int:
        return self._info.output_size

    def encode(self, tiles: NDArray[Any]) -> NDArray[np.float32]:
        tiles = check_tiles(tiles, self.tile_shape, self._max_tiles)
        rows: NDArray[np.float32] = self._session.run([OUTPUT], {INPUT: tiles})[0]
        check_rows(rows)
        return rows

    def close(self) -> None:
        del self._session
        self._weights = {}


def check_rows(rows: NDArray[np.float32]) -> None:
    """Raises ``ArtefactError`` E-ENGINE-NAN."""
    if not np.isfinite(rows).all():
        raise ArtefactError(
            "E-ENGINE-NAN",
            "The vision engine's rows hold NaN or infinite values, so the checkpoint's vision weights do.",
            "Fetch the checkpoint's files again.",
        )


def open_session(
    model: onnx.ModelProto, weights: Mapping[str, NDArray[Any]], threads: int | None = None
) -> onnxruntime.InferenceSession:
    """A deterministic session for a graph that computes in float32; the views in ``weights`` must outlive it.

    Raises ``ArtefactError`` E-ARTEFACT-GRAPH.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or 0
    options.use_deterministic_compute = True
    options.log_severity_level = 4  # what goes wrong is raised; the log would repeat it in the library's words
    # Idle threads must not spin: the decoder runs on the same cores.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    # FP8 weights are restored once, when the session loads, and not fused into kernels that do not know e4m3.
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    add_weights(options, model, weights)
    try:
        return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    except _LOAD_ERRORS:
        raise ArtefactError(
            "E-ARTEFACT-GRAPH", "ONNX Runtime cannot load vision.onnx.", "Run nvlm-trt build again."
        ) from None


def add_weights(
    options: onnxruntime.SessionOptions, model: onnx.ModelProto, weights: Mapping[str, NDArray[Any]]
) -> None:
    """Hand the session ``weights`` for the graph's external initializers: views, no copies.

    Types that numpy has no name for, bfloat16 and e4m3, go as bare codes.
    """
    declared = parameters(model)
    values = [
        onnxruntime.OrtValue.ortvalue_from_numpy_with_onnx_type(
            array.view(_CODES.get(array.dtype.itemsize, array.dtype)), declared[name].data_type
        )
        for name, array in weights.items()
    ]
    options.add_external_initializers(list(weights), values)
