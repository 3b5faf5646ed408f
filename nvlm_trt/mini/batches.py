"""Batch k of a stage, from (seed, stage, k) alone: any batch can be made again, by anyone, in any order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from nvlm_trt.mini.curriculum import Stage
from nvlm_trt.mini.glyphs import ALPHABET, DIGITS
from nvlm_trt.mini.scene import CELL_LETTERS, NO_CHAR, cell_labels, paint, patch_labels
from nvlm_trt.mini.tasks import TASKS, Example, draw_page
from nvlm_trt.mini.views import FULL, THUMBNAIL_ONLY, shown_config, shown_ids
from nvlm_trt.model.config import NvlmConfig
from nvlm_trt.model.prompt import PromptStyle, build_prompt
from nvlm_trt.model.tiling import cut_tiles, num_tiles
from nvlm_trt.model.tokenizer import NvlmTokenizer

__all__ = ["HELD_OUT", "NO_TARGET", "TRAIN", "Batch", "BatchMaker"]

TRAIN, HELD_OUT = 0, 1
NO_TARGET = -100
_PAGES_OF_DIGITS = 0.25


@dataclass(frozen=True, slots=True)
class Batch:
    """Pictures of one grid; tiles that look alike, as empty ones do, are there once.

    ``tiles`` uint8 [n, S, S, 3]; ``letters`` int64 [n, patches, 2] and ``colours`` int64 [n, patches] as
    ``patch_labels`` says, ``cells`` int64 [n, rows, CELL_LETTERS] as ``cell_labels`` says; ``order`` int64 [pictures,
    tiles], which tile stands where; ``ids`` int64 [pictures, length], virtual ids where rows of tiles go, padded on the
    right; ``targets`` int64 alike, the next id where it is part of the answer; ``places`` int64 alike, for rows with
    letters how many of the picture's come before, for positions that answer how many come before the letter to be said.
    ``NO_TARGET`` where nothing is known or wanted. Batches of pages have no pictures, only tiles.
    """

    tiles: NDArray[np.uint8]
    letters: NDArray[np.int64]
    colours: NDArray[np.int64]
    order: NDArray[np.int64]
    ids: NDArray[np.int64]
    targets: NDArray[np.int64]
    cells: NDArray[np.int64]
    places: NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class _Cut:
    """One picture, its own tiles once each."""

    tiles: NDArray[np.uint8]
    letters: NDArray[np.int64]
    colours: NDArray[np.int64]
    order: NDArray[np.int64]
    cells: NDArray[np.int64]
    ids: NDArray[np.int64]
    targets: NDArray[np.int64]
    places: NDArray[np.int64]


class BatchMaker:
    def __init__(self, config: NvlmConfig, tokenizer: NvlmTokenizer, seed: int, view: str = FULL) -> None:
        self._whole = config
        self._config = shown_config(view, config)
        self.tokenizer = tokenizer
        self._seed = seed
        self._view = view

    def seen(self, view: str) -> BatchMaker:
        """The same pictures, less of them shown."""
        return BatchMaker(self._whole, self.tokenizer, self._seed, view)

    def batch(self, stage: Stage, stage_index: int, split: int, step: int) -> Batch:
        rng = np.random.default_rng([self._seed, stage_index, split, step])
        if not stage.tasks or (split == TRAIN and rng.random() < stage.pages):
            return self._pages(rng, stage)
        grid = stage.grids[int(rng.integers(len(stage.grids)))]
        names, weights = list(stage.tasks), np.array(list(stage.tasks.values()), float)
        cut: list[_Cut] = []
        room = stage.tiles
        while room >= num_tiles(grid, self._config.tiling):
            task = TASKS[names[int(rng.choice(len(names), p=weights / weights.sum()))]]
            cut.append(self._cut(task(rng, grid, stage.difficulty)))
            room -= len(cut[-1].tiles)
        return self._collate(cut, room)

    def batch_of(self, examples: Sequence[Example]) -> Batch:
        """Examples of one grid."""
        return self._collate([self._cut(example) for example in examples], 0)

    def _cut(self, example: Example) -> _Cut:
        scene, size, cell = example.scene, self._config.vision.image_size, 2 * self._config.vision.patch_size
        tiles = cut_tiles(Image.fromarray(paint(scene)), self._config.tiling)
        if self._view == THUMBNAIL_ONLY:
            cells = cell_labels(scene, size, cell, thumbnail=True)
            letters = np.full((1, self._config.vision.patches_per_side**2, 2), NO_TARGET)
            colours = letters[..., 0]
        else:
            cells = cell_labels(scene, size, cell)
            letters, colours = patch_labels(scene, size, self._config.vision.patch_size)
        if len(tiles) > len(cells):
            cells, letters, colours = (
                np.pad(part, _one_more(part), constant_values=NO_TARGET) for part in (cells, letters, colours)
            )
        first: dict[bytes, int] = {}
        order = [first.setdefault(tile.tobytes(), len(first)) for tile in tiles]
        kept = [order.index(place) for place in range(len(first))]
        ids, targets, places = self._sequence(example, cells)
        return _Cut(tiles[kept], letters[kept], colours[kept], np.array(order), cells[kept], ids, targets, places)

    def _sequence(self, example: Example, cells: NDArray[np.int64]) -> tuple[NDArray[np.int64], ...]:
        """The ids, the last one left out because nothing follows it, and what each position should know."""
        prompt = self.prompt(example.question, len(cells))
        answer = [*self.tokenizer.encode_text(example.answer), self.tokenizer.eos_id]
        ids = np.array([*prompt, *answer[:-1]])
        targets, places = (np.full(ids.shape, NO_TARGET) for _ in range(2))
        targets[len(prompt) - 1 :] = answer
        letters = cells.reshape(-1, CELL_LETTERS)
        count = ((letters != NO_CHAR) & (letters != NO_TARGET)).sum(1)
        known = count > 0
        rows = np.flatnonzero(ids >= self._config.decoder.vocab_size)
        places[rows[known]] = (count.cumsum() - count)[known]
        if example.before is not None:
            written = np.array([0, *(char != " " for char in example.answer)])
            places[len(prompt) - 1 :] = example.before + written.cumsum()
        return ids, targets, places

    def _collate(self, cut: Sequence[_Cut], blank: int) -> Batch:
        """Filled up by ``blank`` tiles, because a compiled tower wants one shape."""
        starts = np.cumsum([0] + [len(one.tiles) for one in cut])
        return Batch(
            _joined([one.tiles for one in cut], blank, 0),
            _joined([one.letters for one in cut], blank, NO_TARGET),
            _joined([one.colours for one in cut], blank, NO_TARGET),
            np.stack([one.order + start for one, start in zip(cut, starts, strict=False)]),
            _padded([one.ids for one in cut], self.tokenizer.pad_id),
            _padded([one.targets for one in cut], NO_TARGET),
            _joined([one.cells for one in cut], blank, NO_TARGET),
            _padded([one.places for one in cut], NO_TARGET),
        )

    def prompt(self, question: str, count: int) -> list[int]:
        prompt = build_prompt(
            question,
            [count],
            tokenizer=self.tokenizer,
            style=PromptStyle.HF,
            tokens_per_tile=self._config.vision.tokens_per_tile,
            vocab_size=self._config.decoder.vocab_size,
        )
        ids: list[int] = shown_ids(self._view, prompt.input_ids, count, self._config, self.tokenizer).tolist()
        return ids

    def _pages(self, rng: np.random.Generator, stage: Stage) -> Batch:
        size, patch = self._config.vision.image_size, self._config.vision.patch_size
        # What stands among digits is a digit: a zero is told from an O by its neighbours too.
        alphabets = [DIGITS if rng.random() < _PAGES_OF_DIGITS else ALPHABET for _ in range(stage.tiles)]
        scenes = [draw_page(rng, letters, stage.page_sizes) for letters in alphabets]
        labels = [patch_labels(scene, size, patch) for scene in scenes]
        nothing = np.empty((0, 0), np.int64)
        return Batch(
            np.stack([paint(scene) for scene in scenes]),
            np.concatenate([letters for letters, _ in labels]),
            np.concatenate([colours for _, colours in labels]),
            nothing,
            nothing,
            nothing,
            np.concatenate([cell_labels(scene, size, 2 * patch) for scene in scenes]),
            nothing,
        )


def _padded(parts: Sequence[NDArray[np.int64]], value: int) -> NDArray[np.int64]:
    """On the right."""
    padded = np.full((len(parts), max(len(part) for part in parts)), value, np.int64)
    for row, part in zip(padded, parts, strict=True):
        row[: len(part)] = part
    return padded


def _joined(parts: Sequence[NDArray[Any]], blank: int, value: int) -> NDArray[Any]:
    filling = np.full((blank, *parts[0].shape[1:]), value, parts[0].dtype)
    return np.concatenate([*parts, filling])


def _one_more(array: NDArray[Any]) -> list[tuple[int, int]]:
    return [(0, 1), *[(0, 0)] * (array.ndim - 1)]
