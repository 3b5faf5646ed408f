"""``manifest.json``: what a deployment was built from and what it holds.

It contains no time, no host and no path except the checkpoint's (and that of a user's own calibration set), so that
equal inputs give equal bytes. A step's entry is removed before its outputs are replaced and put back after, so whatever
the manifest claims is there, even after a kill. It ends with a hash of itself, so that a byte flipped in it is found
too.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Literal

import pydantic

import nvlm_trt
from nvlm_trt.checkpoint.base import Checkpoint
from nvlm_trt.checkpoint.disk import sync_folder
from nvlm_trt.errors import ArtefactError
from nvlm_trt.pipeline.digests import sha256_json
from nvlm_trt.pipeline.recipe import Recipe

__all__ = [
    "MANIFEST",
    "FileEntry",
    "Manifest",
    "StepEntry",
    "load_manifest",
    "manifest_for",
    "replace_text",
    "require_manifest",
]

MANIFEST = "manifest.json"
_OWN_HASH = "sha256_of_all_else"


class _Model(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid", strict=True)


class FileEntry(_Model):
    sha256: str = pydantic.Field(pattern=r"^[0-9a-f]{64}$")
    size: int = pydantic.Field(ge=0)


class StepEntry(_Model):
    """``inputs`` maps "checkpoint:", "artefact:" and "resource:" names to SHA-256; ``key`` hashes all the rest."""

    key: str
    inputs: dict[str, str]
    values: dict[str, pydantic.JsonValue]
    versions: dict[str, str]
    outputs: dict[str, FileEntry]


class Manifest(_Model):
    format: Literal[2] = 2
    nvlm_trt: str
    checkpoint: str
    recipe: dict[str, pydantic.JsonValue]
    steps: dict[str, StepEntry] = {}

    def dump(self) -> str:
        data = self.model_dump(mode="json")
        return json.dumps(data | {_OWN_HASH: sha256_json(data)}, sort_keys=True, indent=2, ensure_ascii=False) + "\n"

    def files(self, path: str) -> dict[str, FileEntry]:
        """The recorded files at ``path`` or below it, whichever step made them; all of them for ""."""
        return {
            name: entry
            for step in self.steps.values()
            for name, entry in step.outputs.items()
            if not path or name == path or name.startswith(f"{path}/")
        }


def load_manifest(out: Path) -> Manifest | None:
    """The deployment's manifest, or None where nothing was built yet.

    Raises ``ArtefactError`` E-ARTEFACT-MANIFEST when there is one that cannot be read.
    """
    try:
        text = (out / MANIFEST).read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError:
        raise _unreadable("cannot be opened") from None
    try:
        data = json.loads(text)
        own_hash = data.pop(_OWN_HASH, None) if isinstance(data, dict) else None
        manifest = Manifest.model_validate(data)
    except (ValueError, RecursionError) as error:
        if not isinstance(error, pydantic.ValidationError):
            raise _unreadable("is not whole JSON") from None
        first = error.errors(include_url=False, include_input=False)[0]
        if first["loc"] == ("format",) and "format" in data:
            raise _unreadable("was written by a version of nvlm-trt with another format") from None
        raise _unreadable(f"is damaged at {'.'.join(str(part) for part in first['loc']) or 'its start'}") from None
    if own_hash != sha256_json(data):
        raise _unreadable("was changed after it was written")
    return manifest


def require_manifest(out: Path) -> Manifest:
    """The deployment's manifest.

    Raises ``ArtefactError`` E-ARTEFACT-MANIFEST, or E-ARTEFACT-DEPLOYMENT where nothing was built.
    """
    manifest = load_manifest(out)
    if manifest is None:
        raise ArtefactError(
            "E-ARTEFACT-DEPLOYMENT",
            f"{out.name or 'The folder'} holds no deployment.",
            "Name the folder that nvlm-trt build was given.",
        )
    return manifest


def manifest_for(checkpoint: Checkpoint, recipe: Recipe, out: Path) -> Manifest:
    """A manifest with a new build's head and the steps of the last one, if there was one."""
    last = load_manifest(out)
    return Manifest(
        nvlm_trt=nvlm_trt.__version__,
        checkpoint=str(checkpoint.root.resolve()),
        recipe=recipe.model_dump(mode="json"),
        steps=dict(last.steps) if last is not None else {},
    )


def replace_text(file: Path, text: str) -> None:
    """Write a small file so that a kill, or a full disk, leaves the old one or the new one."""
    partial = file.with_name(f"{file.name}.partial")
    try:
        with partial.open("w", encoding="utf-8") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
    except OSError:
        partial.unlink(missing_ok=True)
        raise
    partial.replace(file)
    sync_folder(file.parent)


def _unreadable(how: str) -> ArtefactError:
    return ArtefactError(
        "E-ARTEFACT-MANIFEST",
        f"The folder's {MANIFEST} {how}.",
        f"Delete {MANIFEST} and build again; every step will then run.",
    )
