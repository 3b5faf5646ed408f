"""One build in a locked folder: step by step, each one kept, built or left."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence

from nvlm_trt.checkpoint.base import Checkpoint
from nvlm_trt.errors import MissingToolError
from nvlm_trt.pipeline.digests import MEMORY, DigestMemory, sha256_file
from nvlm_trt.pipeline.keys import MissingArtefact, checkpoint_files, difference, entry_of
from nvlm_trt.pipeline.manifest import MANIFEST, FileEntry, StepEntry, manifest_for
from nvlm_trt.pipeline.memory import reset_peak
from nvlm_trt.pipeline.recipe import Recipe
from nvlm_trt.pipeline.report import ByteCounter, Reporter, StepReport, done_report
from nvlm_trt.pipeline.step import Step, StepContext
from nvlm_trt.pipeline.workspace import Workspace

__all__ = ["Run"]

_LOG = ".build/log.jsonl"


class Run:
    def __init__(self, checkpoint: Checkpoint, recipe: Recipe, workspace: Workspace, reporter: Reporter) -> None:
        self._checkpoint = checkpoint
        self._recipe = recipe
        self._workspace = workspace
        self._reporter = reporter
        self._manifest = manifest_for(checkpoint, recipe, workspace.out)
        self._memory = DigestMemory.load(workspace.out / MEMORY)

    def reports(self, steps: Sequence[Step], recipe_steps: Sequence[Step]) -> list[StepReport]:
        """Do ``steps``; outputs of steps that the recipe does not have are removed."""
        for name in sorted(set(self._manifest.steps) - {step.name for step in recipe_steps}):
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
            return done_report(step, "kept", old, start)
        reason = step.lacking(self._recipe)
        if reason is None:
            notes: list[str] = []
            try:
                done = self._run(step, entry, notes)
            except MissingToolError as error:
                reason = error.what.rstrip(".")
            else:
                return done_report(step, "built", done, start, notes)
        self._forget(step.name)
        command = step.command(self._recipe, self._checkpoint.config)
        return StepReport(step.name, "left", reason=reason, command=command)

    def _entry(self, step: Step) -> StepEntry:
        total = sum(file.stat().st_size for file in checkpoint_files(step, self._checkpoint))
        advanced = ByteCounter(self._reporter, total)
        entry = entry_of(step, self._checkpoint, self._recipe, self._manifest, self._memory, advanced)
        self._workspace.write_text(MEMORY, self._memory.dump())
        return entry

    def _run(self, step: Step, entry: StepEntry, notes: list[str]) -> StepEntry:
        with self._workspace.partial(step.name) as partial:
            scratch = self._workspace.scratch(step.name)
            out, advanced = self._workspace.out, self._reporter.advanced
            step.run(StepContext(self._checkpoint, self._recipe, out, partial, scratch, advanced, notes.append))
            files = sorted(file for file in partial.rglob("*") if file.is_file())
            stray = [f for f in files if not any(f.is_relative_to(partial / output) for output in step.outputs)]
            absent = [output for output in step.outputs if not (partial / output).exists()]
            if stray or absent:
                raise ValueError(f"{step.name} left {stray} undeclared and {absent} undone")
            counter = ByteCounter(self._reporter, sum(file.stat().st_size for file in files))
            outputs = {}
            for file in files:
                digest = sha256_file(file, counter)
                outputs[file.relative_to(partial).as_posix()] = FileEntry(sha256=digest.sha256, size=digest.size)
            self._workspace.sync(partial)
            self._forget(step.name)
            self._workspace.install(partial, step.outputs)
        done = entry.model_copy(update={"outputs": outputs})
        self._manifest.steps[step.name] = done
        self._save()
        self._workspace.drop_scratch(step.name)
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
