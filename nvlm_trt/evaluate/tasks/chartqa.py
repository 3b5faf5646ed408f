"""ChartQA: questions about charts. A record's place in the list is its id."""

from __future__ import annotations

from nvlm_trt.evaluate.prompts import SHORT_ANSWER, about_picture
from nvlm_trt.evaluate.row import Row, rows_of_list
from nvlm_trt.evaluate.short_answers import relaxed_match
from nvlm_trt.evaluate.task import Sample, Task, one_by_one

__all__ = ["CHARTQA"]


def _sample(row: Row) -> Sample:
    return Sample(
        row.number - 1,
        about_picture(row.text("query"), SHORT_ANSWER),
        (row.picture("imgname"),),
        {"gt_answer": [row.text("label")]},
    )


CHARTQA = Task(
    name="ChartQA",
    also=(),
    column="ChartQA",
    annotations=("test_human.json", "test_augmented.json", "chartqa.json"),
    picture_folders=("png",),
    max_tokens=16,
    needs=("gt_answer",),
    read=rows_of_list,
    sample=_sample,
    judge=one_by_one(
        lambda record, rules: relaxed_match(record["answer"], record["gt_answer"][0], strict=rules.strict)
    ),
)
