"""What an answer depends on besides the server: kept beside a run's files, so that no run goes on with others."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from nvlm_trt.evaluate.failures import mixed_runs
from nvlm_trt.evaluate.output_file import write_json
from nvlm_trt.evaluate.rules import NoAnswer

__all__ = ["RunSettings", "keep_settings", "settings_file"]


@dataclass(frozen=True, slots=True)
class RunSettings:
    """``first_line``: cut answers after their first line, as the release's first script did."""

    task: str
    num_samples: int
    data_sha256: str
    max_tokens: int
    first_line: bool
    no_answer: NoAnswer
    seed: int
    num_partitions: int


def settings_file(out: Path, task: str) -> Path:
    return out.with_name(f"{out.name}-{task}-settings.json")


def keep_settings(out: Path, settings: RunSettings) -> None:
    """Write them, or compare with those of the run that is gone on with. Raises ``UsageError`` E-EVAL-MIXED."""
    file = settings_file(out, settings.task)
    now = asdict(settings)
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        write_json(file, {"format": 1, **now})
        return
    try:
        before = json.loads(file.read_text(encoding="utf-8"))
        different = [key for key, value in now.items() if before.get(key) != value]
    except (OSError, ValueError, AttributeError):
        raise mixed_runs(f"{file.name} cannot be read.") from None
    if different:
        key = different[0]
        raise mixed_runs(f"The earlier run at this place had {key} {before.get(key)}; this one has {now[key]}.")
