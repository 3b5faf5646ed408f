"""Captioning: COCO annotations, a caption of one sentence for each picture, CIDEr-D against all of its captions.

A picture's id is the number its file name ends in, as in the release's script.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nvlm_trt.evaluate.cider import cider_d
from nvlm_trt.evaluate.failures import bad_data
from nvlm_trt.evaluate.prompts import ONE_LINE_CAPTION, about_picture
from nvlm_trt.evaluate.row import Row, read_json, rows_of
from nvlm_trt.evaluate.rules import Rules
from nvlm_trt.evaluate.task import Record, Sample, Task

__all__ = ["CAPTIONING"]

_NUMBER = re.compile(r"(\d+)\.\w+$")


def _rows(file: Path) -> list[Row]:
    content = read_json(file)
    if not isinstance(content, dict):
        raise bad_data(file.name, 1, 'the file has no list under "images"')
    captions: dict[Any, list[str]] = defaultdict(list)
    for row in rows_of(file, content.get("annotations"), 'list under "annotations"'):
        captions[row.id("image_id")].append(row.text("caption"))
    rows = rows_of(file, content.get("images"), 'list under "images"')
    return [Row(row.file, row.number, {**row.data, "captions": captions[row.id("id")]}) for row in rows]


def _sample(row: Row) -> Sample:
    name = row.picture("file_name")
    number = _NUMBER.search(name)
    if number is None:
        raise row.error("file_name", "does not end in a number")
    return Sample(int(number[1]), about_picture(ONE_LINE_CAPTION), (name,), {"ground_truth": row.texts("captions")})


def _judge(records: Sequence[Record], rules: Rules) -> list[float]:
    captions = [_plain(record["caption"]) for record in records]
    return cider_d(captions, [_references(record["ground_truth"]) for record in records])


def _references(truth: str | list[str]) -> list[str]:
    return [truth] if isinstance(truth, str) else truth


def _plain(caption: str) -> str:
    return caption.lower().removesuffix(".")


def _truths(file: Path) -> Mapping[int | str, Mapping[str, Any]]:
    samples = [_sample(row) for row in _rows(file)]
    return {sample.sample_id: sample.fields for sample in samples}


CAPTIONING = Task(
    name="captioning",
    also=(),
    column="CIDEr",
    annotations=("captions_val2014.json", "captions.json"),
    picture_folders=("val2014",),
    max_tokens=64,
    needs=("caption", "ground_truth"),
    read=_rows,
    sample=_sample,
    judge=_judge,
    answer_key="caption",
    truths=_truths,
    merged=lambda records: [
        {"image_id": record["sample_id"], "caption": _plain(record["caption"])} for record in records
    ],
)
