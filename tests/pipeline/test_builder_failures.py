"""Builds that cannot go on: a tool is lacking, a step fails, the folder is another's, damaged, read-only or full."""

from __future__ import annotations

import dataclasses
import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from nvlm_trt.errors import ArtefactError, BuildError, MissingToolError, UsageError
from nvlm_trt.pipeline.builder import build
from nvlm_trt.pipeline.step import Step, StepContext
from nvlm_trt.pipeline.workspace import open_workspace
from tests.pipeline.outcomes import outcomes
from tests.pipeline.toys import snapshot, toy_steps, writes


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


@pytest.mark.parametrize("dry_run", [True, False])
def test_what_no_build_made_is_not_replaced(small_checkpoint, recipe, out, dry_run: bool) -> None:
    """As with ``-o .`` where the checkpoint itself lies in ``model``."""
    (out / "second" / "folder").mkdir(parents=True)
    (out / "second" / "folder" / "mine").write_text("years of work")
    with pytest.raises(UsageError, match="'second/folder'") as refused:
        build(small_checkpoint, recipe, out, dry_run=dry_run, steps=toy_steps())
    assert refused.value.code == "E-USAGE-OUT"
    assert [file.name for file in out.rglob("*")] == ["second", "folder", "mine"]


def test_files_beside_the_artefacts_stay(small_checkpoint: Path, recipe: str, out: Path) -> None:
    out.mkdir(parents=True)
    (out / "film.partial").write_text("mine")
    for _ in range(2):
        build(small_checkpoint, recipe, out, steps=toy_steps())
    assert (out / "film.partial").read_text() == "mine"


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
