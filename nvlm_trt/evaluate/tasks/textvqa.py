"""TextVQA: questions about text in photographs, ten people's answers to each."""

from __future__ import annotations

from nvlm_trt.evaluate.prompts import SHORT_ANSWER, about_picture
from nvlm_trt.evaluate.row import Row, rows_under_data
from nvlm_trt.evaluate.short_answers import vqa_accuracy
from nvlm_trt.evaluate.task import Sample, Task, one_by_one

__all__ = ["TEXTVQA"]


def _sample(row: Row) -> Sample:
    return Sample(
        row.id("question_id"),
        about_picture(row.text("question"), SHORT_ANSWER),
        (f"{row.picture('image_id')}.jpg",),
        {"gt_answer": row.texts("answers")},
    )


TEXTVQA = Task(
    name="TextVQA",
    also=(),
    column="TextVQA",
    annotations=("TextVQA_0.5.1_val.json",),
    picture_folders=("train_images",),
    max_tokens=16,
    needs=("gt_answer",),
    read=rows_under_data,
    sample=_sample,
    judge=one_by_one(lambda record, rules: vqa_accuracy(record["answer"], record["gt_answer"], strict=rules.strict)),
)
