"""``verify``: every byte of a deployment counts, and nothing else is blamed."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from nvlm_trt.cli import main
from nvlm_trt.errors import ArtefactError, BuildError
from nvlm_trt.pipeline.builder import build
from nvlm_trt.pipeline.manifest import load_manifest
from nvlm_trt.pipeline.verification import verify
from nvlm_trt.pipeline.workspace import open_workspace
from tests.pipeline.toys import snapshot, toy_steps, write_recipe


@pytest.fixture
def out(out_of_built: Path) -> Path:
    return out_of_built


def command(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, ["verify", *map(str, arguments)], catch_exceptions=False)


def flip(file: Path, chance: random.Random) -> None:
    data = bytearray(file.read_bytes())
    data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    file.write_bytes(data)


def test_a_deployment_is_as_it_was_built(out: Path, small_checkpoint: Path) -> None:
    counts: list[tuple[int, int, str]] = []
    whole = verify(out, checkpoint=small_checkpoint, advanced=lambda *count: counts.append(count))
    assert whole.findings == ()
    assert counts[-1] == (whole.num_bytes, whole.num_bytes, "B")
    result = command(out)
    assert result.exit_code == 0
    assert "all as built" in result.stdout
    assert result.stderr == ""


def test_one_flipped_bit_anywhere_is_found_and_its_file_named(built: Path, out: Path) -> None:
    chance = random.Random(0)
    files = [name for name in snapshot(built) if (built / name).stat().st_size and name != "manifest.json"]
    assert len(files) > 10
    for name in files:
        flip(out / name, chance)
        [finding] = verify(out).findings
        assert (finding.name, finding.state) == (name, "altered")
        shutil.copyfile(built / name, out / name)


def test_one_flipped_bit_in_the_manifest_is_found(built: Path, out: Path) -> None:
    chance = random.Random(1)
    for _ in range(40):
        flip(out / "manifest.json", chance)
        with pytest.raises(ArtefactError, match="E-ARTEFACT-MANIFEST"):
            verify(out)
        shutil.copyfile(built / "manifest.json", out / "manifest.json")


def test_the_command_names_the_file_and_exits_6(out: Path) -> None:
    flip(out / "decoder/checkpoint/rank0.safetensors", random.Random(0))
    result = command(out)
    assert result.exit_code == 6
    assert result.stderr.startswith("error: E-ARTEFACT-ALTERED: decoder/checkpoint/rank0.safetensors is altered.")
    told = json.loads(command(out, "--json").stdout)
    assert not told["whole"]
    assert [finding["step"] for finding in told["findings"]] == ["decoder.checkpoint"]


def test_a_checkpoint_that_is_another_is_not_to_be_deleted(out: Path, tmp_path: Path) -> None:
    told = command(out, "--checkpoint", str(tmp_path)).stderr
    assert "Name the checkpoint" in told
    assert "Delete" not in told
    (out / "vision/vision.onnx").unlink()
    assert "Delete those of the deployment" in command(out, "--checkpoint", str(tmp_path)).stderr


def test_a_manifest_of_another_format_is_told_apart(out: Path) -> None:
    text = (out / "manifest.json").read_text(encoding="utf-8")
    (out / "manifest.json").write_text(text.replace('"format": 2', '"format": 1'), encoding="utf-8")
    with pytest.raises(ArtefactError, match=r"E-ARTEFACT-MANIFEST: .* another format"):
        verify(out)


def test_the_advice_it_gives_repairs(out: Path, built: Path, small_checkpoint: Path) -> None:
    flip(out / "vision/vision.onnx", random.Random(0))
    [finding] = verify(out).faults
    (out / finding.name).unlink()
    build(small_checkpoint, "embedded", out)
    assert verify(out).findings == ()
    assert snapshot(out) == snapshot(built)


def test_what_is_gone_cut_short_or_unknown(out: Path) -> None:
    (out / "vision/vision.onnx").unlink()
    (out / "model/config.json").write_bytes(b"{")
    (out / "notes.txt").write_text("mine")
    verification = verify(out)
    assert {finding.name: finding.state for finding in verification.findings} == {
        "vision/vision.onnx": "gone",
        "model/config.json": "cut short",
        "notes.txt": "unknown",
    }
    assert len(verification.faults) == 2


def test_a_file_that_no_step_made_is_no_fault(out: Path) -> None:
    (out / "notes.txt").write_text("mine")
    result = command(out)
    assert result.exit_code == 0
    assert "unknown    notes.txt" in result.stdout


def test_the_checkpoint_is_checked_where_it_is_named(out: Path, small_checkpoint: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(small_checkpoint, copy)
    assert verify(out, checkpoint=copy).findings == ()
    shard = sorted(copy.glob("*.safetensors"))[0]
    flip(shard, random.Random(0))
    [finding] = verify(out, checkpoint=copy).findings
    assert (finding.name, finding.state) == (f"checkpoint:{shard.name}", "altered")
    assert verify(out).findings == ()


def test_a_step_of_another_build_is_stale(small_checkpoint: Path, tmp_path: Path) -> None:
    """Stopped between two steps, nothing is damaged, and yet it does not belong together."""
    out = tmp_path / "out"
    build(small_checkpoint, write_recipe(tmp_path / "a.toml", 2), out, steps=toy_steps())
    build(small_checkpoint, write_recipe(tmp_path / "b.toml", 3), out, steps=toy_steps(), until="second")
    assert [(finding.name, finding.state) for finding in verify(out).findings] == [("third", "stale")]


def test_a_folder_without_a_deployment(tmp_path: Path) -> None:
    with pytest.raises(ArtefactError, match="E-ARTEFACT-DEPLOYMENT"):
        verify(tmp_path)
    assert command(tmp_path / "nothing").exit_code == 6


def test_a_build_at_work_is_waited_for(out: Path) -> None:
    with open_workspace(out), pytest.raises(BuildError, match="E-BUILD-LOCKED"):
        verify(out)
    assert verify(out).findings == ()


def test_every_entry_of_the_manifest_is_read(out: Path) -> None:
    manifest = load_manifest(out)
    assert manifest is not None
    assert verify(out).num_files == len(manifest.files(""))
