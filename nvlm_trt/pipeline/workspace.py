"""The deployment's folder while a build works in it: one builder at a time, nothing half written in view.

Everything that is not an artefact lies below ``DIR/.build``: the lock, the memory of digests, the log, and one
``*.partial`` folder for the running step. Outputs are synced there and renamed to their place, so they share a file
system with it. A killed build leaves a ``*.partial`` folder, which the next build removes, and for the longest steps a
``*.scratch`` folder, from which it goes on.

An output replaces what has its name. So in a folder where no build has been, nothing may have one.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

from nvlm_trt.checkpoint.disk import sync_folder
from nvlm_trt.errors import BuildError, UsageError
from nvlm_trt.pipeline.manifest import MANIFEST, replace_text

__all__ = ["Workspace", "open_workspace", "require_own"]

_NO_SPACE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_NO_WRITE = {errno.EROFS, errno.EACCES, errno.EPERM}
_NO_FOLDER = _NO_WRITE | {errno.ENOTDIR, errno.EEXIST, errno.ENOENT}
_INNER = ".build"


class Workspace:
    """The folder, locked. ``out`` is where artefacts lie."""

    def __init__(self, out: Path) -> None:
        self.out = out
        self.inner = out / _INNER

    @contextlib.contextmanager
    def partial(self, step: str) -> Iterator[Path]:
        """An empty folder for one step's outputs, gone afterwards."""
        folder = self.inner / f"{step}.partial"
        folder.mkdir()
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def scratch(self, step: str) -> Path:
        """A folder that outlives a kill; ``drop_scratch`` removes it."""
        folder = self.inner / f"{step}.scratch"
        folder.mkdir(exist_ok=True)
        return folder

    def drop_scratch(self, step: str) -> None:
        shutil.rmtree(self.inner / f"{step}.scratch", ignore_errors=True)

    def sync(self, folder: Path) -> None:
        """Bring a folder's files to disk."""
        for file in sorted(folder.rglob("*")):
            if file.is_file():
                _sync_file(file)
            elif file.is_dir():
                sync_folder(file)

    def install(self, partial: Path, outputs: tuple[str, ...]) -> None:
        """Move synced outputs from the step's folder to their place, replacing what was there."""
        for output in outputs:
            place = self.out / output
            place.parent.mkdir(parents=True, exist_ok=True)
            self.remove(output)
            (partial / output).replace(place)
            sync_folder(place.parent)

    def remove(self, output: str) -> None:
        """Take an old output out of view in one rename, then delete it."""
        place = self.out / output
        if place.is_dir() and not place.is_symlink():
            trash = self.inner / "replaced.partial"
            shutil.rmtree(trash, ignore_errors=True)
            place.replace(trash)
            shutil.rmtree(trash)
        else:
            place.unlink(missing_ok=True)

    def clean(self) -> None:
        """Remove what a killed build left."""
        for leftover in [*self.inner.glob("*.partial"), *self.out.glob(f"{MANIFEST}.partial")]:
            if leftover.is_dir() and not leftover.is_symlink():
                shutil.rmtree(leftover)
            else:
                leftover.unlink()

    def write_text(self, name: str, text: str) -> None:
        replace_text(self.out / name, text)


def require_own(out: Path, outputs: Iterable[str]) -> None:
    """Raises ``UsageError`` E-USAGE-OUT where one of ``outputs`` is in a folder that no build has worked in."""
    # Not pathlib's way, which raises where a folder may not be looked into; such a one is explained by whoever writes.
    if any(os.path.lexists(out / name) for name in (_INNER, MANIFEST)):
        return
    for output in outputs:
        if os.path.lexists(out / output):
            raise UsageError(
                "E-USAGE-OUT",
                f"{out.resolve().name or 'The folder'} holds {output!r}, which no build made and this would replace.",
                "Name a new folder with -o.",
            )


@contextlib.contextmanager
def open_workspace(out: Path) -> Iterator[Workspace]:
    """Make and lock the folder.

    Raises ``BuildError``: E-BUILD-LOCKED while another build works there; E-BUILD-WRITE and E-BUILD-SPACE when the
    folder cannot be written to, now or later.
    """
    workspace = Workspace(out)
    with _explained(out, _NO_FOLDER):
        workspace.inner.mkdir(parents=True, exist_ok=True)
    with _explained(out, _NO_WRITE), (workspace.inner / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BuildError(
                "E-BUILD-LOCKED",
                f"Another build is at work in {out.name or 'this folder'}.",
                "Wait for it to end, or choose another folder with -o.",
            ) from None
        workspace.clean()
        yield workspace


@contextlib.contextmanager
def _explained(out: Path, no_write: set[int]) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in _NO_SPACE:
            raise BuildError(
                "E-BUILD-SPACE",
                f"The disk that holds {out.name or 'the folder'} is full.",
                "Make room and run the same command again: finished steps are kept.",
            ) from error
        if error.errno in no_write and _below(error.filename, out):
            raise BuildError(
                "E-BUILD-WRITE",
                f"{out.name or 'The folder'} cannot be written to.",
                "Choose another folder with -o, or correct its permissions.",
            ) from error
        raise


def _below(filename: object, out: Path) -> bool:
    """Whether a failed path is part of the way to ``out`` or lies in it."""
    if not isinstance(filename, (str, bytes)):
        return False
    path, folder = Path(os.fsdecode(filename)).absolute(), out.absolute()
    return path.is_relative_to(folder) or folder.is_relative_to(path)


def _sync_file(file: Path) -> None:
    descriptor = os.open(file, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
