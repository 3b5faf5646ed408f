"""What writers share: the system's errors in our words, and renames that survive a power cut."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from nvlm_trt.errors import BuildError

__all__ = ["partial_path", "publish", "sync_folder", "write_beside", "writing"]


@contextmanager
def writing(name: str) -> Iterator[None]:
    """Turns an ``OSError`` inside it into ``BuildError`` E-BUILD-SPACE or E-BUILD-WRITE about the file ``name``."""
    try:
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        what = "no room is left for it" if full else "the folder is missing or may not be written"
        fix = "Free some space." if full else "Check the folder and its permissions."
        code = "E-BUILD-SPACE" if full else "E-BUILD-WRITE"
        raise BuildError(code, f"{name} cannot be written: {what}.", fix) from None


def sync_folder(folder: Path) -> None:
    """A rename is on disk only when its folder is."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def partial_path(path: Path) -> Path:
    """Where a file lies while it is made."""
    return path.with_name(f"{path.name}.partial")


def write_beside(path: Path, data: bytes) -> None:
    """Write the file under its temporary name, and sync it to disk."""
    with writing(path.name), partial_path(path).open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def publish(paths: Sequence[Path]) -> None:
    """Rename the finished files of one folder to their final names.

    The last one says that all are there: its old version is removed first, and it comes last.
    """
    marker = paths[-1]
    with writing(marker.name):
        marker.unlink(missing_ok=True)
        for path in paths:
            partial_path(path).replace(path)
        sync_folder(marker.parent)
