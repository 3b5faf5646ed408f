"""A picture of words: where each letter stands, what it looks like, and how a patch of it should be read.

A line never crosses a tile's border: the vision tower sees one tile at a time, and reading a letter cut in two would be
guessing.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nvlm_trt.mini.glyphs import ALPHABET, cap_height, glyph

__all__ = ["CELL_LETTERS", "COLOURS", "NO_CHAR", "Panel", "Scene", "Word", "cell_labels", "paint", "patch_labels"]

Rgb = tuple[int, int, int]

COLOURS: dict[str, Rgb] = {
    "black": (15, 15, 15),
    "white": (245, 245, 245),
    "red": (205, 30, 35),
    "green": (25, 130, 50),
    "blue": (35, 65, 200),
    "orange": (245, 140, 20),
    "purple": (135, 40, 165),
    "yellow": (245, 225, 50),
}
# The class of a half patch that no letter's middle falls into.
NO_CHAR = len(ALPHABET)
# As many letters as a cell of 28 pixels is asked for; more need five narrow ones of the smallest type.
CELL_LETTERS = 4


@dataclass(frozen=True, slots=True)
class Word:
    """Letters from a pen at ``x`` on ``baseline``, pixels in the picture; ``tracking`` widens every step."""

    text: str
    font: int
    size: int
    tracking: float
    x: float
    baseline: int
    colour: str
    ink: Rgb

    def steps(self) -> list[float]:
        """Where each letter's pen stands, and at last where the word ends."""
        pens = [self.x]
        for char in self.text:
            pens.append(pens[-1] + glyph(self.font, self.size, char).advance + self.tracking)
        return pens


@dataclass(frozen=True, slots=True)
class Panel:
    left: int
    top: int
    right: int
    bottom: int
    ink: Rgb


@dataclass(frozen=True, slots=True)
class Scene:
    width: int
    height: int
    background: Rgb
    panels: tuple[Panel, ...]
    words: tuple[Word, ...]


def paint(scene: Scene) -> NDArray[np.uint8]:
    """uint8 [height, width, 3]."""
    canvas = np.empty((scene.height, scene.width, 3), np.uint8)
    canvas[:] = scene.background
    for panel in scene.panels:
        canvas[max(panel.top, 0) : panel.bottom, max(panel.left, 0) : panel.right] = panel.ink
    for word in scene.words:
        ink = np.array(word.ink, np.int32)
        for char, pen in zip(word.text, word.steps(), strict=False):
            shape = glyph(word.font, word.size, char)
            top, left = word.baseline + shape.top, round(pen) + shape.left
            alpha = shape.alpha[max(-top, 0) :, max(-left, 0) :, None].astype(np.int32)
            under = canvas[max(top, 0) :, max(left, 0) :][: alpha.shape[0], : alpha.shape[1]]
            alpha = alpha[: under.shape[0], : under.shape[1]]
            under[:] = under + (alpha * (ink - under) + 127) // 255
    return canvas


def patch_labels(scene: Scene, tile: int, patch: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """What stands in each patch, for the grid's tiles row by row, without the thumbnail.

    Returns letters int64 [tiles, patches, 2], the class of the letter whose middle lies in the patch's left or right
    half, ``NO_CHAR`` where there is none; and colours int64 [tiles, patches], -100 where there is no letter.
    """
    rows, cols = scene.height // patch, scene.width // patch
    letters = np.full((rows, cols, 2), NO_CHAR, np.int64)
    colours = np.full((rows, cols), -100, np.int64)
    names = list(COLOURS)
    for word in scene.words:
        row = (word.baseline - cap_height(word.font, word.size) // 2) // patch
        pens = word.steps()
        for char, pen in zip(word.text, pens, strict=False):
            half = int(_middle(word, char, pen) // (patch / 2))
            if 0 <= row < rows and 0 <= half < 2 * cols:
                letters[row, half // 2, half % 2] = ALPHABET.index(char)
                colours[row, half // 2] = names.index(word.colour)
    side = tile // patch
    by_tile = (rows // side, side, cols // side, side)
    return (
        letters.reshape(*by_tile, 2).swapaxes(1, 2).reshape(-1, side * side, 2),
        colours.reshape(by_tile).swapaxes(1, 2).reshape(-1, side * side),
    )


def cell_labels(scene: Scene, tile: int, cell: int, thumbnail: bool = False) -> NDArray[np.int64]:
    """The letters of each cell in reading order, for the grid's tiles row by row; a cell is a row of the decoder.

    Returns int64 [tiles, cells, CELL_LETTERS], filled up with ``NO_CHAR``. With ``thumbnail``, those of the one tile
    that the whole picture is squeezed into.
    """
    width, height = (tile, tile) if thumbnail else (scene.width, scene.height)
    across, down = width / scene.width, height / scene.height
    rows, cols = height // cell, width // cell
    labels = np.full((rows, cols, CELL_LETTERS), NO_CHAR, np.int64)
    for word in scene.words:
        row = int((word.baseline - cap_height(word.font, word.size) / 2) * down) // cell
        for char, pen in zip(word.text, word.steps(), strict=False):
            col = int(_middle(word, char, pen) * across) // cell
            if 0 <= row < rows and 0 <= col < cols:
                free = np.flatnonzero(labels[row, col] == NO_CHAR)
                labels[row, col, free[:1]] = ALPHABET.index(char)
    side = tile // cell
    by_tile = labels.reshape(rows // side, side, cols // side, side, CELL_LETTERS)
    return by_tile.swapaxes(1, 2).reshape(-1, side * side, CELL_LETTERS)


def _middle(word: Word, char: str, pen: float) -> float:
    """Where the middle of a letter's ink is, across: the pen may be between two pixels, and bearings are blank."""
    shape = glyph(word.font, word.size, char)
    return round(pen) + shape.left + shape.alpha.shape[1] / 2
