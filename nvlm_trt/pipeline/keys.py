"""The content key of a step: one hash over everything that can change its outcome.

Our own code counts by the digest of its source, not by the version number, which does not change while somebody edits.
Libraries count by their version. Two machines with the same inputs and libraries compute the same keys.
"""

from __future__ import annotations

import functools
import importlib.metadata
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, cast

from nvlm_trt.checkpoint.base import Checkpoint
from nvlm_trt.pipeline.digests import DigestMemory, sha256_file, sha256_json
from nvlm_trt.pipeline.manifest import Manifest, StepEntry
from nvlm_trt.pipeline.recipe import Recipe
from nvlm_trt.pipeline.sources import source_digest
from nvlm_trt.pipeline.step import Step
from nvlm_trt.resources import resource_folder

__all__ = ["MissingArtefact", "checkpoint_files", "difference", "entry_of", "recipe_values", "versions_of"]


class MissingArtefact(Exception):
    """An artefact that the step reads was not built."""

    def __init__(self, artefact: str) -> None:
        super().__init__(artefact)
        self.artefact = artefact


def entry_of(
    step: Step,
    checkpoint: Checkpoint,
    recipe: Recipe,
    manifest: Manifest,
    memory: DigestMemory,
    advanced: Callable[[int], None] | None = None,
) -> StepEntry:
    """The step's manifest entry, still without outputs. Reads those inputs whose digest is not remembered.

    Raises ``MissingArtefact`` when an earlier step has left something undone.
    """
    inputs = {
        f"checkpoint:{file.relative_to(checkpoint.root).as_posix()}": memory.digest(file, advanced).sha256
        for file in checkpoint_files(step, checkpoint)
    }
    for artefact in step.artefacts:
        recorded = manifest.files(artefact)
        if not recorded:
            raise MissingArtefact(artefact)
        inputs |= {f"artefact:{name}": entry.sha256 for name, entry in recorded.items()}
    for resource in step.resources:
        inputs |= {f"resource:{name}": sha256_file(file).sha256 for name, file in _resource_files(resource)}
    inputs |= {f"file:{name}": memory.digest(file, advanced).sha256 for name, file in step.files(recipe).items()}
    values, versions = recipe_values(recipe, step.values), versions_of(step)
    key = sha256_json(
        {"step": step.name, "inputs": inputs, "values": values, "versions": versions, "outputs": step.outputs}
    )
    return StepEntry(key=key, inputs=inputs, values=values, versions=versions, outputs={})


def difference(old: StepEntry, new: StepEntry, out: Path) -> str | None:
    """Why a step that ran as ``old`` must run again, or None when it need not.

    Outputs count as present when their size is right; ``verify`` is there to read them again.
    """
    for name, entry in sorted(old.outputs.items()):
        file = out / name
        if not file.is_file() or file.stat().st_size != entry.size:
            return f"{name} is gone or cut short"
    if old.key == new.key:
        return None
    for before, after in ((old.values, new.values), (old.versions, new.versions), (old.inputs, new.inputs)):
        changed = sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))
        if changed:
            return f"{changed[0]} changed"
    return "the step itself changed"


def checkpoint_files(step: Step, checkpoint: Checkpoint) -> list[Path]:
    """The files of the checkpoint that the step reads, sorted by name, each once."""
    names = [name for name in checkpoint.names() if any(name.startswith(prefix) for prefix in step.tensors)]
    files = {file for name in names for file in checkpoint.files(name)}
    documents = (file for name in step.documents for file in checkpoint.root.glob(name))
    return sorted(files | {file for file in documents if file.is_file()})


def recipe_values(recipe: Recipe, keys: tuple[str, ...]) -> dict[str, Any]:
    """The recipe's values at dotted keys; a key that is not there is a bug in the step."""
    data: Mapping[str, Any] = recipe.model_dump(mode="json")
    return {key: functools.reduce(lambda value, part: value[part], key.split("."), data) for key in keys}


def versions_of(step: Step) -> dict[str, str]:
    libraries = {name: importlib.metadata.version(name) for name in step.libraries}
    return libraries | {f"nvlm_trt.{name}": source_digest(name) for name in step.code}


def _resource_files(resource: str) -> Iterator[tuple[str, Path]]:
    folder, _, below = resource.partition("/")
    root = resource_folder(cast("Any", folder))
    base = root / below if below else root
    for file in sorted(base.rglob("*")) if base.is_dir() else [base]:
        if file.is_file() and "__pycache__" not in file.parts:
            yield f"{folder}/{file.relative_to(root).as_posix()}", file
