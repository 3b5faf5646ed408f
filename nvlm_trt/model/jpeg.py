"""Ordinary JPEGs decoded straight to bytes, by libjpeg-turbo without Pillow in between.

Pillow decodes with the same library and gives the same pixels, but keeps them where reaching them costs a copy. That
copy and Pillow's own bookkeeping take half as long again as the decoding. ``simplejpeg`` (extra ``fast``) writes into a
given array.

Only plain cases are decoded here: three components of eight bits, the size that Pillow read in the header, no warning
from the library. For anything else ``quick_jpeg`` returns None, and Pillow decides what it is and whether it can be
read. Size and scans were checked before, and the array is made for the checked size, so no header read by another
parser can ask for more memory.
"""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Callable
from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile

__all__ = ["JpegDecoder", "fastest_jpeg", "quick_jpeg"]

JpegDecoder = Callable[[bytes, ImageFile], NDArray[np.uint8] | None]
"""A JPEG's bytes and Pillow's reading of its header, to uint8 [height, width, 3], or None to leave it to Pillow."""

_LOG = logging.getLogger(__name__)
_RGB_LAYERS = 3


def quick_jpeg(data: bytes, header: ImageFile) -> NDArray[np.uint8] | None:
    """A ``JpegDecoder``."""
    import simplejpeg

    if header.mode != "RGB" or not isinstance(header, JpegImageFile) or header.layers != _RGB_LAYERS:
        return None
    width, height = header.size
    try:
        if simplejpeg.decode_jpeg_header(data)[:2] != (height, width):
            return None
        pixels = np.empty((height, width, _RGB_LAYERS), np.uint8)
        decoded: NDArray[np.uint8] = simplejpeg.decode_jpeg(data, "RGB", buffer=pixels)
    except Exception:  # damaged, or of a kind that this build does not read; Pillow finds the words
        return None
    return decoded


def fastest_jpeg() -> JpegDecoder | None:
    """``quick_jpeg`` where the extra ``fast`` is installed and agrees with Pillow here, else None; ask once, when a
    process starts. A build of libjpeg-turbo for another processor, or with another transform, would not agree."""
    if importlib.util.find_spec("simplejpeg") is None:
        return None
    if not _agrees(quick_jpeg):
        _LOG.warning("simplejpeg and Pillow decode JPEGs to different pixels on this machine; Pillow is used.")
        return None
    return quick_jpeg


def _agrees(decode: JpegDecoder) -> bool:
    """Whether ``decode`` gives Pillow's bits for hard edges and bright colours, in the usual subsamplings."""
    pixels = np.random.default_rng(0).integers(0, 2, (37, 75, 3), dtype=np.uint8) * np.uint8(255)
    for subsampling in ("4:4:4", "4:2:2", "4:2:0"):
        for progressive in (False, True):
            file = BytesIO()
            Image.fromarray(pixels).save(file, "JPEG", subsampling=subsampling, progressive=progressive)
            header = JpegImageFile(BytesIO(file.getvalue()))
            seen = decode(file.getvalue(), header)
            if seen is None or not np.array_equal(seen, np.asarray(header)):
                return False
    return True
