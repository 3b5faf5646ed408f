"""What is learned when.

Reading from scratch stands on a plateau until the vision tower knows letters, and the answer alone is a weak teacher
of that: a few characters a picture, and the decoder does not yet know where to look. So the tower first reads pages
full of letters, patch by patch, through a head that is thrown away in the end, as InternViT was trained before NVLM
was. Then come one line, several lines, many tiles, and questions. A stage ends when its own held-out rate reaches
``until``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from nvlm_trt.mini.tasks import Difficulty
from nvlm_trt.model.tiling import Grid

__all__ = ["GRIDS", "STAGES", "Stage"]

# All that up to six tiles can make.
GRIDS = tuple(Grid(cols, rows) for cols in range(1, 7) for rows in range(1, 7) if cols * rows <= 6)
_ONE = (Grid(1, 1),)


@dataclass(frozen=True, slots=True)
class Stage:
    """``tasks`` by weight; none means pages for the vision tower alone, rated by letters instead of answers.

    ``pages`` is the share of batches that are pages all the same, because answers alone are too few letters. ``tiles``
    is the size of a batch. ``hint`` weighs the two teachers' losses beside the answer's.
    """

    name: str
    difficulty: Difficulty
    tasks: Mapping[str, float]
    grids: tuple[Grid, ...]
    tiles: int
    pages: float
    hint: float
    until: float


STAGES = (
    Stage("large letters", Difficulty(sizes=(20, 40)), {}, _ONE, 32, 1.0, 1.0, 0.50),
    Stage("letters", Difficulty(), {}, _ONE, 32, 1.0, 1.0, 0.75),
    Stage("a short line", Difficulty(lengths=(1, 3), most_words=1), {"read": 1}, _ONE, 32, 0.5, 1.0, 0.50),
    Stage("numbers", Difficulty("0123456789", (1, 4), 1, (18, 40)), {"read": 1}, GRIDS, 32, 0.15, 1.0, 0.90),
    Stage("lines", Difficulty(), {"read": 1}, _ONE, 32, 0.3, 1.0, 0.50),
    Stage("grids", Difficulty(), {"read": 1}, GRIDS, 64, 0.3, 0.5, 0.50),
    Stage(
        "questions",
        Difficulty(most_words=4),
        {"read": 5, "colour": 2, "larger": 1, "count": 1, "left": 1},
        GRIDS,
        64,
        0.2,
        0.5,
        1.01,
    ),
)
