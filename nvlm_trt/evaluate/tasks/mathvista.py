"""MathVista: mathematics in pictures, with options or without. One object of records by id, as it is shipped."""

from __future__ import annotations

from pathlib import Path

from nvlm_trt.evaluate.choices import find_choice, options_by_letter
from nvlm_trt.evaluate.math_answers import math_match
from nvlm_trt.evaluate.prompts import about_picture, with_options
from nvlm_trt.evaluate.row import Row, read_json, rows_of
from nvlm_trt.evaluate.rules import Rules
from nvlm_trt.evaluate.task import Record, Sample, Task, one_by_one

__all__ = ["MATHVISTA"]

_CHOICE = "multi_choice"


def _rows(file: Path) -> list[Row]:
    content = read_json(file)
    return rows_of(file, list(content.values()) if isinstance(content, dict) else content, "records")


def _sample(row: Row) -> Sample:
    kind, answer = row.text("question_type"), row.text("answer")
    if kind != _CHOICE:
        prompt, options = row.text("query").replace("Hint: ", ""), {}
    else:
        options = options_by_letter(row.texts("choices"))
        letters = [letter for letter, option in options.items() if option == answer]
        if not letters:
            raise row.error("answer", "is none of the choices")
        prompt, answer = with_options(row.text("question"), options), letters[0]
    return Sample(
        row.id("pid"),
        about_picture(prompt),
        (row.picture("image"),),
        {"gt_answer": [answer], "question_type": kind, "index2ans": options, "all_choices": list(options)},
    )


def _judge(record: Record, rules: Rules) -> float:
    answer, truth = record["answer"], record["gt_answer"]
    truth = truth[0] if isinstance(truth, list) else truth
    if record["question_type"] != _CHOICE:
        return math_match(answer, truth, strict=rules.strict)
    found = find_choice(answer, record["index2ans"], strict=rules.strict)
    return float((found or rules.guess(record["all_choices"], record["sample_id"])) == truth)


MATHVISTA = Task(
    name="MathVista",
    also=(),
    column="MathVista",
    annotations=("testmini.json", "annot_testmini.json"),
    picture_folders=(),
    max_tokens=64,
    needs=("gt_answer", "question_type", "index2ans", "all_choices"),
    read=_rows,
    sample=_sample,
    judge=one_by_one(_judge),
    merged=list,
)
