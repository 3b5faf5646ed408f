"""Records what a pass over the layers has finished, so that a killed pass resumes at its last layer.

One small JSON file, replaced by renaming after every layer, has one key for everything the pass depends on. A file with
another key, or one that cannot be read, counts as none.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from nvlm_trt.checkpoint.disk import sync_folder, writing

__all__ = ["LayerJournal", "LayerResult"]

LayerResult = Mapping[str, float]


@dataclass(slots=True)
class LayerJournal:
    """``digests`` are those of the samples embedded so far, batch by batch; ``current`` is the file to read from."""

    key: str
    current: int = 0
    digests: list[list[str]] = field(default_factory=list)
    results: list[LayerResult] = field(default_factory=list)

    @classmethod
    def load(cls, file: Path, key: str) -> LayerJournal:
        with contextlib.suppress(OSError, ValueError, TypeError, AttributeError):
            journal = cls(**json.loads(file.read_text(encoding="ascii")))
            if journal.key == key and journal.current in (0, 1):
                return journal
        return cls(key)

    def save(self, file: Path) -> None:
        beside = file.with_name(f"{file.name}.partial")
        with writing(file.name):
            with beside.open("w", encoding="ascii") as stream:
                json.dump(asdict(self), stream)
                stream.flush()
                os.fsync(stream.fileno())
            beside.replace(file)
            sync_folder(file.parent)
