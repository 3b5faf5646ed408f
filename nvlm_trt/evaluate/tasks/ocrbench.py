"""OCRBench: a thousand questions whose answer is text in the picture; the score counts hits, by kind of question."""

from __future__ import annotations

from nvlm_trt.evaluate.ocr_hits import ocr_hits
from nvlm_trt.evaluate.prompts import about_picture
from nvlm_trt.evaluate.row import Row, rows_of_list
from nvlm_trt.evaluate.task import Sample, Task, one_by_one

__all__ = ["OCRBENCH"]


def _sample(row: Row) -> Sample:
    return Sample(
        row.number - 1,
        about_picture(row.text("question")),
        (row.picture("image_path"),),
        {
            "gt_answer": row.text_or_texts("answers"),
            "dataset_name": row.text("dataset_name"),
            "data_type": row.text("type"),
        },
    )


OCRBENCH = Task(
    name="OCRBench",
    also=(),
    column="OCRBench",
    annotations=("OCRBench.json",),
    picture_folders=("OCRBench_Images",),
    max_tokens=128,
    needs=("gt_answer", "dataset_name", "data_type"),
    read=rows_of_list,
    sample=_sample,
    judge=one_by_one(
        lambda record, rules: ocr_hits(
            record["answer"], record["gt_answer"], record["dataset_name"], strict=rules.strict
        )
    ),
    total=sum,
    group=lambda record: str(record["data_type"]),
    merged=list,
)
