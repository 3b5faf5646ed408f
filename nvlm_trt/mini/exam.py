"""The held-out set: question i from (seed, i) alone, so that anyone can draw it again.

Training draws from other streams of the same generator, and with some 10^11 words of eight letters alone, training and
held-out pictures do not coincide.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from PIL import Image

from nvlm_trt.mini.batches import HELD_OUT
from nvlm_trt.mini.curriculum import GRIDS, STAGES, Stage
from nvlm_trt.mini.scene import paint
from nvlm_trt.mini.tasks import TASKS, Example
from nvlm_trt.model.tiling import Grid

__all__ = ["ExamQuestion", "draw_exam"]

# Beside the stages' numbers in the seeds of training's batches.
_EXAM = 1000


@dataclass(frozen=True, slots=True)
class ExamQuestion:
    grid: Grid
    example: Example

    @property
    def png(self) -> bytes:
        file = io.BytesIO()
        Image.fromarray(paint(self.example.scene)).save(file, "png")
        return file.getvalue()

    @property
    def pixels_per_em(self) -> int:
        """Of its smallest word, at tile resolution."""
        return min(word.size for word in self.example.scene.words)

    @property
    def needs_tiles(self) -> bool:
        """Whether the thumbnail shows some letters at less than 8 pixels per em, on either axis: too few to read."""
        return self.pixels_per_em / max(self.grid.cols, self.grid.rows) < 8


def draw_exam(seed: int, count: int, stage: Stage = STAGES[-1]) -> Iterator[ExamQuestion]:
    """Grids in turn, tasks and difficulty as ``stage`` has them."""
    names, weights = list(stage.tasks), np.array(list(stage.tasks.values()), float)
    for index in range(count):
        rng = np.random.default_rng([seed, _EXAM, HELD_OUT, index])
        grid = GRIDS[index % len(GRIDS)]
        name = names[int(rng.choice(len(names), p=weights / weights.sum()))]
        yield ExamQuestion(grid, TASKS[name](rng, grid, stage.difficulty))
