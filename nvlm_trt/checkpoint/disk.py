"""What writers share: the system's refusals in our words, and renames that survive a power cut."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from nvlm_trt.errors import BuildError

__all__ = ["sync_folder", "writing"]


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
