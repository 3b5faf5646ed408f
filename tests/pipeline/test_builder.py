"""The builder, with steps that take no time; ``test_real_build`` has the real ones."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from nvlm_trt.errors import ArtefactError, BuildError, MissingToolError, UsageError
from nvlm_trt.pipeline.builder import build
from nvlm_trt.pipeline.report import BuildResult, StepReport
from nvlm_trt.pipeline.step import Step, StepContext
from nvlm_trt.pipeline.workspace import open_workspace
from tests.pipeline.toys import snapshot, toy_steps, write_recipe, writes


@pytest.fixture
def recipe(tmp_path: Path) -> str:
    return write_recipe(tmp_path / "toy.toml")


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "with a blank" / "out"


def outcomes(result: BuildResult) -> dict[str, str]:
    return {report.step: report.outcome for report in result.steps}


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


def lacking(steps: list[Step], name: str, reason: str | None) -> list[Step]:
    def changed(step: Step) -> Step:
        return dataclasses.replace(step, lacking=lambda _: reason, command=lambda recipe, _: ("make", recipe.name))

    return [changed(step) if step.name == name else step for step in steps]


def test_what_this_machine_lacks_is_left_and_so_is_what_needs_it(small_checkpoint, recipe, out) -> None:
    result = build(small_checkpoint, recipe, out, steps=lacking(toy_steps(), "second", "no hammer"))
    assert outcomes(result) == {"first": "built", "second": "left", "third": "left"}
    assert [report.reason for report in result.left] == ["no hammer", "it needs second, which is left"]
    assert result.left[0].command == ("make", "toy")
    done = build(small_checkpoint, recipe, out, steps=lacking(toy_steps(), "second", None))
    assert outcomes(done) == {"first": "kept", "second": "built", "third": "built"}


def test_what_another_machine_finished_stays(small_checkpoint: Path, recipe: str, out: Path) -> None:
    build(small_checkpoint, recipe, out, steps=lacking(toy_steps(), "second", None))
    result = build(small_checkpoint, recipe, out, steps=lacking(toy_steps(), "second", "no hammer"))
    assert set(outcomes(result).values()) == {"kept"}


def test_a_tool_found_missing_on_the_way_leaves_the_step(small_checkpoint: Path, recipe: str, out: Path) -> None:
    def run(_: StepContext) -> None:
        raise MissingToolError("E-TOOL-HAMMER", "There is no hammer.")

    steps = [dataclasses.replace(step, run=run) if step.name == "third" else step for step in toy_steps()]
    result = build(small_checkpoint, recipe, out, steps=steps)
    assert outcomes(result) == {"first": "built", "second": "built", "third": "left"}
    assert result.left[0].reason == "There is no hammer"


def test_a_failed_step_keeps_the_ones_before_it(small_checkpoint: Path, recipe: str, out: Path) -> None:
    def run(context: StepContext) -> None:
        (context.into / "third").write_text("half")
        raise BuildError("E-BUILD-TEST", "It broke.")

    steps = [dataclasses.replace(step, run=run) if step.name == "third" else step for step in toy_steps()]
    with pytest.raises(BuildError, match="E-BUILD-TEST"):
        build(small_checkpoint, recipe, out, steps=steps)
    assert set(snapshot(out)) == {"first/a", "second/folder/b", "manifest.json"}
    assert not list(out.rglob("*.partial"))
    assert outcomes(build(small_checkpoint, recipe, out, steps=toy_steps()))["second"] == "kept"


def test_a_step_may_not_leave_what_it_does_not_declare(small_checkpoint: Path, recipe: str, out: Path) -> None:
    stray = Step("stray", writes("elsewhere", lambda _: ""), outputs=("declared",))
    with pytest.raises(ValueError, match="undeclared"):
        build(small_checkpoint, recipe, out, steps=[stray])


def test_leftovers_of_a_killed_build_are_cleaned(small_checkpoint: Path, recipe: str, out: Path) -> None:
    (out / ".build" / "second.partial").mkdir(parents=True)
    (out / ".build" / "second.partial" / "half").write_text("half")
    (out / "manifest.json.partial").write_text("{")
    build(small_checkpoint, recipe, out, steps=toy_steps())
    assert not list(out.rglob("*.partial"))


def test_a_second_builder_is_refused(small_checkpoint: Path, recipe: str, out: Path) -> None:
    with open_workspace(out), pytest.raises(BuildError) as refused:
        build(small_checkpoint, recipe, out, steps=toy_steps())
    assert refused.value.code == "E-BUILD-LOCKED"
    assert not build(small_checkpoint, recipe, out, steps=toy_steps()).left


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"format": 2}', "\x00"])
def test_a_damaged_manifest_is_an_error_not_a_rebuild(small_checkpoint, recipe, out, text: str) -> None:
    out.mkdir(parents=True)
    (out / "manifest.json").write_text(text)
    with pytest.raises(ArtefactError) as damaged:
        build(small_checkpoint, recipe, out, steps=toy_steps())
    assert damaged.value.code == "E-ARTEFACT-MANIFEST"


def test_the_output_may_not_lie_in_the_checkpoint(small_checkpoint: Path, recipe: str) -> None:
    with pytest.raises(BuildError) as refused:
        build(small_checkpoint, recipe, small_checkpoint / "out", steps=toy_steps())
    assert refused.value.code == "E-BUILD-INSIDE"
    assert not (small_checkpoint / "out").exists()


def test_a_file_in_the_way_is_explained(small_checkpoint: Path, recipe: str, out: Path) -> None:
    out.parent.mkdir()
    out.write_text("a file")
    with pytest.raises(BuildError) as refused:
        build(small_checkpoint, recipe, out, steps=toy_steps())
    assert refused.value.code == "E-BUILD-WRITE"


@contextmanager
def without_the_rights_of_root() -> Iterator[None]:
    """Root may write to read-only folders; nobody may not."""
    before = os.geteuid()
    if before == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(before)


def test_a_read_only_folder_is_explained(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    out.chmod(stat.S_IRUSR | stat.S_IXUSR)
    with without_the_rights_of_root(), pytest.raises(BuildError) as refused, open_workspace(out):
        pass
    assert refused.value.code == "E-BUILD-WRITE"
    out.chmod(stat.S_IRWXU)


def test_a_full_disk_is_explained_and_what_was_done_is_kept(small_checkpoint, recipe, out) -> None:
    def run(_: StepContext) -> None:
        with Path("/dev/full").open("wb", buffering=0) as full:
            full.write(b"x")

    steps = [dataclasses.replace(step, run=run) if step.name == "third" else step for step in toy_steps()]
    with pytest.raises(BuildError) as failed:
        build(small_checkpoint, recipe, out, steps=steps)
    assert failed.value.code == "E-BUILD-SPACE"
    assert outcomes(build(small_checkpoint, recipe, out, steps=toy_steps()))["second"] == "kept"


def test_an_error_of_reading_is_not_blamed_on_the_output(small_checkpoint, recipe, out) -> None:
    def run(_: StepContext) -> None:
        raise OSError(errno.EACCES, "Permission denied", "/somewhere/else")

    steps = [dataclasses.replace(step, run=run) if step.name == "third" else step for step in toy_steps()]
    with pytest.raises(PermissionError):
        build(small_checkpoint, recipe, out, steps=steps)


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
