"""The tasks: each draws a picture and knows the answer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

import numpy as np

from nvlm_trt.mini.glyphs import ALPHABET, DIGITS
from nvlm_trt.mini.layout import MAX_LINES, TILE, Slot, block, compose, row_of_words, spread
from nvlm_trt.mini.scene import Scene
from nvlm_trt.model.tiling import Grid

__all__ = ["TASKS", "Difficulty", "Example", "draw_page"]


@dataclass(frozen=True, slots=True)
class Difficulty:
    """``letters`` to draw from, characters per word, most words in a picture, pixels per em at tile resolution."""

    letters: str = ALPHABET
    lengths: tuple[int, int] = (1, 8)
    most_words: int = 3
    sizes: tuple[int, int] = (14, 40)


@dataclass(frozen=True, slots=True)
class Example:
    task: str
    scene: Scene
    question: str
    answer: str
    # How many letters stand before the answer's in reading order; None where the answer is not copied from the picture.
    before: int | None = 0


Task = Callable[[np.random.Generator, Grid, Difficulty], Example]

_READ = ("Read the text.", "What does the sign say?")


def draw_page(rng: np.random.Generator, letters: str, sizes: tuple[int, int]) -> Scene:
    """One tile full of letters, for the vision tower alone."""
    lines, top = [], 0
    while top < TILE - 16:
        size = int(rng.integers(sizes[0], sizes[1] + 1))
        height = max(int(size * 0.95), 16)
        if top + height <= TILE:
            lines.append((Slot(0, top, TILE, height), size))
        top += height
    texts = [_word(rng, letters, max(1, int(TILE / (size * rng.uniform(0.75, 1.1))))) for _, size in lines]
    colours = rng.random() < 0.5
    return compose(rng, Grid(1, 1), texts, [slot for slot, _ in lines], sizes, one_colour=bool(colours))


def _read(rng: np.random.Generator, grid: Grid, difficulty: Difficulty) -> Example:
    texts, slots = _texts_and_slots(rng, grid, difficulty)
    scene = compose(rng, grid, texts, slots, difficulty.sizes, one_colour=bool(rng.random() < 0.7))
    return Example("read", scene, _READ[int(rng.integers(len(_READ)))], " ".join(texts))


def _line(rng: np.random.Generator, grid: Grid, difficulty: Difficulty) -> Example:
    return replace(_read(rng, grid, replace(difficulty, most_words=1)), task="line")


def _number(rng: np.random.Generator, grid: Grid, difficulty: Difficulty) -> Example:
    digits = replace(difficulty, letters=DIGITS, lengths=(1, 4), most_words=1)
    return replace(_read(rng, grid, digits), task="number")


def _colour(rng: np.random.Generator, grid: Grid, difficulty: Difficulty) -> Example:
    texts, slots = _texts_and_slots(rng, grid, difficulty, least=2)
    scene = compose(rng, grid, texts, slots, difficulty.sizes, one_colour=False)
    chosen = int(rng.integers(len(texts)))
    word = scene.words[chosen]
    return Example("colour", scene, f"Read the {word.colour} line.", word.text, len("".join(texts[:chosen])))


def _larger(rng: np.random.Generator, grid: Grid, difficulty: Difficulty) -> Example:
    first, second = 0, 0
    while first == second:
        first, second = (int(rng.integers(10 ** int(rng.integers(1, 4)))) for _ in range(2))
    texts = [str(first), str(second)]
    slots = spread(rng, grid, 2) if grid.area > 1 and rng.random() < 0.7 else block(rng, grid, 2)
    scene = compose(rng, grid, texts, slots, difficulty.sizes)
    before = 0 if first > second else len(texts[0])
    return Example("larger", scene, "Which number is larger?", str(max(first, second)), before)


def _count(rng: np.random.Generator, grid: Grid, difficulty: Difficulty) -> Example:
    texts, slots = _texts_and_slots(rng, grid, difficulty)
    scene = compose(rng, grid, texts, slots, difficulty.sizes, one_colour=bool(rng.random() < 0.5))
    return Example("count", scene, "How many words are there?", str(len(texts)), None)


def _left(rng: np.random.Generator, grid: Grid, difficulty: Difficulty) -> Example:
    slots = row_of_words(rng, grid)
    longest = 3 if slots[0].width < TILE else 6
    texts = [_word(rng, difficulty.letters, int(rng.integers(1, longest + 1))) for _ in slots]
    while texts[0] == texts[1]:
        texts[1] = _word(rng, difficulty.letters, len(texts[1]))
    scene = compose(rng, grid, texts, slots, difficulty.sizes)
    return Example("left", scene, f"What is left of {texts[1]}?", texts[0])


TASKS: Mapping[str, Task] = MappingProxyType(
    {
        "read": _read,
        "line": _line,
        "number": _number,
        "colour": _colour,
        "larger": _larger,
        "count": _count,
        "left": _left,
    }
)


def _texts_and_slots(
    rng: np.random.Generator, grid: Grid, difficulty: Difficulty, least: int = 1
) -> tuple[list[str], list[Slot]]:
    in_block = grid.area < least or grid.area == 1 or bool(rng.random() < 0.4)
    most = max(least, min(difficulty.most_words, MAX_LINES if in_block else grid.area))
    words = int(rng.integers(least, most + 1))
    slots = block(rng, grid, words) if in_block else spread(rng, grid, words)
    low, high = difficulty.lengths
    return [_word(rng, difficulty.letters, int(rng.integers(low, high + 1))) for _ in slots], slots


def _word(rng: np.random.Generator, letters: str, length: int) -> str:
    return "".join(letters[index] for index in rng.integers(len(letters), size=length))
