"""What a build would do, judged without writing anything and without reading what is not remembered."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from nvlm_trt.checkpoint.base import Checkpoint
from nvlm_trt.pipeline.digests import MEMORY, RecallOnly, UnreadFile
from nvlm_trt.pipeline.keys import MissingArtefact, difference, entry_of
from nvlm_trt.pipeline.manifest import StepEntry, manifest_for
from nvlm_trt.pipeline.recipe import Recipe
from nvlm_trt.pipeline.report import StepReport, done_report
from nvlm_trt.pipeline.step import Step

__all__ = ["DryRun"]


class DryRun:
    def __init__(self, checkpoint: Checkpoint, recipe: Recipe, out: Path) -> None:
        self._checkpoint = checkpoint
        self._recipe = recipe
        self._out = out
        self._manifest = manifest_for(checkpoint, recipe, out)
        self._memory = RecallOnly.load(out / MEMORY)

    def reports(self, steps: Sequence[Step]) -> list[StepReport]:
        return [self._judge(step) for step in steps]

    def _judge(self, step: Step) -> StepReport:
        old = self._manifest.steps.pop(step.name, None)
        due = self._why_due(step, old) if old is not None else "it has not run yet"
        if old is not None and due is None:
            self._manifest.steps[step.name] = old
            return done_report(step, "kept", old, time.monotonic())
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
