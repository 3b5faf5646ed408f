from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from nvlm_trt.checkpoint.base import Checkpoint
from nvlm_trt.checkpoint.synthetic import SIZES, CheckpointSize, write_checkpoint
from nvlm_trt.errors import ArtefactError, CheckpointError
from nvlm_trt.vision.artefact import read_graph
from nvlm_trt.vision.graph import parameters
from nvlm_trt.vision.weights import map_weights


def test_every_weight_is_a_read_only_view_of_the_declared_shape(exported: Path, checkpoint: Checkpoint):
    model = read_graph(exported)
    weights = map_weights(model, exported, checkpoint.root)
    declared = parameters(model)
    assert {name: array.shape for name, array in weights.items()} == {n: tuple(t.dims) for n, t in declared.items()}
    assert not any(array.flags.writeable or array.flags.owndata for array in weights.values())
    np.testing.assert_array_equal(weights["mlp1.1.weight"], checkpoint.read("mlp1.1.weight"))


def remove_side(folder: Path) -> None:
    (folder / "weights.safetensors").unlink()


def shorten_side(folder: Path) -> None:
    file = folder / "weights.safetensors"
    file.write_bytes(file.read_bytes()[:-1])


def garble_index(folder: Path) -> None:
    (folder / "weights.json").write_text("[1")


def list_index(folder: Path) -> None:
    (folder / "weights.json").write_text("[]")


def change_index(change: Callable[[dict[str, object]], object]) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        index = json.loads((folder / "weights.json").read_text())
        change(index)
        (folder / "weights.json").write_text(json.dumps(index))

    return spoil


@pytest.mark.parametrize(
    "spoil",
    [
        remove_side,
        shorten_side,
        garble_index,
        list_index,
        pytest.param(change_index(lambda index: index.pop("mlp1.0.bias")), id="a weight is not listed"),
        pytest.param(change_index(lambda index: index.update({"more": {"file": "side"}})), id="one too many"),
        pytest.param(change_index(lambda index: index.update({"mlp1.0.bias": {"file": "side"}})), id="not there"),
        pytest.param(change_index(lambda index: index.update({"mlp1.0.bias": {"file": "../x"}})), id="elsewhere"),
        pytest.param(change_index(lambda index: index.update({"mlp1.0.bias": {}})), id="nowhere"),
        pytest.param(
            change_index(
                lambda index: index.update({"vision_model.encoder.layers.0.attn.qkv.weight": {"file": "checkpoint"}})
            ),
            id="another shape",
        ),
    ],
)
def test_weights_that_are_not_what_was_written_are_refused(
    vision_folder: Path, small_checkpoint: Path, spoil: Callable[[Path], None]
):
    spoil(vision_folder)
    with pytest.raises(ArtefactError, match="E-ARTEFACT-WEIGHTS") as caught:
        map_weights(read_graph(vision_folder), vision_folder, small_checkpoint)
    assert str(vision_folder) not in str(caught.value)


@pytest.mark.parametrize(
    ("size", "seed"), [(dataclasses.replace(SIZES["small"], vision_layers=2), 0), (SIZES["small"], 1)]
)
def test_a_graph_of_another_checkpoint_is_refused(exported: Path, tmp_path: Path, size: CheckpointSize, seed: int):
    """Also where all shapes fit and only the values differ."""
    write_checkpoint(tmp_path / "other", size, seed=seed)
    with pytest.raises(ArtefactError, match="E-ARTEFACT-CHECKPOINT"):
        map_weights(read_graph(exported), exported, tmp_path / "other")


def test_a_graph_that_does_not_say_its_checkpoint_is_refused(exported: Path, small_checkpoint: Path):
    model = read_graph(exported)
    del model.metadata_props[:]
    with pytest.raises(ArtefactError, match="E-ARTEFACT-CHECKPOINT"):
        map_weights(model, exported, small_checkpoint)


def test_a_missing_index_and_a_missing_checkpoint_are_named(
    vision_folder: Path, small_checkpoint: Path, tmp_path: Path
):
    with pytest.raises(CheckpointError, match="E-CKPT-FOLDER"):
        map_weights(read_graph(vision_folder), vision_folder, tmp_path / "nowhere")
    (vision_folder / "weights.json").unlink()
    with pytest.raises(ArtefactError, match=r"E-ARTEFACT-MISSING.*weights\.json"):
        map_weights(read_graph(vision_folder), vision_folder, small_checkpoint)


def test_a_checkpoint_may_be_moved(exported: Path, small_checkpoint: Path, tmp_path: Path):
    shutil.copytree(small_checkpoint, tmp_path / "else where")
    model = read_graph(exported)
    here, there = (map_weights(model, exported, folder) for folder in (small_checkpoint, tmp_path / "else where"))
    assert all(np.array_equal(here[name], there[name]) for name in here)
