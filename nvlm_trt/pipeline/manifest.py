"""``manifest.json``: what a deployment was built from and what it holds.

It carries no time, no host and no path but the checkpoint's, so that equal inputs give equal bytes. A step's entry is
taken out before its outputs are replaced and put back after: whatever the manifest claims is there, even after a kill.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Literal

import pydantic

from nvlm_trt.checkpoint.disk import sync_folder
from nvlm_trt.errors import ArtefactError

__all__ = ["MANIFEST", "FileEntry", "Manifest", "StepEntry", "load_manifest", "write_beside"]

MANIFEST = "manifest.json"


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
    format: Literal[1] = 1
    nvlm_trt: str
    checkpoint: str
    recipe: dict[str, pydantic.JsonValue]
    steps: dict[str, StepEntry] = {}

    def dump(self) -> str:
        return json.dumps(self.model_dump(mode="json"), sort_keys=True, indent=2, ensure_ascii=False) + "\n"

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
        return Manifest.model_validate_json(text)
    except pydantic.ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise _unreadable(f"is damaged at {where}" if where else "is not whole JSON") from None


def write_beside(file: Path, text: str) -> None:
    """Write a small file so that a kill leaves the old one or the new one."""
    partial = file.with_name(f"{file.name}.partial")
    with partial.open("w", encoding="utf-8") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
    partial.replace(file)
    sync_folder(file.parent)


def _unreadable(how: str) -> ArtefactError:
    return ArtefactError(
        "E-ARTEFACT-MANIFEST",
        f"The folder's {MANIFEST} {how}.",
        f"Delete {MANIFEST} and build again; every step will then run.",
    )
