"""Places words in a picture: which tile and line, what letters, what colours.

Reading order is the order of tiles, as the prompt has them: row by row, in a tile line by line. So words that share a
row of tiles stand on one height, and several lines stand below each other only where one tile holds the whole text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from nvlm_trt.mini.glyphs import NUM_FONTS, cap_height, glyph
from nvlm_trt.mini.scene import COLOURS, Panel, Rgb, Scene, Word
from nvlm_trt.model.tiling import Grid

__all__ = ["MAX_LINES", "TILE", "Slot", "block", "compose", "row_of_words", "spread"]

TILE = 112
# As many as keep 28 pixels between them, so that no two lines fall into one token of the decoder.
MAX_LINES = 3
_MARGIN = 3


@dataclass(frozen=True, slots=True)
class Slot:
    """A rectangle of the picture for one word; a ``level`` of 0 to 1 fixes its height there, None leaves it open."""

    left: int
    top: int
    width: int
    height: int
    level: float | None = None


def block(rng: np.random.Generator, grid: Grid, lines: int) -> list[Slot]:
    """Lines below each other in one tile."""
    col, row = int(rng.integers(grid.cols)), int(rng.integers(grid.rows))
    height = TILE // lines
    return [Slot(col * TILE, row * TILE + line * height, TILE, height) for line in range(lines)]


def spread(rng: np.random.Generator, grid: Grid, words: int) -> list[Slot]:
    """One word each in as many tiles."""
    chosen = sorted(int(tile) for tile in rng.choice(grid.area, words, replace=False))
    levels = rng.random(grid.rows)
    return [
        Slot(tile % grid.cols * TILE, tile // grid.cols * TILE, TILE, TILE, float(levels[tile // grid.cols]))
        for tile in chosen
    ]


def row_of_words(rng: np.random.Generator, grid: Grid) -> list[Slot]:
    """Two words side by side: in neighbouring tiles where there are some, else in the halves of one tile."""
    row, level = int(rng.integers(grid.rows)), float(rng.random())
    if grid.cols == 1 or rng.random() < 0.3:
        col = int(rng.integers(grid.cols))
        lefts, width = (col * TILE, col * TILE + TILE // 2), TILE // 2
    else:
        col = int(rng.integers(grid.cols - 1))
        lefts, width = (col * TILE, (col + 1) * TILE), TILE
    return [Slot(left, row * TILE, width, TILE, level) for left in lefts]


def compose(
    rng: np.random.Generator,
    grid: Grid,
    texts: Sequence[str],
    slots: Sequence[Slot],
    sizes: tuple[int, int],
    one_colour: bool = True,
) -> Scene:
    """A picture of ``grid`` tiles with one text per slot, ``sizes`` in pixels per em at tile resolution."""
    ground, names = _ground(rng, 1 if one_colour else len(texts))
    if one_colour:
        names = names[:1] * len(texts)
    font, same_font = int(rng.integers(NUM_FONTS)), rng.random() < 0.7
    words = tuple(
        _place(rng, text, slot, sizes, font if same_font else int(rng.integers(NUM_FONTS)), name)
        for text, slot, name in zip(texts, slots, names, strict=True)
    )
    width, height = grid.cols * TILE, grid.rows * TILE
    if rng.random() < 0.25:
        return Scene(width, height, _any_colour(rng), (_sign(rng, words, ground),), words)
    return Scene(width, height, ground, (), words)


def _place(rng: np.random.Generator, text: str, slot: Slot, sizes: tuple[int, int], font: int, colour: str) -> Word:
    room = slot.width - 2 * _MARGIN
    unit = sum(glyph(font, 100, char).advance for char in text) / 100
    fit = min(int((room - len(text)) / unit), int((slot.height - 2 * _MARGIN) / 0.75), sizes[1])
    least = min(sizes[0], fit)
    size = int(rng.integers(least, fit + 1))
    width = sum(glyph(font, size, char).advance for char in text)
    tracking = 1 + float(rng.random()) * min(0.3 * size, (room - width) / len(text) - 1)
    tracking = max(tracking, 0.0)
    width += tracking * len(text)
    x = slot.left + _MARGIN + float(rng.random()) * max(room - width, 0.0)
    cap = cap_height(font, size)
    level = rng.random() if slot.level is None else slot.level
    baseline = slot.top + _MARGIN + cap + int(level * max(slot.height - 2 * _MARGIN - cap, 0))
    return Word(text, font, size, tracking, x, baseline, colour, _jittered(rng, COLOURS[colour]))


def _ground(rng: np.random.Generator, wanted: int) -> tuple[Rgb, list[str]]:
    """A background and ``wanted`` colours, no two alike, that can be told from it."""
    while True:
        ground = _any_colour(rng)
        apart = [name for name, ink in COLOURS.items() if abs(_luminance(ink) - _luminance(ground)) > 75]
        if len(apart) >= wanted:
            return ground, [str(name) for name in rng.permutation(apart)[:wanted]]


def _any_colour(rng: np.random.Generator) -> Rgb:
    """Mostly light or dark, as signs and paper are."""
    kind, levels = rng.random(), rng.integers(0, 256, 3)
    if kind < 0.45:
        levels = 255 - levels // 6
    elif kind < 0.7:
        levels = levels // 5
    return int(levels[0]), int(levels[1]), int(levels[2])


def _jittered(rng: np.random.Generator, ink: Rgb) -> Rgb:
    red, green, blue = np.clip(np.array(ink) + rng.integers(-15, 16, 3), 0, 255)
    return int(red), int(green), int(blue)


def _luminance(ink: Rgb) -> float:
    return 0.299 * ink[0] + 0.587 * ink[1] + 0.114 * ink[2]


def _sign(rng: np.random.Generator, words: Sequence[Word], ground: Rgb) -> Panel:
    margin = rng.integers(3, 16, 4)
    tops = [word.baseline - cap_height(word.font, word.size) for word in words]
    return Panel(
        int(min(word.x for word in words) - margin[0]),
        int(min(tops) - margin[1]),
        int(max(word.steps()[-1] for word in words) + margin[2]),
        int(max(word.baseline for word in words) + margin[3]),
        ground,
    )
