"""Questions of one's own: about no picture, one or several; an answer is right if it is one of those given.

One record a line, with the keys of a calibration set and two more: {"id": "label-17", "prompt": "Which part number is
on the label?", "images": ["label-17.jpg"], "answers": ["AX-4401"]}. A "group" gets a line of its own in the score.
"""

from __future__ import annotations

from nvlm_trt.evaluate.row import Row, rows_of_lines
from nvlm_trt.evaluate.rules import Rules
from nvlm_trt.evaluate.task import Record, Sample, Task, one_by_one
from nvlm_trt.model.prompt import IMAGE_MARK

__all__ = ["OWN"]


def _sample(row: Row) -> Sample:
    names = row.texts("images") if row.has("images") else []
    pictures = tuple(Row(row.file, row.number, {"images": name}).picture("images") for name in names)
    fields = {"gt_answer": row.text_or_texts("answers")} | ({"group": row.text("group")} if row.has("group") else {})
    prompt = row.text("prompt")
    marked = prompt if IMAGE_MARK in prompt else f"{IMAGE_MARK}\n" * len(pictures) + prompt
    return Sample(row.id("id"), marked, pictures, fields)


def _judge(record: Record, rules: Rules) -> float:
    return float(_plain(record["answer"], rules) in [_plain(truth, rules) for truth in record["gt_answer"]])


def _plain(text: str, rules: Rules) -> str:
    """Strict, only blanks at the ends do not count; otherwise blanks, capitals and a full stop do not."""
    return text.strip() if rules.strict else " ".join(text.casefold().split()).removesuffix(".")


OWN = Task(
    name="own",
    also=(),
    column="",
    annotations=("questions.jsonl",),
    picture_folders=(),
    max_tokens=64,
    needs=("gt_answer",),
    read=rows_of_lines,
    sample=_sample,
    judge=one_by_one(_judge),
    group=lambda record: str(record.get("group", "")),
)
