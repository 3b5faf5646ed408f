"""A vision graph cut into its stages, each run alone in ONNX Runtime.

To judge an export, the file itself is cut; FP8's scales are found before there is one. A graph's scopes are the stages:
``embeddings``, ``layers.0`` and so on, ``pixel_shuffle``, ``projector``. Each takes only the output of the one before,
so each is a graph of its own. Loaded, run and released one after the other, a tower of 27 GB in float32 runs on a
machine that could not hold it, and every layer's output can be inspected.

A stage runs tile by tile: 1025 rows fill the cores, one tile's attention weights are 105 MB at the release's size, and
a tile's rows have the same bits whichever tiles are beside it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from nvlm_trt.vision.artefact import read_graph
from nvlm_trt.vision.graph import INPUT, parameters
from nvlm_trt.vision.onnxruntime_engine import check_rows, open_session
from nvlm_trt.vision.weights import map_weights
from nvlm_trt.vision.widen import widen

__all__ = ["cut_stages", "encode_in_stages", "run_stages"]

_SINGLE = ("embeddings", "pixel_shuffle", "projector")


def run_stages(
    vision_folder: Path, checkpoint_folder: Path, tiles: NDArray[np.uint8], *, threads: int | None = None
) -> Iterator[tuple[str, NDArray[np.float32]]]:
    """Each stage's name and what it gives for ``tiles``, UINT8 [n, S, S, 3], in float32 [n, ...].

    Raises ``ArtefactError`` as ``OnnxRuntimeEngine`` does where the folder or its weights cannot be used.
    """
    model = read_graph(vision_folder)
    weights = map_weights(model, vision_folder, checkpoint_folder)
    hidden: NDArray[Any] = tiles
    for name, stage in cut_stages(widen(model)):
        session = open_session(stage, {key: weights[key] for key in parameters(stage)}, threads)
        takes = stage.graph.input[0].name
        hidden = np.concatenate([session.run(None, {takes: hidden[i : i + 1]})[0] for i in range(len(hidden))])
        del session
        yield name, hidden


def encode_in_stages(
    vision_folder: Path, checkpoint_folder: Path, tiles: NDArray[np.uint8], *, threads: int | None = None
) -> NDArray[np.float32]:
    """What an engine makes of the tiles, [n, tokens_per_tile, output_size], holding the weights of one stage at a time.

    Raises ``ArtefactError`` as ``run_stages``, and E-ENGINE-NAN when the weights make rows that are not numbers.
    """
    rows = deque(run_stages(vision_folder, checkpoint_folder, tiles, threads=threads), maxlen=1)[0][1]
    check_rows(rows)
    return rows


def cut_stages(model: onnx.ModelProto) -> Iterator[tuple[str, onnx.ModelProto]]:
    """The stages of a graph that computes in float32, in order."""
    # What lies outside all stages: the casts that widen weights, each needed where its output is read.
    outside = {node.output[0]: node for node in model.graph.node if not _stage(node)}
    given, given_type = INPUT, TensorProto.UINT8
    for name, group in groupby((node for node in model.graph.node if _stage(node)), key=_stage):
        nodes = list(group)
        read = {value for node in nodes for value in node.input}
        nodes = [node for value, node in outside.items() if value in read] + nodes
        read |= {value for node in nodes for value in node.input}
        result = nodes[-1].output[0]
        takes = helper.make_tensor_value_info(given, given_type, None)
        gives = helper.make_tensor_value_info(result, TensorProto.FLOAT, None)
        kept = [tensor for tensor in model.graph.initializer if tensor.name in read]
        graph = helper.make_graph(nodes, name, [takes], [gives], kept)
        yield name, helper.make_model(graph, opset_imports=model.opset_import, ir_version=model.ir_version)
        given, given_type = result, TensorProto.FLOAT


def _stage(node: onnx.NodeProto) -> str:
    """The outermost scope of a node that was written in one, else nothing."""
    scope, inside, _ = str(node.name).partition("/")
    return scope if inside and (scope in _SINGLE or scope.startswith("layers.")) else ""
