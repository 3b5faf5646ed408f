"""AI2D: multiple-choice questions about diagrams; the options and what to answer are in the question already."""

from __future__ import annotations

from nvlm_trt.evaluate.prompts import about_picture
from nvlm_trt.evaluate.row import Row, rows_of_lines
from nvlm_trt.evaluate.short_answers import exact_match
from nvlm_trt.evaluate.task import Sample, Task, one_by_one

__all__ = ["AI2D"]


def _sample(row: Row) -> Sample:
    return Sample(
        row.id("question_id"),
        about_picture(row.text("question")),
        (row.picture("image"),),
        {"gt_answer": [row.text("answer")]},
    )


AI2D = Task(
    name="AI2D",
    also=(),
    column="AI2D",
    annotations=("test_vlmevalkit.jsonl", "test.jsonl", "ai2d.jsonl"),
    picture_folders=(),
    max_tokens=16,
    needs=("gt_answer",),
    read=rows_of_lines,
    sample=_sample,
    judge=one_by_one(lambda record, rules: exact_match(record["answer"], record["gt_answer"][0], strict=rules.strict)),
)
