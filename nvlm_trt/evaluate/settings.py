"""What an answer depends on besides the server: kept with a run, so that it is not continued with other settings."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from nvlm_trt.checkpoint.disk import writing
from nvlm_trt.evaluate.failures import mixed_runs
from nvlm_trt.evaluate.output_file import write_json
from nvlm_trt.evaluate.rules import NoAnswer

__all__ = ["RunSettings", "keep_settings", "keep_values", "settings_file"]


@dataclass(frozen=True, slots=True)
class RunSettings:
    """``first_line``: cut answers after their first line, as the release's first script did. ``answered_by`` is a hash
    of the engines' files where the run has them at hand; ``deployment`` is what the user says the server serves."""

    task: str
    num_samples: int
    data_sha256: str
    max_tokens: int
    first_line: bool
    no_answer: NoAnswer
    seed: int
    num_partitions: int
    answered_by: str = ""
    deployment: Mapping[str, Any] | None = None


def settings_file(out: Path, task: str) -> Path:
    return out.with_name(f"{out.name}-{task}-settings.json")


def keep_settings(out: Path, settings: RunSettings) -> None:
    """Write them, or compare them with those of the run that is continued. Partitions may do so at the same moment.

    Raises ``UsageError`` E-EVAL-MIXED, ``BuildError`` E-BUILD-WRITE, E-BUILD-SPACE.
    """
    now = {key: value for key, value in asdict(settings).items() if value not in ("", None)}
    keep_values(settings_file(out, settings.task), now)


def keep_values(file: Path, now: Mapping[str, Any]) -> None:
    """``keep_settings`` for any values that JSON knows."""
    with writing(file.name):
        file.parent.mkdir(parents=True, exist_ok=True)
    with _alone_in(file.parent):
        if not file.exists():
            write_json(file, {"format": 1, **now})
            return
    try:
        before = json.loads(file.read_text(encoding="utf-8"))
        keys = sorted({*now, *before} - {"format"})
        different = [key for key in keys if before.get(key) != now.get(key)]
    except (OSError, ValueError, AttributeError, TypeError):
        raise mixed_runs(f"{file.name} cannot be read.") from None
    if different:
        raise mixed_runs(_told(different[0], before.get(different[0]), now.get(different[0])))


@contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """Others that ask for the same wait."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _told(key: str, before: Any, now: Any) -> str:
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        inner = next(one for one in sorted({*before, *now}) if before.get(one) != now.get(one))
        return _told(f"{key} {inner}", before.get(inner), now.get(inner))
    if now is None:
        return f"The earlier run at this place named its {key}; this one does not."
    if before is None:
        return f"The earlier run at this place did not name its {key}; this one does."
    return f"The earlier run at this place had {key} {before}; this one has {now}."
