"""Pictures to ask about: a file's, or one of a given size painted from a seed.

A painted picture is a JPEG of coloured cells. It is cheap to make, about as large as a photograph, and no tile occurs
twice, so a cache of tiles cannot help.
"""

from __future__ import annotations

import io
import re
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image

from nvlm_trt.errors import UsageError

__all__ = ["check_picture", "picture_bytes"]

_SIZE = re.compile(r"([1-9]\d{0,4})x([1-9]\d{0,4})")
_CELL = 8  # JPEG's own blocks: 0.16 bytes a pixel, as a photograph has, for 10 ns a pixel
_MAX_PIXELS = 64_000_000


def picture_bytes(name: str, folder: Path, seed: int) -> bytes:
    """The file ``name`` of ``folder``, or a painted picture if ``name`` is a size. Raises as ``check_picture`` does."""
    size = _read_size(name)
    if size is None:
        return _file_bytes(folder / name)
    width, height = size
    shape = (-(-height // _CELL), -(-width // _CELL), 3)
    cells = np.random.Generator(np.random.PCG64(seed)).integers(0, 256, shape, np.uint8)
    pixels = cells.repeat(_CELL, axis=0)[:height].repeat(_CELL, axis=1)[:, :width]
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=85)
    return file.getvalue()


def check_picture(name: str, folder: Path) -> None:
    """Raises ``UsageError`` E-LOAD-PICTURE for what is neither a size nor a file that can be read."""
    size = _read_size(name)
    if size is None:
        _file_bytes(folder / name)
    elif size[0] * size[1] > _MAX_PIXELS:
        raise _bad(name, f"has more than {_MAX_PIXELS:,} pixels")


def _read_size(name: str) -> tuple[int, int] | None:
    found = _SIZE.fullmatch(name)
    return (int(found[1]), int(found[2])) if found else None


@lru_cache(maxsize=256)
def _file_bytes(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError:
        raise _bad(file.name, "is neither a size nor a file that can be read") from None


def _bad(name: str, why: str) -> UsageError:
    return UsageError("E-LOAD-PICTURE", f"The picture {name!r} {why}.", 'Name a file, or a size as "1344x896".')
