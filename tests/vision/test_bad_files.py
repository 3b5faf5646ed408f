"""Vision folders and checkpoints that are not what was exported: refused by name, before anything is computed."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from nvlm_trt.checkpoint.base import Checkpoint
from nvlm_trt.errors import ArtefactError, CheckpointError
from nvlm_trt.model.config import VisionConfig
from nvlm_trt.vision.artefact import read_graph, set_checkpoint_fingerprint, write_artefact
from nvlm_trt.vision.graph import vision_graph
from nvlm_trt.vision.onnxruntime_engine import OnnxRuntimeEngine
from nvlm_trt.vision.weights import map_weights


@pytest.mark.parametrize(
    "change",
    [
        lambda config: dataclasses.replace(config, num_layers=3),
        lambda config: dataclasses.replace(config, num_layers=5),
        lambda config: dataclasses.replace(config, intermediate_size=320),
        lambda config: dataclasses.replace(config, output_size=128),
        lambda config: dataclasses.replace(config, image_size=140),
    ],
    ids=["fewer layers", "more layers", "narrower MLP", "narrower rows", "larger tiles"],
)
def test_a_graph_of_another_config_is_refused_even_under_the_checkpoints_name(
    vision_folder: Path, checkpoint: Checkpoint, change: Callable[[VisionConfig], VisionConfig]
):
    model = vision_graph(change(checkpoint.config.vision))
    set_checkpoint_fingerprint(model, checkpoint.fingerprint())
    write_artefact(vision_folder, "vision.onnx", model.SerializeToString())
    with pytest.raises(ArtefactError, match="E-ARTEFACT-WEIGHTS"):
        OnnxRuntimeEngine(vision_folder, checkpoint.root, 1, threads=1)


def longer(data: bytes) -> bytes:
    return data + b"\0"


def empty(_data: bytes) -> bytes:
    return b""


def header_only(data: bytes) -> bytes:
    return data[: 8 + int.from_bytes(data[:8], "little")]


def header_too_long(data: bytes) -> bytes:
    return b"\xff" * 8 + data[8:]


def other_dtype(data: bytes) -> bytes:
    """Sixteen bits under another name: sizes still fit."""
    return data.replace(b'"BF16"', b'"F16" ', 1)


def renamed(data: bytes) -> bytes:
    return data.replace(b"attn.qkv", b"attn.qvk", 1)


def other_shape(data: bytes) -> bytes:
    """The same number of elements, transposed."""
    assert b"[480,160]" in data
    return data.replace(b"[480,160]", b"[160,480]", 1)


@pytest.mark.parametrize("alter", [longer, empty, header_only, header_too_long, other_dtype, renamed, other_shape])
def test_an_altered_side_file_is_refused(vision_folder: Path, small_checkpoint: Path, alter: Callable[[bytes], bytes]):
    file = vision_folder / "weights.safetensors"
    file.write_bytes(alter(file.read_bytes()))
    with pytest.raises(ArtefactError, match="E-ARTEFACT-WEIGHTS") as caught:
        map_weights(read_graph(vision_folder), vision_folder, small_checkpoint)
    assert str(vision_folder) not in str(caught.value)


@pytest.mark.parametrize("damage", [lambda shard: shard.unlink(), lambda shard: shard.write_bytes(b"\0" * 64)])
def test_a_checkpoint_without_its_shard_is_refused(
    exported: Path, small_checkpoint: Path, tmp_path: Path, damage: Callable[[Path], object]
):
    copy = Path(shutil.copytree(small_checkpoint, tmp_path / "copy"))
    damage(max(copy.glob("*.safetensors")))
    with pytest.raises((ArtefactError, CheckpointError)) as caught:
        OnnxRuntimeEngine(exported, copy, 1, threads=1)
    assert caught.value.code.startswith(("E-CKPT-", "E-ARTEFACT-"))
    assert str(tmp_path) not in str(caught.value)
