"""MMMU: college questions of thirty subjects, with options or open. One record a line, pictures as files.

Only the first picture is asked about, as in the release's script; other marks are dropped. The benchmark's own data are
parquet files: docs/evaluation.md has the lines that turn them into this. The reference's files hold no truth; ours have
it under gt_answer, and for theirs it is read from the benchmark's answer file.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nvlm_trt.evaluate.choices import find_choice, options_by_letter
from nvlm_trt.evaluate.failures import bad_data
from nvlm_trt.evaluate.open_answers import contains_truth
from nvlm_trt.evaluate.prompts import LETTER_ONLY, SHORT_ANSWER, about_picture
from nvlm_trt.evaluate.row import Row, read_json, rows_of_lines
from nvlm_trt.evaluate.rules import Rules
from nvlm_trt.evaluate.task import Record, Sample, Task, one_by_one

__all__ = ["MMMU"]

_CHOICE = "multiple-choice"
_MARK = re.compile(r"<image \d>")


def _sample(row: Row) -> Sample:
    kind, question = row.text("question_type"), row.text("question").strip()
    fields: dict[str, Any] = {"question_type": kind, "gt_answer": row.text_or_texts("answer")}
    prompt = f"{question}\n{SHORT_ANSWER}"
    if kind == _CHOICE:
        options = options_by_letter(_options(row))
        if fields["gt_answer"][0] not in options:
            raise row.error("answer", "is the letter of no option")
        lines = "".join(f"({letter}) {option}\n" for letter, option in options.items())
        prompt = f"{question}\n{lines}\n{LETTER_ONLY}"
        fields |= {"index2ans": options, "all_choices": list(options)}
    return Sample(row.id("id"), about_picture(_MARK.sub("", prompt)), (row.picture("image_1"),), fields)


def _options(row: Row) -> list[str]:
    """A list, or as the benchmark has it: Python's spelling of one, in a text."""
    if isinstance(row.data.get("options"), list):
        return row.texts("options")
    try:
        spelt = ast.literal_eval(row.text("options"))
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        raise row.error("options", "is not a list of texts") from None
    return Row(row.file, row.number, {"options": spelt}).texts("options")


def _complete(record: dict[str, Any], rules: Rules) -> None:
    text = record["prediction"] = record["text"]
    if record["question_type"] == _CHOICE:
        found = find_choice(text, record["index2ans"], strict=rules.strict)
        record["prediction"] = found or rules.guess(record["all_choices"], record["sample_id"])


def _judge(record: Record, rules: Rules) -> float:
    truths = record["gt_answer"]
    if record["question_type"] != _CHOICE:
        return float(contains_truth(record["prediction"], truths))
    prediction = record["prediction"]
    if rules.strict and "index2ans" in record:
        prediction = find_choice(record["text"], record["index2ans"], strict=True)
    return float(prediction in truths)


def _truths(file: Path) -> Mapping[int | str, Mapping[str, Any]]:
    """The benchmark's answer_dict_val.json: {id: {"question_type", "ground_truth"}}."""
    content = read_json(file)
    if not isinstance(content, dict):
        raise bad_data(file.name, 1, "the file holds no object of answers by id")
    rows = {key: Row(file.name, number, {"answer": item}) for number, (key, item) in enumerate(content.items(), 1)}
    for row in rows.values():
        if not isinstance(row.data["answer"], dict):
            raise row.error("answer", "is not a JSON object")
    read = {key: Row(row.file, row.number, row.data["answer"]) for key, row in rows.items()}
    return {
        key: {"gt_answer": row.text_or_texts("ground_truth"), "question_type": row.text("question_type")}
        for key, row in read.items()
    }


def _subject(record: Record) -> str:
    return "_".join(str(record["sample_id"]).split("_")[1:-1])


MMMU = Task(
    name="MMMU",
    also=(),
    column="MMMU val",
    annotations=("mmmu.jsonl", "validation.jsonl"),
    picture_folders=(),
    max_tokens=128,
    needs=("text", "prediction", "question_type", "gt_answer"),
    read=rows_of_lines,
    sample=_sample,
    judge=one_by_one(_judge),
    answer_key="text",
    complete=_complete,
    group=_subject,
    truths=_truths,
    merged=lambda records: {record["sample_id"]: record["prediction"] for record in records},
)
