"""How a deployment as built differs from this machine as it is, and the cheapest repair of each difference.

There are two kinds: differences that keep it from being served here, and those that only make the next build redo
steps. Files are stat'ed, not read: ``verify`` reads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import nvlm_trt
from nvlm_trt.pipeline.consistency import recorded_recipe, stale_steps
from nvlm_trt.pipeline.container import container_command
from nvlm_trt.pipeline.engines_here import Here, engine_differences, this_machine
from nvlm_trt.pipeline.keys import versions_of
from nvlm_trt.pipeline.manifest import Manifest, require_manifest
from nvlm_trt.pipeline.recipe import Recipe
from nvlm_trt.pipeline.recipe_file import read_draft, recipe_names
from nvlm_trt.pipeline.steps import steps_for

__all__ = ["Difference", "Explanation", "explain"]


@dataclass(frozen=True, slots=True)
class Difference:
    """``blocks`` is whether it keeps the deployment from being served here; ``repair`` is a command, or empty."""

    part: str
    built: str
    here: str
    blocks: bool
    steps: tuple[str, ...] = ()
    repair: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Explanation:
    recipe: str
    differences: tuple[Difference, ...]

    @property
    def serves(self) -> bool:
        return not any(difference.blocks for difference in self.differences)

    def to_json(self) -> dict[str, Any]:
        return {
            "format": 1,
            "recipe": self.recipe,
            "serves": self.serves,
            "differences": [asdict(difference) for difference in self.differences],
        }


def explain(out: Path, here: Here | None = None) -> Explanation:
    """``here`` is this machine, unless another is given.

    Raises ``ArtefactError`` E-ARTEFACT-MANIFEST, or E-ARTEFACT-DEPLOYMENT where nothing was built.
    """
    manifest = require_manifest(out)
    return Explanation(
        str(manifest.recipe.get("name", "")), tuple(_Look(out, manifest, here or this_machine()).differences())
    )


class _Look:
    def __init__(self, out: Path, manifest: Manifest, here: Here) -> None:
        self._out = out
        self._here = here
        self._manifest = manifest
        self._recipe = recorded_recipe(manifest)

    def differences(self) -> Iterator[Difference]:
        looks: tuple[Callable[[], Iterator[Difference]], ...] = (
            *(self._checkpoint, self._files, self._left, self._stale, self._engines),
            *(self._recipe_now, self._versions),
        )
        for look in looks:
            yield from look()

    def _checkpoint(self) -> Iterator[Difference]:
        if not (Path(self._manifest.checkpoint) / "config.json").is_file():
            serve = ("nvlm-trt", "serve", str(self._out), "--checkpoint", "FOLDER")
            yield Difference("checkpoint", self._manifest.checkpoint, "not there", blocks=True, repair=serve)

    def _files(self) -> Iterator[Difference]:
        for step, entry in sorted(self._manifest.steps.items()):
            for name, file in sorted(entry.outputs.items()):
                place = self._out / name
                size = place.stat().st_size if place.is_file() else None
                if size != file.size:
                    here = "not there" if size is None else f"{size} bytes"
                    yield Difference(name, f"{file.size} bytes", here, True, (step,), self._build())

    def _left(self) -> Iterator[Difference]:
        if self._recipe is None:
            yield Difference("recipe", "readable", "not readable by this version", True, repair=self._build())
            return
        for step in steps_for(self._recipe):
            if step.name in self._manifest.steps:
                continue
            lacking = step.lacking(self._recipe)
            here = lacking or "it can be"
            repair = self._build_elsewhere(self._recipe) if lacking else self._build()
            yield Difference("step", "not yet", here, True, (step.name,), repair)

    def _stale(self) -> Iterator[Difference]:
        for step, reason in stale_steps(self._manifest).items():
            yield Difference(step, reason, "the newer one is there", True, (step,), self._build())

    def _engines(self) -> Iterator[Difference]:
        for found in engine_differences(self._out, self._manifest, self._here):
            yield Difference(found.part, found.built, found.here, True, (found.step,), self._build())

    def _recipe_now(self) -> Iterator[Difference]:
        """A shipped recipe that differs in this version, or the user's own under the same name: only they know what to
        build from.
        """
        for key, built, here in self._from_shipped():
            yield Difference(f"recipe {key}", str(built), str(here), False)

    def _from_shipped(self) -> list[tuple[str, Any, Any]]:
        if self._recipe is None or self._recipe.name not in recipe_names():
            return []
        now = read_draft(self._recipe.name).model_dump(mode="json")
        changed = _changed(self._recipe.model_dump(mode="json"), now)
        # What the file leaves to be computed cannot differ, and where a set lies is the user's matter.
        return [one for one in changed if one[2] != "auto" and one[0] != "decoder.max_kv_tokens"]

    def _versions(self) -> Iterator[Difference]:
        if self._manifest.nvlm_trt != nvlm_trt.__version__:
            yield Difference("nvlm-trt", self._manifest.nvlm_trt, nvlm_trt.__version__, False)
        differing: dict[tuple[str, str, str], list[str]] = {}
        for step in steps_for(self._recipe) if self._recipe is not None else ():
            entry = self._manifest.steps.get(step.name)
            if entry is None:
                continue
            here = versions_of(step)
            for name in sorted(entry.versions.keys() | here.keys()):
                built_version, own = entry.versions.get(name, "-"), here.get(name, "-")
                if built_version != own:
                    differing.setdefault((name, built_version, own), []).append(step.name)
        for (name, built_version, own), steps in differing.items():
            yield Difference(name, built_version, own, False, tuple(steps), self._build())

    def _build(self) -> tuple[str, ...]:
        """The same build again: it does what is due and nothing else."""
        return ("nvlm-trt", "build", self._manifest.checkpoint, "--recipe", self._recipe_name(), "-o", str(self._out))

    def _build_elsewhere(self, recipe: Recipe) -> tuple[str, ...]:
        """The same in the recipe's container, which has the tools, if the recipe names one."""
        container = container_command(recipe, self._recipe_name(), Path(self._manifest.checkpoint), self._out)
        return container or self._build()

    def _recipe_name(self) -> str:
        name = str(self._manifest.recipe.get("name", ""))
        shipped = name in recipe_names() and not self._from_shipped()
        return name if shipped else f"{name or 'RECIPE'}.toml"


def _changed(built: Mapping[str, Any], now: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any, Any]]:
    for key in sorted(built.keys() | now.keys()):
        old, new = built.get(key), now.get(key)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            yield from _changed(old, new, f"{prefix}{key}.")
        elif old != new:
            yield f"{prefix}{key}", old, new
