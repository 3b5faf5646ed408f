"""``explain``: what differs between what was built and here, and the cheapest repair."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

import nvlm_trt
from nvlm_trt.cli import main
from nvlm_trt.errors import ArtefactError
from nvlm_trt.pipeline.builder import build
from nvlm_trt.pipeline.engines_here import Here, engine_differences
from nvlm_trt.pipeline.explanation import Explanation, explain
from nvlm_trt.pipeline.keys import versions_of
from nvlm_trt.pipeline.machine import Gpu
from nvlm_trt.pipeline.manifest import FileEntry, Manifest, StepEntry, load_manifest

H200 = Gpu("NVIDIA H200", 143_771, "580.65", "9.0")
L40S = Gpu("NVIDIA L40S", 46_068, "580.65", "8.9")
NOTHING = Here((), None, None, None)
CONTAINER = Here((H200,), "10.14.1.48", None, "1.2.1")


@pytest.fixture
def out(out_of_built: Path) -> Path:
    return out_of_built


def rewrite(out: Path, **changes: Any) -> None:
    manifest = load_manifest(out)
    assert manifest is not None
    (out / "manifest.json").write_text(manifest.model_copy(update=changes).dump(), encoding="utf-8")


def parts(explained: Explanation) -> dict[str, bool]:
    return {difference.part: difference.blocks for difference in explained.differences}


def test_nothing_differs_where_it_was_built(out: Path) -> None:
    explained = explain(out, NOTHING)
    assert explained.differences == ()
    assert explained.serves
    told = CliRunner().invoke(main, ["explain", str(out)], catch_exceptions=False)
    assert told.stdout == f"it serves here: nvlm-trt serve {out}\n"


def test_a_checkpoint_that_was_moved_is_repaired_by_naming_it(out: Path, tmp_path: Path) -> None:
    rewrite(out, checkpoint=str(tmp_path / "gone"))
    explained = explain(out, NOTHING)
    [difference] = explained.differences
    assert (difference.part, difference.blocks) == ("checkpoint", True)
    assert difference.repair == ("nvlm-trt", "serve", str(out), "--checkpoint", "FOLDER")


def test_a_file_that_is_gone_is_repaired_by_the_same_build(out: Path, small_checkpoint: Path) -> None:
    (out / "decoder/calibration.json").unlink()
    [difference] = explain(out, NOTHING).differences
    assert difference.steps == ("decoder.calibration",)
    repair = ("nvlm-trt", "build", str(small_checkpoint.resolve()), "--recipe", "embedded", "-o", str(out))
    assert difference.repair == repair
    assert CliRunner().invoke(main, list(repair[1:]), catch_exceptions=False).exit_code == 0
    assert explain(out, NOTHING).differences == ()


def test_other_versions_do_not_keep_it_from_being_served(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nvlm_trt.pipeline.explanation.versions_of", lambda step: versions_of(step) | {"numpy": "9.9"})
    monkeypatch.setattr(nvlm_trt, "__version__", "9.9.9")
    explained = explain(out, NOTHING)
    assert parts(explained)["numpy"] is False
    assert parts(explained)["nvlm-trt"] is False
    assert explained.serves
    [numpy] = [one for one in explained.differences if one.part == "numpy" and one.built != "-"]
    assert "decoder.calibration" in numpy.steps
    assert numpy.here == "9.9"


def test_a_shipped_recipe_that_has_changed_since(out: Path) -> None:
    manifest = load_manifest(out)
    assert manifest is not None
    recipe = json.loads(json.dumps(manifest.recipe))
    recipe["workload"]["pictures"] = 3
    rewrite(out, recipe=recipe)
    [difference] = explain(out, NOTHING).differences
    assert (difference.part, difference.built, difference.here) == ("recipe workload.pictures", "3", "1")
    assert not difference.blocks
    # It may as well be a copy that the user changed and did not rename: the shipped one would undo that.
    assert difference.repair == ()
    (out / "decoder/calibration.json").unlink()
    assert "embedded.toml" in explain(out, NOTHING).differences[0].repair


def test_steps_that_were_left_to_a_gpu_machine(small_checkpoint: Path, tmp_path: Path) -> None:
    build(small_checkpoint, "h200x1-fp8", tmp_path / "out")
    explained = explain(tmp_path / "out", NOTHING)
    assert [difference.steps for difference in explained.differences] == [("vision.engine",), ("decoder.engine",)]
    assert all("this machine has none" in difference.here for difference in explained.differences)
    # Here the same build would leave them again: the repair is where their tools are.
    assert {difference.repair[:2] for difference in explained.differences} == {("docker", "run")}
    assert not explained.serves
    told = json.loads(CliRunner().invoke(main, ["explain", str(tmp_path / "out"), "--json"]).stdout)
    assert told["differences"][0]["part"] == "step"
    assert told["serves"] is False


def test_a_recipe_of_another_version(out: Path) -> None:
    rewrite(out, recipe={"name": "old"})
    explained = explain(out, NOTHING)
    assert parts(explained)["recipe"] is True
    assert not explained.serves


def test_a_folder_without_a_deployment(tmp_path: Path) -> None:
    with pytest.raises(ArtefactError, match="E-ARTEFACT-DEPLOYMENT"):
        explain(tmp_path)


def engines(folder: Path) -> Manifest:
    """A deployment's engines as the container left them."""
    (folder / "vision").mkdir()
    (folder / "decoder" / "engine").mkdir(parents=True)
    info = {"module": "tensorrt", "version": "10.14.1.48", "compute_capabilities": ["9.0"]}
    (folder / "vision" / "vision.plan.json").write_text(json.dumps(info))
    (folder / "decoder" / "engine" / "config.json").write_text('{"version": "1.2.1"}')
    (folder / "decoder" / "engine" / "built_on.json").write_text('{"gpu": "x", "compute_capability": "9.0"}')
    entry = StepEntry(key="", inputs={}, values={}, versions={}, outputs={"a": FileEntry(sha256="0" * 64, size=1)})
    steps = {"vision.engine": entry, "decoder.engine": entry}
    return Manifest(nvlm_trt="0", checkpoint="", recipe={}, steps=steps)


@pytest.mark.parametrize(
    ("here", "expected"),
    [
        (CONTAINER, {}),
        (Here((H200,), "10.15.0", None, "1.2.1"), {"TensorRT": "10.15.0"}),
        (Here((H200,), "10.14.1.48", None, None), {"TensorRT-LLM": "not installed"}),
        (
            Here((L40S, H200), "10.14.1.48", None, "1.2.1"),
            {
                "GPU of vision.engine": "compute capability 8.9, 9.0",
                "GPU of decoder.engine": "compute capability 8.9, 9.0",
            },
        ),
        (
            NOTHING,
            {
                "TensorRT": "not installed",
                "TensorRT-LLM": "not installed",
                "GPU of vision.engine": "none",
                "GPU of decoder.engine": "none",
            },
        ),
    ],
)
def test_engines_of_another_machine(tmp_path: Path, here: Here, expected: dict[str, str]) -> None:
    found = list(engine_differences(tmp_path, engines(tmp_path), here))
    assert {difference.part: difference.here for difference in found} == expected


@pytest.mark.parametrize("text", ["", "[]", "{", "null"])
def test_engine_files_that_cannot_be_read_say_nothing(tmp_path: Path, text: str) -> None:
    manifest = engines(tmp_path)
    for name in ("vision/vision.plan.json", "decoder/engine/config.json", "decoder/engine/built_on.json"):
        (tmp_path / name).write_text(text)
    assert list(engine_differences(tmp_path, manifest, CONTAINER)) == []
