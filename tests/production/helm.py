"""The real Helm, as an operator runs it: a file of values in, objects out."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from nvlm_trt.pipeline.recipe_file import read_draft, recipe_names

__all__ = [
    "BUILD",
    "CHART",
    "EXAMPLES",
    "KINDS",
    "LEAST",
    "PRODUCTION",
    "TOOLS",
    "Refused",
    "Rendered",
    "defaults",
    "notes",
    "render",
]

BUILD = Path(__file__).parents[2] / "build"
CHART = BUILD / "helm" / "nvlm-trt"
EXAMPLES = sorted((BUILD / "helm" / "examples").glob("*.yaml"))
TOOLS = Path(sys.prefix) / "tools"

KINDS = {"Deployment", "LeaderWorkerSet", "Job"}
"""Of objects that run pods."""

PRODUCTION = [name for name in recipe_names() if read_draft(name).gpu is not None]
"""Recipes for GPUs."""

LEAST: dict[str, Any] = {"storage": {"checkpoint": {"existingClaim": "nvlm-d-72b"}}}
"""What no default can know."""


class Refused(Exception):
    """What Helm said instead of rendering."""


@dataclass(frozen=True)
class Rendered:
    objects: tuple[dict[str, Any], ...]

    def all(self, kind: str) -> list[dict[str, Any]]:
        return [one for one in self.objects if one["kind"] == kind]

    def one(self, kind: str, ending: str = "") -> dict[str, Any]:
        (found,) = (one for one in self.all(kind) if one["metadata"]["name"].endswith(ending))
        return found

    @property
    def templates(self) -> dict[str, dict[str, Any]]:
        """Pod templates by the component that their label names."""
        found = [one["spec"]["template"] for kind in ("Deployment", "Job") for one in self.all(kind)]
        for group in self.all("LeaderWorkerSet"):
            found += [group["spec"]["leaderWorkerTemplate"][name] for name in ("leaderTemplate", "workerTemplate")]
        return {pod["metadata"]["labels"]["app.kubernetes.io/component"]: pod for pod in found}


def render(values: dict[str, Any], folder: Path, *, unchecked: bool = False) -> Rendered:
    """``unchecked`` leaves the schema of the values out. Raises ``Refused``."""
    more = ["--skip-schema-validation"] if unchecked else []
    text = _helm(["template", "web", str(CHART), "--namespace", "models", *more], values, folder)
    return Rendered(tuple(one for one in yaml.load_all(text, yaml.CSafeLoader) if one is not None))


def notes(values: dict[str, Any], folder: Path) -> str:
    """What ``helm install`` would say at its end."""
    told = _helm(["install", "web", str(CHART), "--namespace", "models", "--dry-run=client"], values, folder)
    return told.partition("NOTES:")[2]


def defaults() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((CHART / "values.yaml").read_text(encoding="utf-8"))
    return found


def _helm(command: list[str], values: dict[str, Any], folder: Path) -> str:
    file = folder / "values.yaml"
    file.write_text(yaml.safe_dump(values), encoding="utf-8")
    done = subprocess.run(
        [TOOLS / "helm", *command, "--values", file],
        capture_output=True,
        text=True,
        # Nothing of this user's own settings, and nothing left in their folders.
        env={"PATH": os.environ["PATH"], "HOME": str(folder)},
        timeout=60,
        check=False,
    )
    if done.returncode:
        raise Refused(done.stderr)
    return done.stdout
