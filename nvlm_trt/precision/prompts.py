"""Every question as the decoder reads it, prepared once and stored: its token ids, and the rows of its pictures.

Two files grow together: ``prompts.jsonl`` with one line for each question, and ``rows.f32`` with the rows one after
another. A kill may leave a torn line, or rows without a line; both are cut off when the files are opened again.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nvlm_trt.checkpoint.disk import writing
from nvlm_trt.errors import RequestError
from nvlm_trt.evaluate.data_set import DataSet
from nvlm_trt.evaluate.run import pictures_of
from nvlm_trt.evaluate.task import Sample
from nvlm_trt.serving.parameters import RequestFields
from nvlm_trt.serving.preprocess import Preprocessor
from nvlm_trt.vision.engine import VisionEngine

__all__ = ["Prompts", "StoredPrompt", "prepare_all"]


@dataclass(frozen=True, slots=True)
class StoredPrompt:
    """``ids`` are int32 [n] and ``rows`` float32 [m, hidden]; both are empty if there is an ``error``, a code."""

    sample_id: int | str
    ids: NDArray[np.int32]
    rows: NDArray[np.float32]
    tiles: int
    error: str | None = None


class Prompts:
    """All prompts, on disk, in the questions' order. Rows have ``width`` columns."""

    def __init__(self, folder: Path, width: int) -> None:
        """Raises ``BuildError`` E-BUILD-WRITE, E-BUILD-SPACE."""
        self._width = width
        with writing(folder.name):
            folder.mkdir(parents=True, exist_ok=True)
            self._lines = (folder / "prompts.jsonl").open("a+b")
            self._rows = (folder / "rows.f32").open("a+b")
        self._entries: list[dict[str, Any]] = []
        self._starts = [0]
        self._repair()

    def __len__(self) -> int:
        return len(self._entries)

    def __getitem__(self, index: int) -> StoredPrompt:
        entry = self._entries[index]
        self._rows.seek(self._starts[index])
        data = self._rows.read(self._starts[index + 1] - self._starts[index])
        rows = np.frombuffer(data, "<f4").reshape(-1, self._width)
        ids = np.array(entry["ids"], np.int32)
        return StoredPrompt(entry["sample_id"], ids, rows, entry["tiles"], entry.get("error"))

    def __iter__(self) -> Iterator[StoredPrompt]:
        return (self[index] for index in range(len(self)))

    def append(self, prompt: StoredPrompt) -> None:
        entry: dict[str, Any] = {
            "sample_id": prompt.sample_id,
            "ids": prompt.ids.tolist(),
            "rows": len(prompt.rows),
            "tiles": prompt.tiles,
        }
        if prompt.error is not None:
            entry["error"] = prompt.error
        with writing("prompts.jsonl"):
            self._rows.write(np.ascontiguousarray(prompt.rows, "<f4").data)
            self._rows.flush()
            self._lines.write(json.dumps(entry).encode() + b"\n")
            self._lines.flush()
        self._add(entry)

    def close(self) -> None:
        self._lines.close()
        self._rows.close()

    def _add(self, entry: dict[str, Any]) -> None:
        self._entries.append(entry)
        self._starts.append(self._starts[-1] + 4 * self._width * entry["rows"])

    def _repair(self) -> None:
        self._lines.seek(0)
        held = self._rows.seek(0, 2)
        for line in self._lines.read().split(b"\n")[:-1]:
            self._add(json.loads(line))
            if self._starts[-1] > held:
                break
        self._cut(sum(start <= held for start in self._starts[1:]))

    def _cut(self, count: int) -> None:
        self._lines.seek(0)
        kept = self._lines.read().split(b"\n")[:count]
        del self._entries[count:], self._starts[count + 1 :]
        with writing("prompts.jsonl"):
            self._lines.truncate(sum(len(line) + 1 for line in kept))
            self._rows.truncate(self._starts[-1])


def prepare_all(
    prompts: Prompts,
    samples: Sequence[Sample],
    data: DataSet,
    preprocessor: Preprocessor,
    engine: Callable[[], VisionEngine],
    max_tokens: int,
    advanced: Callable[[int, int], None],
) -> None:
    """Add the ``samples`` that are missing. ``engine`` is called only if there are any.

    ``advanced`` is called with the number of stored questions, and how many of the new ones cannot be asked.
    """
    if len(prompts) == len(samples):
        return
    vision, errors = engine(), 0
    try:
        for sample in samples[len(prompts) :]:
            prompt = _prepared(sample, data, preprocessor, vision, max_tokens)
            prompts.append(prompt)
            errors += prompt.error is not None
            advanced(len(prompts), errors)
    finally:
        vision.close()


def _prepared(
    sample: Sample, data: DataSet, preprocessor: Preprocessor, vision: VisionEngine, max_tokens: int
) -> StoredPrompt:
    none = np.empty((0, vision.output_size), np.float32)
    try:
        fields = RequestFields(sample.prompt, max_tokens, tuple(pictures_of(data, sample)))
        prepared = preprocessor.prepare(fields)
    except RequestError as error:
        return StoredPrompt(sample.sample_id, np.empty(0, np.int32), none, 0, error.code)
    tiles, step = prepared.tiles, vision.max_tiles
    parts = [_on_host(vision.encode(tiles[start : start + step])) for start in range(0, len(tiles), step)]
    rows = np.concatenate([none, *(part.reshape(-1, part.shape[-1]) for part in parts)])
    return StoredPrompt(sample.sample_id, prepared.input_ids, rows, len(tiles))


def _on_host(rows: Any) -> NDArray[np.float32]:
    """As a numpy array; engines on CUDA return torch tensors."""
    return rows if isinstance(rows, np.ndarray) else np.asarray(rows.float().cpu())
