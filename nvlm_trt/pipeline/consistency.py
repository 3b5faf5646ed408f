"""Whether the steps of a deployment belong together, judged by the manifest alone.

A build that was stopped midway, or asked to stop at a step, can leave an engine of an older checkpoint beside a newer
one. Nothing in it is damaged, but served together it would answer nonsense.
"""

from __future__ import annotations

import pydantic

from nvlm_trt.pipeline.keys import recipe_values
from nvlm_trt.pipeline.manifest import Manifest, StepEntry
from nvlm_trt.pipeline.recipe import Recipe

__all__ = ["recorded_recipe", "stale_steps"]

_ARTEFACT = "artefact:"


def recorded_recipe(manifest: Manifest) -> Recipe | None:
    """The recipe of the last build; None when this version of nvlm-trt cannot read it."""
    try:
        return Recipe.model_validate(manifest.recipe)
    except pydantic.ValidationError:
        return None


def stale_steps(manifest: Manifest) -> dict[str, str]:
    """Steps whose inputs are no longer those they were built from, each with the first that differs."""
    recipe = recorded_recipe(manifest)
    reasons = ((name, _reason(entry, manifest, recipe)) for name, entry in sorted(manifest.steps.items()))
    return {name: reason for name, reason in reasons if reason is not None}


def _reason(entry: StepEntry, manifest: Manifest, recipe: Recipe | None) -> str | None:
    files = manifest.files("")
    for name, sha256 in sorted(entry.inputs.items()):
        artefact = name.removeprefix(_ARTEFACT)
        if name.startswith(_ARTEFACT) and (artefact not in files or files[artefact].sha256 != sha256):
            return f"it was built from another {artefact}"
    if recipe is None:
        return "the recipe cannot be read by this version"
    for key, value in sorted(entry.values.items()):
        if _value(recipe, key) != value:
            return f"it was built with another {key}"
    return None


def _value(recipe: Recipe, key: str) -> object:
    try:
        return recipe_values(recipe, (key,))[key]
    except (KeyError, TypeError):
        return None
