"""What is built from a Megatron-Core checkpoint, compared with what the release's layout of the same weights gives."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner

from nvlm_trt.checkpoint.base import Checkpoint
from nvlm_trt.checkpoint.registry import open_checkpoint
from nvlm_trt.cli import main
from nvlm_trt.decoder.calibration import calibrate
from nvlm_trt.decoder.trtllm_checkpoint import write_trtllm_checkpoint
from nvlm_trt.pipeline.builder import build
from nvlm_trt.pipeline.manifest import load_manifest
from nvlm_trt.vision.artefact import read_graph
from nvlm_trt.vision.export import export_vision
from nvlm_trt.vision.onnxruntime_engine import OnnxRuntimeEngine
from nvlm_trt.vision.weights import map_weights
from tests.checkpoint.megatron_writer import write_megatron


def epsilons(model: onnx.ModelProto) -> list[float]:
    """The epsilon of the one LayerNormalization, the projector's, which the layouts differ in; it is set to 1e-5."""
    found = [a for node in model.graph.node if node.op_type == "LayerNormalization" for a in node.attribute]
    values = [attribute.f for attribute in found if attribute.name == "epsilon"]
    for attribute in found:
        if attribute.name == "epsilon":
            attribute.f = 1e-5
    return values


@pytest.mark.parametrize("tp", [1, 2])
def test_the_vision_graph_differs_in_the_projectors_epsilon_alone(original: Checkpoint, tmp_path: Path, tp: int):
    megatron = open_checkpoint(write_megatron(original, tmp_path / "megatron", tp=tp, pp=1))
    exports = {"release": export_vision(original, tmp_path / "a"), "megatron": export_vision(megatron, tmp_path / "b")}
    ours, theirs = read_graph(tmp_path / "b"), read_graph(tmp_path / "a")
    mapped = map_weights(ours, tmp_path / "b", megatron.root)
    wanted = map_weights(theirs, tmp_path / "a", original.root)
    assert mapped.keys() == wanted.keys()
    for name, array in mapped.items():
        assert array.tobytes() == wanted[name].tobytes(), name

    index = json.loads((tmp_path / "b" / "weights.json").read_text())
    in_parts = [name for name in index if tp > 1 or name.endswith(".attn.qkv.weight")]
    assert {name for name in in_parts if index[name]["file"] != "side"} == set()
    assert (exports["megatron"].num_pointed == 0) == (tp > 1)
    assert exports["megatron"].rounded == ()

    assert epsilons(ours) == pytest.approx([1e-6])
    assert epsilons(theirs) == pytest.approx([1e-5])
    for model in (ours, theirs):
        for tensor in model.graph.initializer:
            del tensor.external_data[:]
        del model.metadata_props[:]
    assert ours.SerializeToString(deterministic=True) == theirs.SerializeToString(deterministic=True)


def test_any_onnx_tool_reads_the_graph_beside_a_lone_rank(original: Checkpoint, tmp_path: Path):
    megatron = open_checkpoint(write_megatron(original, tmp_path, tp=1, pp=1))
    folder = tmp_path / "iter_0031500" / "mp_rank_00"
    export_vision(megatron, folder)
    onnx.checker.check_model(str(folder / "vision.onnx"), full_check=True)
    model = onnx.load(str(folder / "vision.onnx"))
    name = "vision_model.encoder.layers.1.mlp.fc2.weight"
    tensor = next(tensor for tensor in model.graph.initializer if tensor.name == name)
    assert tensor.raw_data == megatron.read(name).tobytes()


def test_both_layouts_see_the_same_picture_but_for_the_epsilon(original: Checkpoint, tmp_path: Path):
    megatron = open_checkpoint(write_megatron(original, tmp_path / "megatron", tp=2, pp=2))
    side = original.config.vision.image_size
    tiles = np.random.default_rng(0).integers(0, 256, (2, side, side, 3), dtype=np.uint8)
    rows = []
    for name, checkpoint in (("a", original), ("b", megatron)):
        export_vision(checkpoint, tmp_path / name)
        engine = OnnxRuntimeEngine(tmp_path / name, checkpoint.root, 2, threads=1)
        rows.append(engine.encode(tiles))
        engine.close()
    assert not np.array_equal(rows[0], rows[1])
    np.testing.assert_allclose(rows[0], rows[1], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(("tp", "pp"), [(1, 1), (2, 4), (8, 1)])
def test_the_decoder_checkpoint_has_the_same_bytes(original: Checkpoint, tmp_path: Path, tp: int, pp: int):
    megatron = open_checkpoint(write_megatron(original, tmp_path / "megatron", tp=tp, pp=pp))
    hidden = original.config.decoder.hidden_size
    samples = [np.random.default_rng(0).standard_normal((9, hidden), dtype=np.float32)]
    calibrations = [calibrate(checkpoint, samples) for checkpoint in (original, megatron)]
    assert calibrations[0] == calibrations[1]
    for name, checkpoint in (("a", original), ("b", megatron)):
        write_trtllm_checkpoint(checkpoint, calibrations[0], tmp_path / name, tp=2)
    files = sorted(file.name for file in (tmp_path / "a").iterdir())
    assert files == ["config.json", "rank0.safetensors", "rank1.safetensors"]
    for file in files:
        assert (tmp_path / "b" / file).read_bytes() == (tmp_path / "a" / file).read_bytes()


def test_a_whole_build_knows_the_ranks_files_apart(original: Checkpoint, tmp_path: Path):
    folder = write_megatron(original, tmp_path / "megatron", tp=2, pp=2)
    result = build(folder, "embedded", tmp_path / "out")
    assert {report.outcome for report in result.steps} == {"built"}
    manifest = load_manifest(tmp_path / "out")
    assert manifest is not None
    ranks = [
        f"checkpoint:iter_0031500/mp_rank_0{tensor}_00{pipeline}/model_optim_rng.pt"
        for tensor in (0, 1)
        for pipeline in (0, 1)
    ]
    inputs = manifest.steps["vision.onnx"].inputs
    assert [name for name in sorted(inputs) if "mp_rank" in name] == ranks
    assert len({inputs[name] for name in ranks}) == 4
    assert sum("mp_rank" in name for name in manifest.steps["decoder.checkpoint"].inputs) == 4
    again = build(folder, "embedded", tmp_path / "out")
    assert "built" not in {report.outcome for report in again.steps}


def test_inspect_says_what_it_holds(original: Checkpoint, tmp_path: Path):
    folder = write_megatron(original, tmp_path / "megatron", tp=2, pp=2)
    result = CliRunner().invoke(main, ["inspect", str(folder), "--json"], catch_exceptions=False)
    told = json.loads(result.stdout)
    assert (told["tensors"], told["shards"]) == (len(original.names()), 4)
    assert list(told["dtypes"]) == ["BF16"]
