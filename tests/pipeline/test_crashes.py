"""kill -9 at any point: an old artefact or a new one, never half of one, and the next build goes on."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from nvlm_trt.pipeline.manifest import load_manifest
from tests.pipeline.toys import snapshot, write_recipe

ROOT = Path(__file__).parents[2]
STEPS = ["inspect", "vision.onnx", "decoder.calibration", "decoder.checkpoint", "triton.repository"]


def test_a_kill_before_every_single_change_of_the_file_system(small_checkpoint: Path, tmp_path: Path) -> None:
    recipes = [write_recipe(tmp_path / "old.toml", 2), write_recipe(tmp_path / "new.toml", 3)]
    command = [sys.executable, "-m", "tests.pipeline.crash_points", str(small_checkpoint), *recipes, str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    for over_old in (False, True):
        # That many there are in three steps; fewer would mean that they were not seen.
        assert sum(line["over_old"] is over_old for line in lines) > 40
    assert [line for line in lines if line["faults"]] == []


PROGRAM = """
import os, signal, sys
from pathlib import Path
from nvlm_trt.pipeline import run
from nvlm_trt.pipeline.builder import build

class Killed(run.Run):
    def _forget(self, name):  # called when a step's outputs are there and not yet in their place
        if name == sys.argv[3]:
            os.kill(os.getpid(), signal.SIGKILL)
        super()._forget(name)

from nvlm_trt.pipeline import builder
builder.Run = Killed
build(Path(sys.argv[1]), "embedded", Path(sys.argv[2]))
"""


def test_a_kill_at_the_end_of_every_real_step_costs_that_step_alone(
    built: Path, small_checkpoint: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    for number, step in enumerate(STEPS):
        command = [sys.executable, "-c", PROGRAM, str(small_checkpoint), str(out), step]
        assert subprocess.run(command, cwd=ROOT, check=False).returncode == -9
        manifest = load_manifest(out)
        assert set(manifest.steps if manifest is not None else ()) == set(STEPS[:number])
        assert (out / ".build" / f"{step}.partial").is_dir()
    command = [sys.executable, "-c", PROGRAM, str(small_checkpoint), str(out), "no step"]
    assert subprocess.run(command, cwd=ROOT, check=False).returncode == 0
    assert snapshot(out) == snapshot(built)
    assert sorted(file.name for file in (out / ".build").iterdir()) == ["digests.json", "lock", "log.jsonl"]


@pytest.mark.parametrize("step", ["decoder.calibration"])
def test_a_killed_calibration_goes_on_from_its_last_layer(built: Path, small_checkpoint: Path, tmp_path, step) -> None:
    """Its scratch folder outlives the kill; what it holds is read again, and the result has the same bytes."""
    out = tmp_path / "out"
    program = PROGRAM.replace(
        "from nvlm_trt.pipeline import builder\n",
        "import nvlm_trt.decoder.layer_journal as journal\n"
        "save = journal.LayerJournal.save\n"
        "def saved(self, file):\n"
        "    save(self, file)\n"
        "    if len(self.results) == 1: os.kill(os.getpid(), signal.SIGKILL)\n"
        "journal.LayerJournal.save = saved\n"
        "from nvlm_trt.pipeline import builder\n",
    )
    command = [sys.executable, "-c", program, str(small_checkpoint), str(out), "no step"]
    assert subprocess.run(command, cwd=ROOT, check=False).returncode == -9
    assert any((out / ".build" / f"{step}.scratch").iterdir())
    # The same program dies again when the journal has one result: only a run that goes on from there has more.
    assert subprocess.run(command, cwd=ROOT, check=False).returncode == 0
    assert snapshot(out) == snapshot(built)
    assert not (out / ".build" / f"{step}.scratch").exists()
