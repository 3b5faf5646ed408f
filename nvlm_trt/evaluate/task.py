"""A benchmark as data: where its questions are, how they are asked, how answers are judged.

Each module in ``tasks/`` defines one. Nothing else knows a benchmark by name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nvlm_trt.evaluate.row import Row
from nvlm_trt.evaluate.rules import Rules

__all__ = ["Record", "Sample", "Task", "hundredfold_mean", "one_by_one"]

Record = Mapping[str, Any]
"""One line of a run's file: ``sample_id``, ``prompt``, the answer under the task's key, what judging it needs."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One question. ``prompt`` is sent as it is; ``pictures`` are paths below the data set's folder."""

    sample_id: int | str
    prompt: str
    pictures: tuple[str, ...]
    fields: Mapping[str, Any]


def hundredfold_mean(scores: Sequence[float]) -> float:
    return 100 * sum(scores) / len(scores)


def one_by_one(judge: Callable[[Record, Rules], float]) -> Callable[[Sequence[Record], Rules], list[float]]:
    return lambda records, rules: [judge(record, rules) for record in records]


@dataclass(frozen=True)
class Task:
    """``name`` is the reference scripts', which stands in file names.

    ``read`` gives a file's rows, ``sample`` a row's question. ``judge`` gives each record a figure, ``total`` makes the
    benchmark's of them; ``needs`` are the keys a record must have for that. ``complete`` adds to a record what follows
    from its answer.
    """

    name: str
    also: tuple[str, ...]
    column: str
    annotations: tuple[str, ...]
    picture_folders: tuple[str, ...]
    max_tokens: int
    needs: tuple[str, ...]
    read: Callable[[Path], list[Row]]
    sample: Callable[[Row], Sample]
    judge: Callable[[Sequence[Record], Rules], list[float]]
    total: Callable[[Sequence[float]], float] = hundredfold_mean
    answer_key: str = "answer"
    complete: Callable[[dict[str, Any], Rules], None] = lambda record, rules: None
    group: Callable[[Record], str] = lambda record: ""
    truths: Callable[[Path], Mapping[int | str, Mapping[str, Any]]] | None = None
    merged: Callable[[Sequence[Record]], Any] = field(
        default=lambda records: [{**record, "question_id": record["sample_id"]} for record in records]
    )
