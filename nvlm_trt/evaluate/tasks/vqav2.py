"""VQAv2: questions about photographs, ten people's answers to each.

One list of records, each with its picture's path: the form the release's script reads, made of the benchmark's two.
"""

from __future__ import annotations

from nvlm_trt.evaluate.prompts import SHORT_ANSWER, about_picture
from nvlm_trt.evaluate.row import Row, rows_of_list
from nvlm_trt.evaluate.short_answers import vqa_accuracy
from nvlm_trt.evaluate.task import Sample, Task, one_by_one

__all__ = ["VQAV2"]


def _sample(row: Row) -> Sample:
    return Sample(
        row.id("question_id"),
        about_picture(row.text("question"), SHORT_ANSWER),
        (row.picture("image"),),
        {"gt_answer": row.text_or_texts("answer")},
    )


VQAV2 = Task(
    name="VQAv2",
    also=(),
    column="VQAv2",
    annotations=("vqav2.json",),
    picture_folders=("val2014", "test2015"),
    max_tokens=16,
    needs=("gt_answer",),
    read=rows_of_list,
    sample=_sample,
    judge=one_by_one(lambda record, rules: vqa_accuracy(record["answer"], record["gt_answer"], strict=rules.strict)),
)
