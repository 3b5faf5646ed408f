"""DocVQA, single page: questions about scanned documents."""

from __future__ import annotations

from nvlm_trt.evaluate.anls import anls
from nvlm_trt.evaluate.prompts import SHORT_ANSWER, about_picture
from nvlm_trt.evaluate.row import Row, rows_under_data
from nvlm_trt.evaluate.task import Sample, Task, one_by_one

__all__ = ["SPDOCVQA"]


def _sample(row: Row) -> Sample:
    return Sample(
        row.id("questionId"),
        about_picture(row.text("question"), SHORT_ANSWER),
        (row.picture("image"),),
        {"gt_answer": row.texts("answers")},
    )


SPDOCVQA = Task(
    name="SPDocVQA",
    also=("DocVQA",),
    column="DocVQA",
    annotations=("val_v1.0_withQT.json", "val_v1.0.json"),
    picture_folders=("spdocvqa_images",),
    max_tokens=64,
    needs=("gt_answer",),
    read=rows_under_data,
    sample=_sample,
    judge=one_by_one(lambda record, rules: anls(record["answer"], record["gt_answer"], strict=rules.strict)),
)
