"""A finished deployment for those who serve it: its folder, its checkpoint's folder, and how it was built."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from nvlm_trt.errors import ArtefactError
from nvlm_trt.pipeline.consistency import recorded_recipe, stale_steps
from nvlm_trt.pipeline.manifest import load_manifest
from nvlm_trt.pipeline.recipe import Recipe
from nvlm_trt.pipeline.steps import steps_for

__all__ = ["Deployment", "open_deployment"]

_LAST_STEP = "triton.repository"


@dataclass(frozen=True, slots=True)
class Deployment:
    folder: Path
    checkpoint: Path
    recipe: Recipe


def open_deployment(folder: Path, checkpoint: Path | None = None) -> Deployment:
    """Read the manifest; ``checkpoint`` says where the checkpoint is now, if not where it was built from.

    Raises ``ArtefactError``: E-ARTEFACT-MANIFEST, E-ARTEFACT-DEPLOYMENT where nothing was built or steps are left,
    E-ARTEFACT-CHECKPOINT when the checkpoint is not where it was, E-ARTEFACT-FILE for a file that is gone or cut short,
    E-ARTEFACT-STALE for a step whose inputs were rebuilt after it.
    """
    manifest = load_manifest(folder)
    if manifest is None or _LAST_STEP not in manifest.steps:
        raise ArtefactError(
            "E-ARTEFACT-DEPLOYMENT",
            f"{folder.name or 'The folder'} holds no finished deployment.",
            "Build one: nvlm-trt build MODEL --recipe embedded -o DIR",
        )
    for name, entry in sorted(manifest.files("").items()):
        if not (folder / name).is_file() or (folder / name).stat().st_size != entry.size:
            raise ArtefactError("E-ARTEFACT-FILE", f"{name} is gone or cut short.", "Run the same build again.")
    for step, reason in stale_steps(manifest).items():
        raise ArtefactError("E-ARTEFACT-STALE", f"{step} is stale: {reason}.", "Run the same build again.")
    recipe = recorded_recipe(manifest)
    assert recipe is not None  # else every step would have been stale
    left = [step.name for step in steps_for(recipe) if step.name not in manifest.steps]
    if left:
        raise ArtefactError(
            "E-ARTEFACT-DEPLOYMENT",
            f"The deployment is not finished; of its steps are left: {', '.join(left)}.",
            "Run the same build where their tools are: nvlm-trt explain DIR shows how.",
        )
    root = checkpoint or Path(manifest.checkpoint)
    if not (root / "config.json").is_file():
        raise ArtefactError(
            "E-ARTEFACT-CHECKPOINT",
            "The checkpoint is not where it was when the deployment was built; engines read weights from it.",
            "Name its folder with --checkpoint.",
        )
    return Deployment(folder.resolve(), root.resolve(), recipe)
