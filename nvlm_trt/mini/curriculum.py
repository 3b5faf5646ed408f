"""What the model learns, in which order.

Reading from scratch stays on a plateau until the vision tower knows letters, and the answer alone is a weak teacher of
that: a few characters a picture, and the decoder does not yet know where to look. So the tower first reads pages full
of letters, patch by patch, through a head that is thrown away in the end, as InternViT was trained before NVLM was.
Then come one line, several lines, many tiles, and questions. A stage ends when its own held-out rate reaches ``until``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from nvlm_trt.mini.glyphs import DIGITS
from nvlm_trt.mini.tasks import Difficulty
from nvlm_trt.model.tiling import Grid

__all__ = ["GRIDS", "STAGES", "Stage"]

# All that up to six tiles can make.
GRIDS = tuple(Grid(cols, rows) for cols in range(1, 7) for rows in range(1, 7) if cols * rows <= 6)

# Half of all batches are of one tile: three times the pictures at the same cost, and what is counted there is counted
# alike in many.
_MIXED = (Grid(1, 1),) * len(GRIDS) + GRIDS


@dataclass(frozen=True, slots=True)
class Stage:
    """``tasks`` by weight; none means pages for the vision tower alone, rated by letters instead of answers.

    ``pages`` is the share of batches that are still pages, of letters of ``page_sizes`` pixels per em, because answers
    alone have too few letters. ``tiles`` is the size of a batch.
    """

    name: str
    difficulty: Difficulty
    tasks: Mapping[str, float]
    tiles: int
    pages: float
    until: float
    grids: tuple[Grid, ...] = _MIXED
    page_sizes: tuple[int, int] = (14, 40)


_DIGITS = Difficulty(DIGITS, (1, 4), 1, (18, 40))
# Lines and numbers go on, because what is not asked any more is forgotten.
_QUESTIONS = {"line": 4, "number": 4, "read": 2, "colour": 2, "larger": 1, "count": 1, "left": 1}

STAGES = (
    Stage("large letters", Difficulty(), {}, 32, 1.0, 0.50, page_sizes=(20, 40)),
    Stage("letters", Difficulty(), {}, 64, 1.0, 0.85),
    Stage("numbers", _DIGITS, {"read": 1}, 64, 0.15, 0.88),
    Stage("lines", Difficulty(most_words=1), {"read": 2, "number": 1}, 64, 0.5, 0.80),
    Stage("questions", Difficulty(), _QUESTIONS, 64, 0.5, 1.01),
)
