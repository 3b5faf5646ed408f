"""Letter shapes, drawn once by FreeType and then pasted, so that drawing a line is a few small numpy sums."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

__all__ = ["ALPHABET", "DIGITS", "NUM_FONTS", "Glyph", "cap_height", "glyph"]

DIGITS = "0123456789"
ALPHABET = DIGITS + "ABCDEFGHIJKLMNOPQRSTUVWXYZ"

_FOLDER = Path(__file__).parent / "fonts"
_FILES = (
    "DejaVuSans.ttf",
    "DejaVuSans-Bold.ttf",
    "DejaVuSansCondensed.ttf",
    "DejaVuSansCondensed-Bold.ttf",
    "DejaVuSansMono.ttf",
    "DejaVuSansMono-Bold.ttf",
    "DejaVuSerif.ttf",
    "DejaVuSerif-Bold.ttf",
)
# The last one is Pillow's own, built into it.
NUM_FONTS = len(_FILES) + 1


@dataclass(frozen=True, slots=True)
class Glyph:
    """``alpha`` uint8 [h, w], its corner ``left`` and ``top`` pixels from the pen, ``advance`` to the next pen."""

    alpha: NDArray[np.uint8]
    left: int
    top: int
    advance: float


@cache
def glyph(font: int, size: int, char: str) -> Glyph:
    """``font`` counts from 0, ``size`` is in pixels per em."""
    face = _face(font, size)
    left, top, right, bottom = (int(side) for side in face.getbbox(char, anchor="ls"))
    image = Image.new("L", (max(right - left, 1), max(bottom - top, 1)))
    ImageDraw.Draw(image).text((-left, -top), char, font=face, fill=255, anchor="ls")
    return Glyph(np.array(image), left, top, float(face.getlength(char)))


@cache
def cap_height(font: int, size: int) -> int:
    """Pixels from the baseline to the top of a capital."""
    return -glyph(font, size, "H").top


@cache
def _face(font: int, size: int) -> ImageFont.FreeTypeFont:
    if font < len(_FILES):
        # Basic layout, because the other engine is not everywhere and would place letters differently.
        return ImageFont.truetype(_FOLDER / _FILES[font], size, layout_engine=ImageFont.Layout.BASIC)
    face = ImageFont.load_default(size)
    assert isinstance(face, ImageFont.FreeTypeFont)
    return face
