"""Batch k of a stage, from (seed, stage, k) alone: any batch can be made again, by anyone, in any order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from nvlm_trt.mini.curriculum import Stage
from nvlm_trt.mini.glyphs import ALPHABET
from nvlm_trt.mini.scene import NO_CHAR, paint, patch_labels
from nvlm_trt.mini.tasks import TASKS, Example, draw_page
from nvlm_trt.model.config import NvlmConfig
from nvlm_trt.model.prompt import PromptStyle, build_prompt
from nvlm_trt.model.tiling import cut_tiles, num_tiles
from nvlm_trt.model.tokenizer import NvlmTokenizer

__all__ = ["HELD_OUT", "NO_TARGET", "TRAIN", "Batch", "BatchMaker"]

TRAIN, HELD_OUT = 0, 1
NO_TARGET = -100


@dataclass(frozen=True, slots=True)
class Batch:
    """Pictures of one grid; tiles that look alike, as empty ones do, are there once.

    ``tiles`` uint8 [n, S, S, 3]; ``letters`` int64 [n, patches, 2] and ``colours`` int64 [n, patches] as
    ``patch_labels`` says, nothing known of thumbnails; ``order`` int64 [pictures, tiles], which tile stands where;
    ``ids`` int64 [pictures, length], virtual ids where rows of tiles go, padded on the right; ``targets`` int64 alike,
    the next id where it is part of the answer; ``contents`` int64 [n, rows], the id of the first letter that a row of a
    tile is made of, ``empty_id`` where there is none. Batches of pages have no pictures, only tiles.
    """

    tiles: NDArray[np.uint8]
    letters: NDArray[np.int64]
    colours: NDArray[np.int64]
    order: NDArray[np.int64]
    ids: NDArray[np.int64]
    targets: NDArray[np.int64]
    contents: NDArray[np.int64]
    empty_id: int


@dataclass(frozen=True, slots=True)
class _Cut:
    """One picture, its own tiles once each."""

    tiles: NDArray[np.uint8]
    letters: NDArray[np.int64]
    colours: NDArray[np.int64]
    order: NDArray[np.int64]
    prompt: list[int]
    answer: list[int]


class BatchMaker:
    def __init__(self, config: NvlmConfig, tokenizer: NvlmTokenizer, seed: int) -> None:
        self._config = config
        self.tokenizer = tokenizer
        # By letter class; NO_CHAR is the last one.
        self._ids_of_letters = np.array([*(tokenizer.encode_text(char)[0] for char in ALPHABET), tokenizer.pad_id])
        self._seed = seed

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
        vision, tiling = self._config.vision, self._config.tiling
        tiles = cut_tiles(Image.fromarray(paint(example.scene)), tiling)
        letters, colours = patch_labels(example.scene, vision.image_size, vision.patch_size)
        if len(tiles) > len(letters):  # the thumbnail
            letters, colours = (np.pad(part, _one_more(part), constant_values=NO_TARGET) for part in (letters, colours))
        places: dict[bytes, int] = {}
        order = [places.setdefault(tile.tobytes(), len(places)) for tile in tiles]
        kept = [order.index(place) for place in range(len(places))]
        prompt = self.prompt(example.question, len(tiles))
        answer = self.tokenizer.encode_text(example.answer) + [self.tokenizer.eos_id]
        return _Cut(tiles[kept], letters[kept], colours[kept], np.array(order), prompt, answer)

    def _collate(self, cut: Sequence[_Cut], blank: int) -> Batch:
        """Filled up by ``blank`` tiles, because a compiled tower wants one shape."""
        starts = np.cumsum([0] + [len(one.tiles) for one in cut])
        return Batch(
            _joined([one.tiles for one in cut], blank, 0),
            _joined([one.letters for one in cut], blank, NO_TARGET),
            _joined([one.colours for one in cut], blank, NO_TARGET),
            np.stack([one.order + start for one, start in zip(cut, starts, strict=False)]),
            *self._padded([one.prompt for one in cut], [one.answer for one in cut]),
            self._contents(np.concatenate([one.letters for one in cut])),
            self.tokenizer.pad_id,
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
        ids: list[int] = prompt.input_ids.tolist()
        return ids

    def _pages(self, rng: np.random.Generator, stage: Stage) -> Batch:
        vision, difficulty = self._config.vision, stage.difficulty
        scenes = [draw_page(rng, difficulty.letters, difficulty.sizes) for _ in range(stage.tiles)]
        labels = [patch_labels(scene, vision.image_size, vision.patch_size) for scene in scenes]
        nothing = np.empty((0, 0), np.int64)
        return Batch(
            np.stack([paint(scene) for scene in scenes]),
            np.concatenate([letters for letters, _ in labels]),
            np.concatenate([colours for _, colours in labels]),
            nothing,
            nothing,
            nothing,
            nothing,
            self.tokenizer.pad_id,
        )

    def _contents(self, letters: NDArray[np.int64]) -> NDArray[np.int64]:
        """``letters`` int64 [n, patches, 2] to [n, rows]; a row is made of two by two patches."""
        side = self._config.vision.patches_per_side // 2
        cells = letters.reshape(-1, side, 2, side, 2, 2).swapaxes(2, 3).reshape(-1, side * side, 8)
        first = np.take_along_axis(cells, (cells != NO_CHAR).argmax(-1)[..., None], -1)[..., 0]
        return np.where(first == NO_TARGET, NO_TARGET, self._ids_of_letters[np.maximum(first, 0)])

    def _padded(self, prompts: Sequence[list[int]], answers: Sequence[list[int]]) -> tuple[Any, Any]:
        """The last id is never read: nothing follows it."""
        lengths = [len(prompt) + len(answer) - 1 for prompt, answer in zip(prompts, answers, strict=True)]
        ids = np.full((len(prompts), max(lengths)), self.tokenizer.pad_id, np.int64)
        targets = np.full(ids.shape, NO_TARGET, np.int64)
        for index, (prompt, answer) in enumerate(zip(prompts, answers, strict=True)):
            ids[index, : lengths[index]] = (prompt + answer)[:-1]
            targets[index, len(prompt) - 1 : lengths[index]] = answer
        return ids, targets


def _joined(parts: Sequence[NDArray[Any]], blank: int, value: int) -> NDArray[Any]:
    filling = np.full((blank, *parts[0].shape[1:]), value, parts[0].dtype)
    return np.concatenate([*parts, filling])


def _one_more(array: NDArray[Any]) -> list[tuple[int, int]]:
    return [(0, 1), *[(0, 0)] * (array.ndim - 1)]
