"""Orders the steps, skips those that are done, runs the rest, and records each one as it ends.

    for every step:  key from inputs  ──same key, outputs there──►  kept
                          │
                          ├──this machine lacks a tool──►  left, with the command for the container
                          │
                          └──►  run in DIR/.build/STEP.partial  ──►  hash  ──►  rename into place  ──►  manifest.json

A kill at any point costs only the running step. A step that fails leaves its old outputs where they were.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from nvlm_trt.checkpoint.registry import open_checkpoint
from nvlm_trt.errors import BuildError, UsageError
from nvlm_trt.pipeline.container import container_command
from nvlm_trt.pipeline.dry_run import DryRun
from nvlm_trt.pipeline.order import in_order, needed_for
from nvlm_trt.pipeline.recipe_file import read_draft
from nvlm_trt.pipeline.report import BuildResult, Reporter, SilentReporter
from nvlm_trt.pipeline.run import Run
from nvlm_trt.pipeline.step import Step
from nvlm_trt.pipeline.steps import steps_for
from nvlm_trt.pipeline.workspace import open_workspace, require_own
from nvlm_trt.plan.resolve import resolve

__all__ = ["build"]


def build(
    checkpoint_path: Path,
    recipe_name: str,
    out: Path,
    *,
    until: str | None = None,
    dry_run: bool = False,
    reporter: Reporter | None = None,
    steps: Sequence[Step] | None = None,
) -> BuildResult:
    """Build a deployment of the checkpoint in ``out``. A dry run writes nothing and reads no large file.

    ``recipe_name`` is a shipped recipe or a ``.toml`` file. With ``until`` only that step and what it needs are done.
    ``steps`` replaces the recipe's own.

    Raises ``UsageError`` for a bad recipe, E-USAGE-STEP and E-USAGE-OUT, ``CheckpointError`` for a bad
    checkpoint, ``ArtefactError`` E-ARTEFACT-MANIFEST, and ``BuildError``: E-BUILD-LOCKED, E-BUILD-WRITE, E-BUILD-SPACE,
    E-BUILD-INSIDE.
    """
    draft = read_draft(recipe_name)
    checkpoint = open_checkpoint(checkpoint_path)
    recipe = resolve(draft, checkpoint.config)
    if out.resolve().is_relative_to(checkpoint_path.resolve()):
        raise BuildError("E-BUILD-INSIDE", "The output folder lies in the checkpoint's.", "Choose another with -o.")
    ordered = in_order(steps if steps is not None else steps_for(recipe))
    for step in ordered:
        step.command(recipe, checkpoint.config)  # a recipe that the model cannot have shows before the long work
    require_own(out, (output for step in ordered for output in step.outputs))
    wanted = ordered if until is None else needed_for(_named(until, ordered), ordered)
    if dry_run:
        reports = DryRun(checkpoint, recipe, out).reports(wanted)
    else:
        with open_workspace(out) as workspace:
            reports = Run(checkpoint, recipe, workspace, reporter or SilentReporter()).reports(wanted, ordered)
    unfinished = any(report.outcome == "left" for report in reports)
    command = container_command(recipe, recipe_name, checkpoint_path, out, until) if unfinished else ()
    whole = len(wanted) == len(ordered)
    return BuildResult(out, recipe.name, dry_run, tuple(reports), command, whole)


def _named(name: str, steps: Sequence[Step]) -> Step:
    for step in steps:
        if step.name == name:
            return step
    names = ", ".join(step.name for step in steps)
    raise UsageError("E-USAGE-STEP", f"This recipe has no step {name!r}.", f"Use one of {names}.")
