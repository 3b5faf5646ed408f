"""An RGB picture in memory: Pillow's image, or its bytes side by side, uint8 [height, width, 3].

Pillow keeps four bytes a pixel where nobody else can reach them; a decoder that returns the bytes themselves saves the
copy. Code that reads pixels asks here and need not know which it has.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

__all__ = ["Pixels", "picture_size", "read_rows", "to_image"]

Pixels = Image.Image | NDArray[np.uint8]


def picture_size(pixels: Pixels) -> tuple[int, int]:
    """Width and height."""
    return pixels.size if isinstance(pixels, Image.Image) else (pixels.shape[1], pixels.shape[0])


def read_rows(pixels: Pixels, top: int, bottom: int) -> NDArray[np.uint8]:
    """Rows ``top`` to ``bottom``, uint8 [rows, 3 * width]. Of Pillow's image only these are copied."""
    if not isinstance(pixels, Image.Image):
        return pixels[top:bottom].reshape(bottom - top, -1)
    strip = pixels.crop((0, top, pixels.width, bottom)).tobytes("raw", "RGB")
    return np.frombuffer(strip, np.uint8).reshape(bottom - top, -1)


def to_image(pixels: Pixels) -> Image.Image:
    return pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
