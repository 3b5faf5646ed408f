"""Scores a run's files, ours or the reference scripts'."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from nvlm_trt.evaluate.bootstrap import Interval, mean_interval
from nvlm_trt.evaluate.failures import bad_output, missing_data, mixed_runs
from nvlm_trt.evaluate.output_file import answer_files, merged_file, parse_lines, write_json
from nvlm_trt.evaluate.rules import Rules
from nvlm_trt.evaluate.settings import settings_file
from nvlm_trt.evaluate.task import Record, Task

__all__ = ["Answers", "Comparison", "Score", "compare", "read_answers", "score", "write_merged"]


@dataclass(frozen=True, slots=True)
class Answers:
    """``records`` each once, in the files' order: of several of one id the first that is no error. ``expected`` is how
    many there should be, if that is known, and ``deployment`` what answered, if the run was told."""

    records: tuple[Record, ...]
    duplicates: int
    expected: int | None
    deployment: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Score:
    """``value`` in the published table's unit; ``interval`` of 95 % over questions; ``groups``: score, questions."""

    task: str
    strict: bool
    value: float
    interval: Interval
    records: int
    expected: int | None
    duplicates: int
    errors: int
    empty: int
    groups: Mapping[str, tuple[float, int]]

    def to_json(self) -> dict[str, Any]:
        return {"format": 1, **asdict(self)}


@dataclass(frozen=True, slots=True)
class Comparison:
    """``difference`` is B less A over the questions both have, with its paired interval of 95 %."""

    task: str
    strict: bool
    a: float
    b: float
    difference: float
    interval: Interval
    records: int
    only_a: int
    only_b: int
    better: int
    worse: int

    def to_json(self) -> dict[str, Any]:
        return {"format": 1, **asdict(self)}


def read_answers(task: Task, out: Path, truth_file: Path | None = None) -> Answers:
    """``truth_file`` is for the two tasks whose reference files hold no truth.

    Raises ``UsageError``: E-EVAL-MISSING without files or truth, E-EVAL-OUTPUT for a line that cannot be judged.
    """
    files = answer_files(out, task.name)
    if not files:
        raise missing_data(
            f"There are no answers to {task.name} at {out.name}.", f"Make them: nvlm-trt eval run {task.name} -o ..."
        )
    truths = _truths(task, truth_file)
    records: dict[int | str, Record] = {}
    count = 0
    for file in files:
        for number, read in enumerate(parse_lines(file.name, file.read_bytes()), 1):
            count += 1
            record = {**read, **truths.get(read["sample_id"], {})}
            _check(task, record, file.name, number)
            first = records.setdefault(record["sample_id"], record)
            if "error" in first and "error" not in record:  # asked again by a run that did not come to its end
                records[record["sample_id"]] = record
    if not records:
        raise missing_data(f"{files[0].name} holds no answers.", "Run the task again.")
    settings = _settings(out, task)
    expected = settings.get("num_samples")
    return Answers(
        tuple(records.values()),
        count - len(records),
        expected if isinstance(expected, int) else None,
        settings.get("deployment"),
    )


def write_merged(task: Task, out: Path, answers: Answers) -> Path:
    """The file that the reference's evaluators make of a run and read."""
    file = merged_file(out, task.name)
    write_json(file, task.merged(answers.records))
    return file


def score(task: Task, answers: Answers, rules: Rules) -> Score:
    values = _judge(task, answers.records, rules)
    groups: dict[str, list[float]] = defaultdict(list)
    for record, value in zip(answers.records, values, strict=True):
        groups[task.group(record)].append(value)
    return Score(
        task=task.name,
        strict=rules.strict,
        value=task.total(values),
        interval=mean_interval(values, scale=_scale(task, len(values))),
        records=len(values),
        expected=answers.expected,
        duplicates=answers.duplicates,
        errors=sum("error" in record for record in answers.records),
        empty=sum(not record[task.answer_key] and "error" not in record for record in answers.records),
        groups={name: (task.total(of), len(of)) for name, of in sorted(groups.items()) if name},
    )


def compare(task: Task, a: Answers, b: Answers, rules: Rules) -> Comparison:
    """Raises ``UsageError`` E-EVAL-MIXED if the two have no question in common, or asked differently."""
    mine, theirs = ({record["sample_id"]: record for record in run.records} for run in (a, b))
    common = [sample_id for sample_id in mine if sample_id in theirs]
    if not common:
        raise mixed_runs("The two runs have no question in common.")
    for sample_id in common:
        truth = [{key: run[sample_id].get(key) for key in ("gt_answer", "ground_truth")} for run in (mine, theirs)]
        if truth[0] != truth[1]:
            raise mixed_runs(f"The two runs have different right answers under id {sample_id!r}.")
    values = [_judge(task, [run[sample_id] for sample_id in common], rules) for run in (mine, theirs)]
    differences = [after - before for before, after in zip(*values, strict=True)]
    scale = _scale(task, len(common))
    return Comparison(
        task=task.name,
        strict=rules.strict,
        a=task.total(values[0]),
        b=task.total(values[1]),
        difference=task.total(values[1]) - task.total(values[0]),
        interval=mean_interval(differences, scale=scale),
        records=len(common),
        only_a=len(mine) - len(common),
        only_b=len(theirs) - len(common),
        better=sum(difference > 0 for difference in differences),
        worse=sum(difference < 0 for difference in differences),
    )


def _judge(task: Task, records: tuple[Record, ...] | list[Record], rules: Rules) -> list[float]:
    """An error scores nothing, whatever its empty answer would."""
    values = task.judge(records, rules)
    return [0.0 if "error" in record else value for record, value in zip(records, values, strict=True)]


def _scale(task: Task, count: int) -> float:
    """What a mean of ones is in the task's unit: every total is a mean or a sum of what is judged."""
    return task.total([1.0] * count)


def _truths(task: Task, truth_file: Path | None) -> Mapping[int | str, Mapping[str, Any]]:
    if truth_file is None:
        return {}
    if task.truths is None:
        raise missing_data(f"{task.name} reads no file of right answers.", "Leave --ground-truth out.")
    return task.truths(truth_file)


def _check(task: Task, record: Record, file: str, line: int) -> None:
    for key in (task.answer_key, *task.needs):
        if key not in record:
            truth = task.truths is not None and key in ("gt_answer", "ground_truth")
            raise bad_output(file, line, f'"{key}" is missing' + ("; give --ground-truth" if truth else ""))
    if not isinstance(record[task.answer_key], str):
        raise bad_output(file, line, f'"{task.answer_key}" is not a text')
    truths = record.get("gt_answer", record.get("ground_truth"))
    if not isinstance(truths, str) and not _texts(truths):
        raise bad_output(file, line, "its right answers are not a list of texts")


def _texts(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(item, str) for item in value)


def _settings(out: Path, task: Task) -> Mapping[str, Any]:
    """What a run left beside its answers; nothing for files of the reference scripts."""
    try:
        settings = json.loads(settings_file(out, task.name).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return settings if isinstance(settings, dict) else {}
