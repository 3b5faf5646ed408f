"""RealWorldQA: questions about scenes, with options under "choices" or in the question itself."""

from __future__ import annotations

from nvlm_trt.evaluate.choices import options_by_letter
from nvlm_trt.evaluate.prompts import SHORT_ANSWER, about_picture, with_options
from nvlm_trt.evaluate.row import Row, rows_of_list
from nvlm_trt.evaluate.short_answers import exact_match
from nvlm_trt.evaluate.task import Sample, Task, one_by_one

__all__ = ["REALWORLDQA"]


def _sample(row: Row) -> Sample:
    options = options_by_letter(row.texts("choices") if row.has("choices") else [])
    question = row.text("question")
    prompt = about_picture(with_options(question, options)) if options else about_picture(question, SHORT_ANSWER)
    return Sample(
        row.id("question_id") if row.has("question_id") else row.number - 1,
        prompt,
        (row.picture("image"),),
        {"gt_answer": [row.text("answer")]},
    )


REALWORLDQA = Task(
    name="RealworldQA",
    also=(),
    column="RealWorldQA",
    annotations=("annotations.json",),
    picture_folders=("images",),
    max_tokens=16,
    needs=("gt_answer",),
    read=rows_of_list,
    sample=_sample,
    judge=one_by_one(lambda record, rules: exact_match(record["answer"], record["gt_answer"][0], strict=rules.strict)),
)
