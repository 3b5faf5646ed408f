"""Every shipped recipe on one checkpoint that all of them can cut: what needs no GPU, twice, byte for byte."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import onnx
import pytest

from nvlm_trt.checkpoint.registry import open_checkpoint
from nvlm_trt.checkpoint.synthetic import SIZES, write_checkpoint
from nvlm_trt.errors import UsageError
from nvlm_trt.pipeline.builder import build
from nvlm_trt.pipeline.manifest import load_manifest
from nvlm_trt.pipeline.recipe_file import recipe_names
from nvlm_trt.pipeline.verification import verify
from nvlm_trt.plan.calibration_size import CalibrationSize
from nvlm_trt.plan.cost import Rates, build_costs
from nvlm_trt.plan.resolve import load_recipe
from nvlm_trt.vision.artefact import read_graph
from nvlm_trt.vision.weights import map_weights
from tests.pipeline.test_real_build import changed_recipe
from tests.pipeline.toys import snapshot


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As the small one, but with eight key-value heads."""
    folder = tmp_path_factory.mktemp("eight") / "checkpoint"
    small = SIZES["small"]
    write_checkpoint(folder, dataclasses.replace(small, heads=8, kv_heads=8), 0, 3)
    return folder


def test_the_same_bytes_whatever_was_built_there_before(checkpoint: Path, tmp_path: Path) -> None:
    """Each recipe twice: in one folder in one order, in another in the reverse."""
    forth = {name: built_next(checkpoint, name, tmp_path / "forth") for name in recipe_names()}
    back = {name: built_next(checkpoint, name, tmp_path / "back") for name in reversed(recipe_names())}
    assert forth == back
    for name, files in forth.items():
        ranks = {file for file in files if file.startswith("decoder/checkpoint/rank")}
        assert ranks == {f"decoder/checkpoint/rank{rank}.safetensors" for rank in range(_RANKS[name])}


_RANKS = {"embedded": 1, "h200x1-fp8": 1, "h100x2-fp8": 2, "h100x4-fp8": 4, "h100x8-fp8": 8, "h200x8-fp8": 8}


def built_next(checkpoint: Path, name: str, out: Path) -> dict[str, bytes]:
    """Without the steps that need a GPU."""
    for step in ("decoder.checkpoint", "triton.repository"):
        build(checkpoint, name, out, until=step)
    assert verify(out).faults == ()
    return snapshot(out)


def built_with(checkpoint: Path, tmp_path: Path, old: str, new: str) -> dict[str, bytes]:
    recipe = changed_recipe("h100x4-fp8", tmp_path / "own.toml", old, new)
    build(checkpoint, recipe, tmp_path / "out", until="decoder.checkpoint")
    return snapshot(tmp_path / "out")


def test_pipeline_stages(checkpoint: Path, tmp_path: Path) -> None:
    files = built_with(checkpoint, tmp_path, "[decoder]", "[decoder]\npp = 2")
    assert b'"pp_size": 2' in files["decoder/checkpoint/config.json"]
    assert b'"tp_size": 2' in files["decoder/checkpoint/config.json"]
    assert "decoder/checkpoint/rank3.safetensors" in files


def test_no_quantisation_needs_no_calibration(checkpoint: Path, tmp_path: Path) -> None:
    files = built_with(checkpoint, tmp_path, "[decoder]", '[decoder]\nquantization = "none"')
    assert "decoder/calibration.json" not in files
    manifest = load_manifest(tmp_path / "out")
    assert manifest is not None
    assert set(manifest.steps) == {"inspect", "decoder.checkpoint"}


def test_exclusions_an_fp8_cache_a_bound_and_the_unified_form(checkpoint: Path, tmp_path: Path) -> None:
    extra = 'exclude = ["*.layers.0.mlp.*"]\nkv_cache = "fp8"\nforce_kv_cache = true\nunified_checkpoint = true'
    recipe = changed_recipe("h100x4-fp8", tmp_path / "own.toml", "[decoder]", f"[decoder]\n{extra}")
    text = Path(recipe).read_text(encoding="utf-8")
    Path(recipe).write_text(
        f"{text}\n[calibration]\nmethod = 'percentile:99.9'\nerror_bound = 0.5\nset = 'my set.jsonl'\n"
    )
    (tmp_path / "my set.jsonl").write_text('{"prompt": "What is this?"}\n')
    for step in ("decoder.checkpoint", "decoder.unified", "decoder.sensitivity"):
        build(checkpoint, recipe, tmp_path / "out", until=step)
    files = snapshot(tmp_path / "out")
    assert b"transformer.layers.0.mlp.fc" in files["decoder/checkpoint/config.json"]
    assert b'"kv_cache_quant_algo": "FP8"' in files["decoder/checkpoint/config.json"]
    assert b'"method": "percentile:99.9"' in files["decoder/calibration.json"]
    wanted = {
        "decoder/kv_cache.json",
        "decoder/sensitivity.json",
        "decoder/exclude.json",
        "decoder/unified/config.json",
    }
    assert wanted <= set(files)
    assert b'"num_samples": 1' in files["decoder/calibration.json"]
    config = open_checkpoint(checkpoint).config
    costs = build_costs(config, load_recipe(recipe, config), CalibrationSize(0, 0), Rates())
    planned = next(cost.writes_bytes for cost in costs if cost.step == "decoder.unified")
    unified = sum(len(data) for name, data in files.items() if name.startswith("decoder/unified/model-"))
    assert planned <= unified <= planned + 40_000
    assert verify(tmp_path / "out").faults == ()
    (tmp_path / "my set.jsonl").write_text('{"prompt": "What is that?"}\n')
    dry = build(checkpoint, recipe, tmp_path / "out", until="decoder.calibration", dry_run=True)
    assert [report.step for report in dry.steps if report.outcome == "would build"] == ["decoder.calibration"]


FP8_VISION = 'engine = "tensorrt"\nquantization = "fp8"\nexclude = ["mlp1.*", "*.layers.0.attn.proj"]'


def test_fp8_in_the_vision_half(checkpoint: Path, tmp_path: Path) -> None:
    recipe = changed_recipe("h100x4-fp8", tmp_path / "own.toml", 'engine = "tensorrt"', FP8_VISION)
    out = tmp_path / "out"
    told = build(checkpoint, recipe, out, until="vision.onnx")
    assert [report.step for report in told.steps] == ["vision.calibration", "vision.onnx"]
    tensors = {
        tensor.name: tensor.data_type
        for tensor in onnx.load(out / "vision/vision.onnx", load_external_data=False).graph.initializer
    }
    in_fp8 = {
        name for name, kind in tensors.items() if kind == onnx.TensorProto.FLOAT8E4M3FN and name.endswith(".weight")
    }
    assert len(in_fp8) == 4 * 4 - 1
    assert "vision_model.encoder.layers.0.attn.proj.weight" not in in_fp8
    assert parses_in_tensorrt(out / "vision", checkpoint)
    config = open_checkpoint(checkpoint).config
    costs = {
        cost.step: cost for cost in build_costs(config, load_recipe(recipe, config), CalibrationSize(0, 0), Rates())
    }
    size = (out / "vision" / "weights.safetensors").stat().st_size
    assert costs["vision.onnx"].writes_bytes <= size <= costs["vision.onnx"].writes_bytes + 40_000
    again = build(checkpoint, recipe, out, until="vision.onnx")
    assert {report.outcome for report in again.steps} == {"kept"}
    # The decoder is calibrated on the rows that it will be given.
    build(checkpoint, recipe, out, until="decoder.calibration")
    assert verify(out).faults == ()
    off = changed_recipe("h100x4-fp8", tmp_path / "off.toml", "[vision]", "[vision]")
    dry = build(checkpoint, off, out, until="decoder.calibration", dry_run=True)
    assert [report.step for report in dry.steps if report.outcome == "would build"] == [
        "vision.onnx",
        "decoder.calibration",
    ]


def test_fp8_in_the_vision_half_needs_pictures(checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "text.jsonl").write_text('{"prompt": "What is this?"}\n')
    recipe = changed_recipe("h100x4-fp8", tmp_path / "own.toml", 'engine = "tensorrt"', FP8_VISION)
    with Path(recipe).open("a", encoding="utf-8") as file:
        file.write("\n[calibration]\nset = 'text.jsonl'\n")
    with pytest.raises(UsageError, match=r"E-USAGE-CALIBRATION.*no pictures"):
        build(checkpoint, recipe, tmp_path / "out", until="vision.onnx")


def parses_in_tensorrt(vision_folder: Path, checkpoint: Path) -> bool:
    """Whether the real parser takes graph and weights, strongly typed."""
    import tensorrt_rtx as trt

    model = read_graph(vision_folder)
    weights = map_weights(model, vision_folder, checkpoint)
    logger = trt.Logger(trt.Logger.ERROR)
    builder = trt.Builder(logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    assert parser.load_model_proto(model.SerializeToString())
    assert all(parser.load_initializer(name, array.ctypes.data, array.nbytes) for name, array in weights.items())
    return bool(parser.parse_model_proto())
