"""Builds of the small checkpoint with the real steps."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

from nvlm_trt.checkpoint.registry import open_checkpoint
from nvlm_trt.checkpoint.synthetic import SIZES, write_checkpoint
from nvlm_trt.cli import main
from nvlm_trt.errors import CheckpointError
from nvlm_trt.pipeline.builder import build
from nvlm_trt.pipeline.deployment import open_deployment
from nvlm_trt.pipeline.manifest import load_manifest
from nvlm_trt.plan.calibration_size import CalibrationSize
from nvlm_trt.plan.cost import Rates, build_costs
from nvlm_trt.plan.resolve import load_recipe
from nvlm_trt.resources import resource_folder
from nvlm_trt.vision.artefact import checkpoint_fingerprint, read_graph
from tests.pipeline.toys import snapshot

ROOT = Path(__file__).parents[2]
EMBEDDED_STEPS = ["inspect", "vision.onnx", "decoder.calibration", "decoder.checkpoint", "triton.repository"]
GPU_STEPS = ["vision.engine", "decoder.engine"]


def changed_recipe(name: str, file: Path, old: str, new: str) -> str:
    text = (resource_folder("recipes") / f"{name}.toml").read_text(encoding="utf-8")
    assert old in text
    file.write_text(text.replace(old, new), encoding="utf-8")
    return str(file)


def test_everything_that_was_promised_is_there(built: Path, small_checkpoint: Path) -> None:
    manifest = load_manifest(built)
    assert manifest is not None
    assert list(manifest.steps) == sorted(EMBEDDED_STEPS)
    for file in ("vision/vision.onnx", "decoder/checkpoint/rank0.safetensors", "triton_repo/ensemble/config.pbtxt"):
        assert (built / file).is_file()
    assert set(manifest.files("")) == set(snapshot(built)) - {"manifest.json"}
    deployment = open_deployment(built)
    assert deployment.checkpoint == small_checkpoint.resolve()
    assert deployment.recipe.name == "embedded"


def test_nothing_but_the_manifest_names_a_place(built: Path, small_checkpoint: Path) -> None:
    for name, data in snapshot(built).items():
        assert str(built).encode() not in data, name
        assert name == "manifest.json" or str(small_checkpoint).encode() not in data, name


@pytest.mark.parametrize("changed", ["index", "shard"])
def test_a_graph_knows_its_checkpoint_after_files_without_its_weights_changed(tmp_path: Path, changed: str) -> None:
    checkpoint, out = tmp_path / "checkpoint", tmp_path / "out"
    write_checkpoint(checkpoint, SIZES["small"], 0, 3)
    build(checkpoint, "embedded", out, until="vision.onnx")
    if changed == "index":
        file = checkpoint / "model.safetensors.index.json"
        file.write_bytes(file.read_bytes() + b"\n")
    else:
        opened = open_checkpoint(checkpoint)
        place = opened.info("language_model.model.layers.1.mlp.up_proj.weight").place
        assert place is not None
        beside = {name for name in opened.names() if opened.files(name) == (place.file,)}
        assert all(name.startswith("language_model.") for name in beside)
        data = bytearray(place.file.read_bytes())
        data[place.offset] ^= 1
        place.file.write_bytes(data)
    build(checkpoint, "embedded", out, until="vision.onnx")
    assert checkpoint_fingerprint(read_graph(out / "vision")) == open_checkpoint(checkpoint).fingerprint()


def test_a_model_that_no_prompt_can_be_made_for_is_refused_by_the_first_step(tmp_path: Path) -> None:
    checkpoint, file = tmp_path / "checkpoint", tmp_path / "checkpoint" / "config.json"
    write_checkpoint(checkpoint, SIZES["small"], 0, 1)
    config = json.loads(file.read_text(encoding="utf-8"))
    file.write_text(json.dumps(config | {"use_thumbnail": False}), encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"E-CONFIG-VALUE.*use_thumbnail"):
        build(checkpoint, "embedded", tmp_path / "out", until="inspect")


def test_building_twice_gives_the_same_bytes(built: Path, small_checkpoint: Path, tmp_path: Path) -> None:
    build(small_checkpoint, "embedded", tmp_path / "again")
    assert snapshot(tmp_path / "again") == snapshot(built)


def test_only_the_batch_size_changed(small_checkpoint: Path, out_of_built: Path, tmp_path: Path) -> None:
    recipe = changed_recipe("embedded", tmp_path / "other.toml", "max_batch_size = 32", "max_batch_size = 4")
    result = build(small_checkpoint, recipe, out_of_built)
    assert [report.step for report in result.steps if report.outcome == "built"] == ["triton.repository"]


def test_bytes_are_as_planned(built: Path, small_checkpoint: Path) -> None:
    manifest = load_manifest(built)
    assert manifest is not None
    config = open_checkpoint(small_checkpoint).config
    for cost in build_costs(config, load_recipe("embedded", config), CalibrationSize(0, 0), Rates()):
        entry = manifest.steps[cost.step]
        names = [name for name in entry.outputs if name.endswith(".safetensors")]
        written = sum(entry.outputs[name].size for name in names)
        # Headers and padding come on top.
        assert cost.writes_bytes <= written <= cost.writes_bytes + 40_000 * len(names), cost.step


def test_a_production_recipe_builds_what_it_can_and_lists_the_rest(small_checkpoint: Path, tmp_path: Path) -> None:
    recipe = changed_recipe("h200x1-fp8", tmp_path / "h.toml", "count = 1", "count = 2")
    arguments = ["build", str(small_checkpoint), "--recipe", recipe, "-o", str(tmp_path / "out")]
    result = CliRunner().invoke(main, [*arguments, "--json"], catch_exceptions=False)
    assert result.exit_code == 0
    told = json.loads(result.stdout)
    assert [step["step"] for step in told["steps"] if step["outcome"] == "left"] == GPU_STEPS
    assert not told["complete"]
    engine = next(step for step in told["steps"] if step["step"] == "decoder.engine")
    assert engine["command"][:3] == ["trtllm-build", "--checkpoint_dir", "/deployment/decoder/checkpoint"]
    command = told["finish_command"]
    assert command[:2] == ["docker", "run"]
    assert f"{tmp_path / 'out'}:/deployment" in command
    assert f"{small_checkpoint}:/checkpoint:ro" in command
    assert f"{recipe}:{recipe}:ro" in command
    assert f"nvlm-trt build /checkpoint --recipe {recipe} -o /deployment" in command[-1]
    manifest = load_manifest(tmp_path / "out")
    assert manifest is not None
    assert set(manifest.steps) == set(EMBEDDED_STEPS)
    assert {"decoder/checkpoint/rank0.safetensors", "decoder/checkpoint/rank1.safetensors"} <= set(manifest.files(""))
    text = CliRunner().invoke(main, arguments, catch_exceptions=False).stdout
    assert "trtllm-build" in text
    assert "docker run" in text


def test_both_recipes_share_what_they_can(built: Path, small_checkpoint: Path, tmp_path: Path) -> None:
    """What was verified with the embedded engines is byte for byte what the GPU machine compiles."""
    build(small_checkpoint, "h200x1-fp8", tmp_path / "out")
    here, there = snapshot(built), snapshot(tmp_path / "out")
    shared = [name for name in here if name.startswith(("model/", "vision/", "decoder/"))]
    assert {name: there[name] for name in shared} == {name: here[name] for name in shared}


def start(checkpoint: Path, out: Path) -> subprocess.Popen[bytes]:
    arguments = ["build", str(checkpoint), "--recipe", "embedded", "-o", str(out), "--quiet"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen([sys.executable, "-m", "nvlm_trt", *arguments], env=environment, stdout=subprocess.PIPE)


def test_a_killed_build_goes_on_to_the_same_bytes(built: Path, small_checkpoint: Path, tmp_path: Path) -> None:
    """Kills land anywhere: before the folder exists, in a step, in a rename, in the manifest, after the end."""
    chance = random.Random(0)
    out = tmp_path / "out"
    for _ in range(5):
        process = start(small_checkpoint, out)
        deadline = time.monotonic() + 30
        while not out.exists() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.005)
        time.sleep(chance.uniform(0, 0.8))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        manifest = load_manifest(out)
        if manifest is not None:
            for name, entry in manifest.files("").items():
                assert (out / name).stat().st_size == entry.size
    process = start(small_checkpoint, out)
    process.communicate(timeout=60)
    assert process.returncode == 0
    assert snapshot(out) == snapshot(built)
    assert not list(out.rglob("*.partial"))


def test_interrupting_exits_130_and_cleans_up(small_checkpoint: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    process = start(small_checkpoint, out)
    while not (out / "manifest.json").exists() and process.poll() is None:
        time.sleep(0.005)
    process.send_signal(signal.SIGINT)
    stdout, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    assert stdout == b""
    assert not list(out.rglob("*.partial"))


def test_the_lines_of_a_build(small_checkpoint: Path, tmp_path: Path) -> None:
    arguments = ["build", str(small_checkpoint), "--recipe", "embedded", "-o", str(tmp_path / "out")]
    first = CliRunner().invoke(main, arguments, catch_exceptions=False)
    lines = first.stderr.splitlines()
    assert [line.split()[:3] for line in lines] == [
        [f"[{number}/5]", step, "built"] for number, step in enumerate(EMBEDDED_STEPS, start=1)
    ]
    assert all("peak" in line for line in lines)
    assert f"next: nvlm-trt serve {tmp_path / 'out'}" in first.stdout
    quiet = CliRunner().invoke(main, [*arguments, "--quiet"], catch_exceptions=False)
    assert quiet.stderr == ""
    dry = CliRunner().invoke(main, [*arguments, "--dry-run"], catch_exceptions=False)
    assert [line.split() for line in dry.stdout.splitlines()] == [[step, "kept"] for step in EMBEDDED_STEPS]
    assert dry.stderr == ""


@pytest.mark.parametrize(
    ("text", "code", "exit_code"),
    [
        ("nonsense = 1", "E-RECIPE-KEY", 2),
        ("[vision", "E-RECIPE-SYNTAX", 2),
        (None, "E-RECIPE-NAME", 2),
    ],
)
def test_a_bad_recipe(small_checkpoint: Path, tmp_path: Path, text: str | None, code: str, exit_code: int) -> None:
    file = tmp_path / "mine.toml"
    if text is not None:
        file.write_text(text)
    arguments = ["build", str(small_checkpoint), "--recipe", str(file), "-o", str(tmp_path / "out"), "--json"]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == exit_code
    assert json.loads(result.stdout)["error"]["code"] == code
    assert not (tmp_path / "out").exists()


def test_a_recipe_that_the_model_cannot_have_is_refused_before_any_work(small_checkpoint: Path, tmp_path: Path) -> None:
    recipe = changed_recipe("h200x1-fp8", tmp_path / "h.toml", "max_seq_len = 8192", "max_seq_len = 9000")
    arguments = ["build", str(small_checkpoint), "--recipe", recipe, "-o", str(tmp_path / "out")]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 2
    assert result.stderr.startswith("error: E-RECIPE-SEQ")
    assert not (tmp_path / "out").exists()


def alter(checkpoint: Path, name: str, altered: Callable[[bytes], bytes]) -> None:
    """The tensor's bytes, in its shard."""
    shards = json.loads((checkpoint / "model.safetensors.index.json").read_text(encoding="utf-8"))["weight_map"]
    file = checkpoint / shards[name]
    data = file.read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    begin, end = (start + offset for offset in json.loads(data[8:start])[name]["data_offsets"])
    file.write_bytes(data[:begin] + altered(data[begin:end]) + data[end:])


def test_what_was_not_as_expected_in_the_checkpoint_is_told(small_checkpoint: Path, tmp_path: Path) -> None:
    checkpoint = tmp_path / "checkpoint"
    shutil.copytree(small_checkpoint, checkpoint)
    norm = "vision_model.encoder.layers.0.attn.q_norm.weight"
    alter(checkpoint, norm, lambda data: struct.pack("<f", 0.1) + data[4:])
    alter(checkpoint, "language_model.model.layers.0.mlp.down_proj.weight", lambda data: bytes(len(data)))
    words = ["build", str(checkpoint), "--recipe", "embedded", "-o", str(tmp_path / "out"), "--json"]
    told = CliRunner().invoke(main, words, catch_exceptions=False)
    notes = {step["step"]: step["notes"] for step in json.loads(told.stdout)["steps"] if step["notes"]}
    rounded = f"{norm}: some values were rounded to bfloat16."
    zero = "transformer.layers.0.mlp.proj: weights or inputs are all zero; their scale is 1."
    assert notes == {"vision.onnx": [rounded], "decoder.checkpoint": [zero]}
    assert all(note in told.stderr for note in (rounded, zero))
