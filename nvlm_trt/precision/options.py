"""How much of a comparison is done, and who is told how far it is."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from nvlm_trt.evaluate.run import Reporter

__all__ = ["StageReporter", "StudyOptions"]

StageReporter = Callable[[str], AbstractContextManager[Reporter]]
"""Opens the progress of a stage, by its name."""


@dataclass(frozen=True, slots=True)
class StudyOptions:
    """``limit`` takes only the first questions, ``max_tokens`` None is the task's own. The first ``kl_questions`` and
    ``layer_questions`` answers of the reference are followed; 0 leaves that part out. ``build_folder`` None is
    ``OUT/build``."""

    limit: int | None = None
    max_tokens: int | None = None
    strict: bool = False
    kl_questions: int = 200
    layer_questions: int = 32
    build_folder: Path | None = None
    threads: int | None = None
