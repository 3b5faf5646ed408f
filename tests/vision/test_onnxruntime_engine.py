from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from nvlm_trt.checkpoint.safetensors_file import SafetensorsFile
from nvlm_trt.checkpoint.safetensors_writer import TensorSpec, write_safetensors
from nvlm_trt.errors import ArtefactError, RequestError
from nvlm_trt.vision.artefact import read_graph, write_artefact
from nvlm_trt.vision.onnxruntime_engine import OnnxRuntimeEngine


def test_the_engine_says_its_sizes(engine: OnnxRuntimeEngine):
    assert engine.tile_shape == (112, 112, 3)
    assert (engine.max_tiles, engine.tokens_per_tile, engine.output_size) == (7, 16, 256)


def test_the_same_tiles_give_the_same_bits(
    engine: OnnxRuntimeEngine, exported: Path, small_checkpoint: Path, random_tiles: NDArray[np.uint8]
):
    again = OnnxRuntimeEngine(exported, small_checkpoint, 7, threads=1)
    rows = engine.encode(random_tiles)
    assert rows.dtype == np.float32
    assert rows.tobytes() == engine.encode(random_tiles).tobytes() == again.encode(random_tiles).tobytes()


def test_a_tile_does_not_depend_on_its_neighbours(engine: OnnxRuntimeEngine, random_tiles: NDArray[np.uint8]):
    together = engine.encode(random_tiles)
    alone = np.concatenate([engine.encode(random_tiles[index : index + 1]) for index in range(7)])
    np.testing.assert_allclose(together, alone, rtol=0, atol=1e-5 * float(np.abs(alone).max()))


def test_tiles_in_any_memory_order_are_read_alike(engine: OnnxRuntimeEngine, random_tiles: NDArray[np.uint8]):
    assert engine.encode(random_tiles[::2]).tobytes() == engine.encode(random_tiles[::2].copy()).tobytes()


@pytest.mark.parametrize(
    ("tiles", "seen"),
    [
        (np.zeros((0, 112, 112, 3), np.uint8), "uint8 [0, 112, 112, 3]"),
        (np.zeros((8, 112, 112, 3), np.uint8), "uint8 [8, 112, 112, 3]"),
        (np.zeros((1, 112, 112, 4), np.uint8), "uint8 [1, 112, 112, 4]"),
        (np.zeros((1, 448, 448, 3), np.uint8), "uint8 [1, 448, 448, 3]"),
        (np.zeros((112, 112, 3), np.uint8), "uint8 [112, 112, 3]"),
        (np.zeros((), np.uint8), "uint8 []"),
        (np.zeros((1, 112, 112, 3), np.float32), "float32 [1, 112, 112, 3]"),
        (np.zeros((1, 112, 112, 3), np.int8), "int8 [1, 112, 112, 3]"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_other_tiles_are_refused_and_hurt_nobody(
    engine: OnnxRuntimeEngine, random_tiles: NDArray[np.uint8], tiles: NDArray[Any], seen: str
):
    with pytest.raises(RequestError) as caught:
        engine.encode(tiles)
    assert caught.value.code == "E-IMAGE-TILES"
    assert seen in caught.value.what
    assert "uint8 [1..7, 112, 112, 3]" in caught.value.what
    assert engine.encode(random_tiles[:1]).shape == (1, 16, 256)


def test_weights_that_are_not_numbers_do_not_reach_an_answer(
    vision_folder: Path, small_checkpoint: Path, random_tiles: NDArray[np.uint8]
):
    side = SafetensorsFile(vision_folder / "weights.safetensors")
    specs = [TensorSpec(name, side.info(name).dtype, side.info(name).shape) for name in side.names()]
    arrays = {name: np.array(side.read(name)) for name in side.names()}
    arrays["vision_model.encoder.layers.2.attn.proj.weight"][3, 4] = np.nan
    write_safetensors(vision_folder / "weights.safetensors", specs, arrays.__getitem__)
    engine = OnnxRuntimeEngine(vision_folder, small_checkpoint, 7, threads=1)
    with pytest.raises(ArtefactError, match="E-ENGINE-NAN"):
        engine.encode(random_tiles)


def test_a_graph_no_session_can_load_is_refused_in_our_words(vision_folder: Path, small_checkpoint: Path):
    model = read_graph(vision_folder)
    model.graph.node[5].op_type = "NoSuchOperator"
    write_artefact(vision_folder, "vision.onnx", model.SerializeToString())
    with pytest.raises(ArtefactError) as caught:
        OnnxRuntimeEngine(vision_folder, small_checkpoint, 7, threads=1)
    assert str(caught.value) == ("E-ARTEFACT-GRAPH: ONNX Runtime cannot load vision.onnx. Run nvlm-trt build again.")
