"""How much of a comparison is done, and how its progress is reported."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from nvlm_trt.evaluate.run import Reporter

__all__ = ["StageReporter", "StudyOptions"]

StageReporter = Callable[[str], AbstractContextManager[Reporter]]
"""Opens the progress report of a stage, given its name."""


@dataclass(frozen=True, slots=True)
class StudyOptions:
    """``limit`` asks only the first questions; ``max_tokens`` None means the task's own. The first ``kl_questions``
    answers of the reference are used for the divergence and the first ``layer_questions`` for the layers; 0 leaves that
    part out. ``build_folder`` None means ``OUT/build``.
    """

    limit: int | None = None
    max_tokens: int | None = None
    strict: bool = False
    kl_questions: int = 200
    layer_questions: int = 32
    build_folder: Path | None = None
    threads: int | None = None
