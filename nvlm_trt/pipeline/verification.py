"""Reads a deployment again, byte by byte, and compares it with its manifest."""

from __future__ import annotations

import contextlib
import fcntl
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from nvlm_trt.errors import BuildError
from nvlm_trt.pipeline.consistency import stale_steps
from nvlm_trt.pipeline.digests import sha256_file
from nvlm_trt.pipeline.manifest import MANIFEST, FileEntry, Manifest, require_manifest

__all__ = ["Finding", "Verification", "verify"]

State = Literal["altered", "gone", "cut short", "unreadable", "stale", "unknown"]
_CHECKPOINT = "checkpoint:"
# What a build or a failed start of the server leaves that is no artefact.
_NO_ARTEFACTS = (MANIFEST, "decoder/trtllm-build.log", "server.log")


@dataclass(frozen=True, slots=True)
class Finding:
    """``name`` is a file below the deployment, ``checkpoint:NAME`` a file of the checkpoint, or a step that is stale.

    "unknown" is a file that no step has made: worth a look, no fault.
    """

    name: str
    state: State
    step: str = ""
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Verification:
    num_files: int
    num_bytes: int
    findings: tuple[Finding, ...]

    @property
    def faults(self) -> tuple[Finding, ...]:
        return tuple(finding for finding in self.findings if finding.state != "unknown")

    def to_json(self) -> dict[str, Any]:
        return {
            "format": 1,
            "whole": not self.faults,
            "num_files": self.num_files,
            "num_bytes": self.num_bytes,
            "findings": [asdict(finding) for finding in self.findings],
        }


def verify(
    out: Path, *, checkpoint: Path | None = None, advanced: Callable[[int, int, str], None] | None = None
) -> Verification:
    """Hash every file that the manifest names; with ``checkpoint`` also the files of it that steps have read.

    ``advanced`` is told bytes done, bytes in all and "B". Works in a folder that cannot be written to.

    Raises ``ArtefactError`` E-ARTEFACT-MANIFEST, or E-ARTEFACT-DEPLOYMENT where nothing was built; ``BuildError``
    E-BUILD-LOCKED while a build is at work there.
    """
    with _no_build(out):
        manifest = require_manifest(out)
        wanted = [_Wanted(out / name, name, step, entry) for step, name, entry in _outputs(manifest)]
        wanted += _inputs(manifest, checkpoint) if checkpoint is not None else []
        reader = _Reader(sum(one.size_on_disk for one in wanted), advanced)
        findings = [finding for one in wanted if (finding := reader.check(one)) is not None]
        findings += [Finding(step, "stale", step, reason) for step, reason in stale_steps(manifest).items()]
        findings += [Finding(name, "unknown") for name in _unknown(out, manifest)]
        return Verification(len(wanted), reader.done, tuple(findings))


@dataclass(frozen=True, slots=True)
class _Wanted:
    """``entry.size`` is -1 where only the hash is known."""

    file: Path
    name: str
    step: str
    entry: FileEntry | str

    @property
    def size_on_disk(self) -> int:
        try:
            return self.file.stat().st_size
        except OSError:
            return 0


class _Reader:
    def __init__(self, total: int, advanced: Callable[[int, int, str], None] | None) -> None:
        self.done = 0
        self._total = total
        self._advanced = advanced

    def check(self, wanted: _Wanted) -> Finding | None:
        if not wanted.file.is_file():
            return Finding(wanted.name, "gone", wanted.step)
        entry = wanted.entry
        if isinstance(entry, FileEntry) and wanted.size_on_disk < entry.size:
            return Finding(wanted.name, "cut short", wanted.step)
        try:
            sha256 = sha256_file(wanted.file, self._read).sha256
        except OSError:
            return Finding(wanted.name, "unreadable", wanted.step)
        same = sha256 == (entry.sha256 if isinstance(entry, FileEntry) else entry)
        return None if same else Finding(wanted.name, "altered", wanted.step)

    def _read(self, count: int) -> None:
        self.done += count
        if self._advanced is not None:
            self._advanced(self.done, self._total, "B")


def _outputs(manifest: Manifest) -> Iterator[tuple[str, str, FileEntry]]:
    for step, recorded in sorted(manifest.steps.items()):
        for name, entry in sorted(recorded.outputs.items()):
            yield step, name, entry


def _inputs(manifest: Manifest, checkpoint: Path) -> list[_Wanted]:
    """Each file once, under the first step that read it."""
    found: dict[str, _Wanted] = {}
    for step, recorded in sorted(manifest.steps.items()):
        for name, sha256 in sorted(recorded.inputs.items()):
            if name.startswith(_CHECKPOINT):
                file = checkpoint / name.removeprefix(_CHECKPOINT)
                found.setdefault(name, _Wanted(file, name, step, sha256))
    return list(found.values())


def _unknown(out: Path, manifest: Manifest) -> list[str]:
    known = {*manifest.files(""), *_NO_ARTEFACTS}
    files = (file.relative_to(out) for file in out.rglob("*") if file.is_file())
    return sorted(file.as_posix() for file in files if file.parts[0] != ".build" and file.as_posix() not in known)


@contextlib.contextmanager
def _no_build(out: Path) -> Iterator[None]:
    """While a build is at work, half of what is there is about to change. Reading needs no right to write."""
    try:
        lock = (out / ".build" / "lock").open("rb")
    except OSError:
        yield
        return
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BuildError(
                "E-BUILD-LOCKED", f"A build is at work in {out.name or 'this folder'}.", "Wait for it to end."
            ) from None
        yield
