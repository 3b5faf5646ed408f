"""Orders the steps, skips those that are done, runs the rest, and writes down each one as it ends.

    for every step:  key from inputs  ──same key, outputs there──►  kept
                          │
                          ├──this machine lacks a tool──►  left, with the command for the container
                          │
                          └──►  run in DIR/.build/STEP.partial  ──►  hash  ──►  rename into place  ──►  manifest.json

A kill at any point costs the running step and nothing else.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import nvlm_trt
from nvlm_trt.checkpoint.base import Checkpoint
from nvlm_trt.checkpoint.registry import open_checkpoint
from nvlm_trt.errors import BuildError, MissingToolError
from nvlm_trt.pipeline.container import container_command
from nvlm_trt.pipeline.digests import DigestMemory, RecallOnly, UnreadFile, sha256_file
from nvlm_trt.pipeline.keys import MissingArtefact, checkpoint_files, difference, entry_of
from nvlm_trt.pipeline.manifest import MANIFEST, FileEntry, Manifest, StepEntry, load_manifest
from nvlm_trt.pipeline.memory import process_memory, reset_peak
from nvlm_trt.pipeline.order import in_order
from nvlm_trt.pipeline.recipe import Recipe
from nvlm_trt.pipeline.recipe_file import read_draft
from nvlm_trt.pipeline.report import BuildResult, Reporter, SilentReporter, StepReport
from nvlm_trt.pipeline.step import Step, StepContext
from nvlm_trt.pipeline.steps import steps_for
from nvlm_trt.pipeline.workspace import Workspace, open_workspace
from nvlm_trt.plan.resolve import resolve

__all__ = ["build"]

_MEMORY = ".build/digests.json"
_LOG = ".build/log.jsonl"


def build(
    checkpoint_path: Path,
    recipe_name: str,
    out: Path,
    *,
    dry_run: bool = False,
    reporter: Reporter | None = None,
    steps: Sequence[Step] | None = None,
) -> BuildResult:
    """Build a deployment of the checkpoint in ``out``. A dry run writes nothing and reads no large file.

    ``recipe_name`` is a shipped recipe or a ``.toml`` file; ``steps`` replaces the recipe's own.

    Raises ``UsageError`` for a bad recipe, ``CheckpointError`` for a bad checkpoint, ``ArtefactError``
    E-ARTEFACT-MANIFEST, and ``BuildError``: E-BUILD-LOCKED, E-BUILD-WRITE, E-BUILD-SPACE, E-BUILD-INSIDE.
    """
    draft = read_draft(recipe_name)
    checkpoint = open_checkpoint(checkpoint_path)
    recipe = resolve(draft, checkpoint.config)
    if out.resolve().is_relative_to(checkpoint_path.resolve()):
        raise BuildError("E-BUILD-INSIDE", "The output folder lies in the checkpoint's.", "Choose another with -o.")
    ordered = in_order(steps if steps is not None else steps_for(recipe))
    for step in ordered:
        step.command(recipe, checkpoint.config)  # a recipe that the model cannot have shows before the long work
    if dry_run:
        reports = _DryRun(checkpoint, recipe, out).reports(ordered)
    else:
        with open_workspace(out) as workspace:
            reports = _Run(checkpoint, recipe, workspace, reporter or SilentReporter()).reports(ordered)
    unfinished = any(report.outcome == "left" for report in reports)
    command = container_command(recipe, recipe_name, checkpoint_path, out) if unfinished else ()
    return BuildResult(out, recipe.name, dry_run, tuple(reports), command)


class _Run:
    """One build in a locked folder."""

    def __init__(self, checkpoint: Checkpoint, recipe: Recipe, workspace: Workspace, reporter: Reporter) -> None:
        self._checkpoint = checkpoint
        self._recipe = recipe
        self._workspace = workspace
        self._reporter = reporter
        self._manifest = _manifest_for(checkpoint, recipe, workspace.out)
        self._memory = DigestMemory.load(workspace.out / _MEMORY)

    def reports(self, steps: Sequence[Step]) -> list[StepReport]:
        for name in sorted(set(self._manifest.steps) - {step.name for step in steps}):
            self._forget(name)
        reports = []
        for number, step in enumerate(steps, start=1):
            self._reporter.started(step.name, number, len(steps))
            report = self._do(step)
            self._log(report)
            self._reporter.ended(report)
            reports.append(report)
        self._save()
        return reports

    def _do(self, step: Step) -> StepReport:
        reset_peak()
        start = time.monotonic()
        try:
            entry = self._entry(step)
        except MissingArtefact as missing:
            self._forget(step.name)
            return StepReport(step.name, "left", reason=f"it needs {missing.artefact}, which is left")
        old = self._manifest.steps.get(step.name)
        if old is not None and difference(old, entry, self._workspace.out) is None:
            return _report(step, "kept", old, start)
        self._forget(step.name)
        reason = step.lacking(self._recipe)
        if reason is None:
            try:
                done = self._run(step, entry)
            except MissingToolError as error:
                reason = error.what.rstrip(".")
            else:
                return _report(step, "built", done, start)
        command = step.command(self._recipe, self._checkpoint.config)
        return StepReport(step.name, "left", reason=reason, command=command)

    def _entry(self, step: Step) -> StepEntry:
        total = sum(file.stat().st_size for file in checkpoint_files(step, self._checkpoint))
        advanced = _Counter(self._reporter, total)
        entry = entry_of(step, self._checkpoint, self._recipe, self._manifest, self._memory, advanced)
        self._workspace.write_text(_MEMORY, self._memory.dump())
        return entry

    def _run(self, step: Step, entry: StepEntry) -> StepEntry:
        with self._workspace.partial(step.name) as partial:
            step.run(StepContext(self._checkpoint, self._recipe, self._workspace.out, partial, self._reporter.advanced))
            files = sorted(file for file in partial.rglob("*") if file.is_file())
            stray = [f for f in files if not any(f.is_relative_to(partial / output) for output in step.outputs)]
            absent = [output for output in step.outputs if not (partial / output).exists()]
            if stray or absent:
                raise ValueError(f"{step.name} left {stray} undeclared and {absent} undone")
            advanced = _Counter(self._reporter, sum(file.stat().st_size for file in files))
            outputs = {}
            for file in files:
                digest = sha256_file(file, advanced)
                outputs[file.relative_to(partial).as_posix()] = FileEntry(sha256=digest.sha256, size=digest.size)
            self._workspace.install(partial, step.outputs)
        done = entry.model_copy(update={"outputs": outputs})
        self._manifest.steps[step.name] = done
        self._save()
        return done

    def _forget(self, name: str) -> None:
        """Take a step's entry out of the manifest, then its outputs out of the folder."""
        old = self._manifest.steps.pop(name, None)
        if old is not None:
            self._save()
            for output in old.outputs:
                self._workspace.remove(output)

    def _save(self) -> None:
        self._workspace.write_text(MANIFEST, self._manifest.dump())

    def _log(self, report: StepReport) -> None:
        line = {"at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), **report.to_json()}
        with (self._workspace.out / _LOG).open("a", encoding="utf-8") as log:
            log.write(json.dumps(line) + "\n")


class _DryRun:
    """What a build would do, judged without reading what memory does not hold."""

    def __init__(self, checkpoint: Checkpoint, recipe: Recipe, out: Path) -> None:
        self._checkpoint = checkpoint
        self._recipe = recipe
        self._out = out
        self._manifest = _manifest_for(checkpoint, recipe, out)
        self._memory = RecallOnly.load(out / _MEMORY)

    def reports(self, steps: Sequence[Step]) -> list[StepReport]:
        return [self._judge(step) for step in steps]

    def _judge(self, step: Step) -> StepReport:
        old = self._manifest.steps.pop(step.name, None)
        due = self._why_due(step, old) if old is not None else "it has not run yet"
        if old is not None and due is None:
            self._manifest.steps[step.name] = old
            return _report(step, "kept", old, time.monotonic())
        lacking = step.lacking(self._recipe)
        if lacking is None:
            return StepReport(step.name, "would build", outputs=step.outputs, reason=due or "")
        command = step.command(self._recipe, self._checkpoint.config)
        return StepReport(step.name, "left", reason=lacking, command=command)

    def _why_due(self, step: Step, old: StepEntry) -> str | None:
        try:
            entry = entry_of(step, self._checkpoint, self._recipe, self._manifest, self._memory)
        except MissingArtefact as missing:
            return f"{missing.artefact} will be built anew"
        except UnreadFile as unread:
            return f"{unread.name} has changed, or was not read on this machine"
        return difference(old, entry, self._out)


class _Counter:
    """Adds up bytes for the reporter."""

    def __init__(self, reporter: Reporter, total: int) -> None:
        self._reporter = reporter
        self._total = total
        self._done = 0

    def __call__(self, count: int) -> None:
        self._done += count
        self._reporter.advanced(self._done, self._total, "B")


def _manifest_for(checkpoint: Checkpoint, recipe: Recipe, out: Path) -> Manifest:
    """A manifest with this build's head and the steps of the last one, if there was one."""
    last = load_manifest(out)
    return Manifest(
        nvlm_trt=nvlm_trt.__version__,
        checkpoint=str(checkpoint.root.resolve()),
        recipe=recipe.model_dump(mode="json"),
        steps=dict(last.steps) if last is not None else {},
    )


def _report(step: Step, outcome: Literal["built", "kept"], entry: StepEntry, start: float) -> StepReport:
    return StepReport(
        step.name,
        outcome,
        seconds=time.monotonic() - start,
        peak_rss_bytes=process_memory().peak_rss_bytes,
        output_bytes=sum(file.size for file in entry.outputs.values()),
        outputs=step.outputs,
    )
