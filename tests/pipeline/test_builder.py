"""The builder, with steps that take no time; ``test_real_build`` has the real ones."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from pathlib import Path

import pytest

from nvlm_trt.errors import BuildError, UsageError
from nvlm_trt.pipeline.builder import build
from nvlm_trt.pipeline.report import StepReport
from nvlm_trt.pipeline.step import StepContext
from tests.pipeline.outcomes import outcomes
from tests.pipeline.toys import snapshot, toy_steps, write_recipe


def test_builds_everything_in_order(small_checkpoint: Path, recipe: str, out: Path) -> None:
    result = build(small_checkpoint, recipe, out, steps=list(reversed(toy_steps())))
    assert [report.step for report in result.steps] == ["first", "second", "third"]
    assert (out / "third").read_text() == "256 x 2!"
    assert not result.left
    assert result.finish_command == ()


def test_second_build_keeps_everything(small_checkpoint: Path, recipe: str, out: Path) -> None:
    build(small_checkpoint, recipe, out, steps=toy_steps())
    before = snapshot(out)
    result = build(small_checkpoint, recipe, out, steps=toy_steps())
    assert set(outcomes(result).values()) == {"kept"}
    assert snapshot(out) == before


def test_two_builds_give_the_same_bytes(small_checkpoint: Path, recipe: str, tmp_path: Path) -> None:
    build(small_checkpoint, recipe, tmp_path / "one", steps=toy_steps())
    build(small_checkpoint, recipe, tmp_path / "two", steps=toy_steps())
    assert snapshot(tmp_path / "one") == snapshot(tmp_path / "two")


def test_a_recipe_value_redoes_only_the_steps_that_use_it(small_checkpoint: Path, out: Path, tmp_path: Path) -> None:
    build(small_checkpoint, write_recipe(tmp_path / "a.toml", 2), out, steps=toy_steps())
    result = build(small_checkpoint, write_recipe(tmp_path / "b.toml", 3), out, steps=toy_steps())
    assert outcomes(result) == {"first": "kept", "second": "built", "third": "built"}
    assert (out / "third").read_text() == "256 x 3!"


def test_an_unchanged_output_spares_the_steps_behind_it(small_checkpoint: Path, recipe: str, out: Path) -> None:
    build(small_checkpoint, recipe, out, steps=toy_steps())
    (out / "first" / "a").unlink()
    result = build(small_checkpoint, recipe, out, steps=toy_steps())
    assert outcomes(result) == {"first": "built", "second": "kept", "third": "kept"}


@pytest.mark.parametrize("spoil", [lambda file: file.unlink(), lambda file: file.write_text("25")])
def test_an_output_that_is_gone_or_cut_short_is_made_again(small_checkpoint, recipe, out, spoil) -> None:
    build(small_checkpoint, recipe, out, steps=toy_steps())
    before = snapshot(out)
    spoil(out / "second" / "folder" / "b")
    result = build(small_checkpoint, recipe, out, steps=toy_steps())
    assert outcomes(result) == {"first": "kept", "second": "built", "third": "kept"}
    assert snapshot(out) == before


def test_until_does_a_step_and_what_it_needs(small_checkpoint: Path, recipe: str, out: Path) -> None:
    result = build(small_checkpoint, recipe, out, steps=toy_steps(), until="second")
    assert outcomes(result) == {"first": "built", "second": "built"}
    assert not result.to_json()["complete"]
    assert outcomes(build(small_checkpoint, recipe, out, steps=toy_steps()))["third"] == "built"
    # What was done beyond the step is not touched.
    before = snapshot(out)
    assert outcomes(build(small_checkpoint, recipe, out, steps=toy_steps(), until="first")) == {"first": "kept"}
    assert snapshot(out) == before


def test_a_step_that_the_recipe_does_not_have(small_checkpoint: Path, recipe: str, out: Path) -> None:
    with pytest.raises(UsageError) as refused:
        build(small_checkpoint, recipe, out, steps=toy_steps(), until="fourth")
    assert refused.value.code == "E-USAGE-STEP"
    assert "first, second, third" in refused.value.fix
    assert not out.exists()


def test_scratch_outlives_a_failure_and_not_the_step(small_checkpoint: Path, recipe: str, out: Path) -> None:
    seen: list[bool] = []

    def run(context: StepContext) -> None:
        note = context.scratch / "note"
        seen.append(note.exists())
        note.write_text("half of the work")
        if len(seen) == 1:
            raise BuildError("E-BUILD-TEST", "It broke.")
        (context.into / "third").write_text("done")

    steps = [dataclasses.replace(step, run=run) if step.name == "third" else step for step in toy_steps()]
    with pytest.raises(BuildError):
        build(small_checkpoint, recipe, out, steps=steps)
    build(small_checkpoint, recipe, out, steps=steps)
    assert seen == [False, True]
    assert not list((out / ".build").glob("*.scratch"))


def test_a_changed_checkpoint_is_noticed(small_checkpoint: Path, recipe: str, out: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(small_checkpoint, copy)
    build(copy, recipe, out, steps=toy_steps())
    text = (copy / "config.json").read_text()
    (copy / "config.json").write_text(text + "\n")
    assert outcomes(build(copy, recipe, out, steps=toy_steps()))["first"] == "built"
    (copy / "config.json").write_text(text)
    # A touched file with the old bytes is read again and found to be the same.
    os.utime(copy / "config.json", ns=(1, 1))
    build(copy, recipe, out, steps=toy_steps())
    os.utime(copy / "config.json", ns=(2, 2))
    assert outcomes(build(copy, recipe, out, steps=toy_steps()))["first"] == "kept"


def test_steps_of_another_recipe_are_removed(small_checkpoint: Path, recipe: str, out: Path) -> None:
    build(small_checkpoint, recipe, out, steps=toy_steps())
    build(small_checkpoint, recipe, out, steps=toy_steps()[:1])
    assert set(snapshot(out)) == {"first/a", "manifest.json"}


def test_the_manifest_tells_no_time_and_no_place_but_the_checkpoint(small_checkpoint, recipe, out) -> None:
    build(small_checkpoint, recipe, out, steps=toy_steps())
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["checkpoint"] == str(small_checkpoint.resolve())
    assert str(out) not in (out / "manifest.json").read_text()
    assert manifest["steps"]["second"]["values"] == {"decoder.max_batch_size": 2}
    assert manifest["steps"]["third"]["inputs"].keys() == {"artefact:second/folder/b"}
    assert manifest["steps"]["first"]["outputs"]["first/a"]["size"] == 3


def test_dry_run_writes_nothing(small_checkpoint: Path, recipe: str, out: Path) -> None:
    result = build(small_checkpoint, recipe, out, dry_run=True, steps=toy_steps())
    assert set(outcomes(result).values()) == {"would build"}
    assert not out.exists()


def test_dry_run_names_what_changed(small_checkpoint: Path, out: Path, tmp_path: Path) -> None:
    build(small_checkpoint, write_recipe(tmp_path / "a.toml", 2), out, steps=toy_steps())
    before = snapshot(out)
    again = write_recipe(tmp_path / "b.toml", 3)
    result = build(small_checkpoint, again, out, dry_run=True, steps=toy_steps())
    assert [(report.step, report.outcome, report.reason) for report in result.steps] == [
        ("first", "kept", ""),
        ("second", "would build", "decoder.max_batch_size changed"),
        ("third", "would build", "second will be built anew"),
    ]
    assert snapshot(out) == before


class Recorder:
    def __init__(self) -> None:
        self.events: list[tuple[str, str]] = []
        self.byte_counts: list[tuple[int, int]] = []

    def started(self, step: str, number: int, count: int) -> None:
        self.events.append((step, f"started {number} of {count}"))

    def advanced(self, done: int, total: int, unit: str) -> None:
        assert unit == "B"
        self.byte_counts.append((done, total))

    def ended(self, report: StepReport) -> None:
        self.events.append((report.step, report.outcome))


def test_a_reporter_hears_of_every_step(small_checkpoint: Path, recipe: str, out: Path) -> None:
    recorder = Recorder()
    build(small_checkpoint, recipe, out, steps=toy_steps(), reporter=recorder)
    assert recorder.events == [
        ("first", "started 1 of 3"),
        ("first", "built"),
        ("second", "started 2 of 3"),
        ("second", "built"),
        ("third", "started 3 of 3"),
        ("third", "built"),
    ]
    assert all(0 < done <= total for done, total in recorder.byte_counts)


def test_the_log_keeps_times_and_memory_out_of_the_manifest(small_checkpoint, recipe, out) -> None:
    build(small_checkpoint, recipe, out, steps=toy_steps())
    lines = [json.loads(line) for line in (out / ".build" / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == ["first", "second", "third"]
    assert all(line["peak_rss_bytes"] > 10_000_000 and line["seconds"] >= 0 for line in lines)
