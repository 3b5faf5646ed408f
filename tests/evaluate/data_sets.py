"""Tiny data sets in the public formats, with everything that can be wrong with them left out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from nvlm_trt.evaluate.tasks import TASKS

MC = {"question_type": "multiple-choice", "options": "['red', 'blue']"}

# Per task: the file, its content, and what of the first sample follows.
CONTENT: dict[str, tuple[str, Any]] = {
    "TextVQA": (
        "TextVQA_0.5.1_val.json",
        {"data": [{"image_id": "1", "question_id": 7, "question": "What word?", "answers": ["stop"] * 10}]},
    ),
    "VQAv2": ("vqav2.json", [{"image": "1.jpg", "question_id": 7, "question": "What?", "answer": ["dog"] * 10}]),
    "ChartQA": ("chartqa.json", [{"imgname": "1.jpg", "query": "How many?", "label": "12"}]),
    "OCRBench": (
        "OCRBench.json",
        [
            {
                "image_path": "1.jpg",
                "question": "Read it.",
                "answers": "STOP",
                "dataset_name": "IIIT5K",
                "type": "Regular Text Recognition",
            }
        ],
    ),
    "SPDocVQA": (
        "val_v1.0.json",
        {"data": [{"questionId": 7, "image": "1.jpg", "question": "Which date?", "answers": ["1 May"]}]},
    ),
    "RealworldQA": (
        "annotations.json",
        [{"image": "1.jpg", "question": "Which?", "answer": "B", "choices": ["x", "y"]}],
    ),
    "MathVista": (
        "testmini.json",
        {
            "7": {
                "pid": "7",
                "image": "1.jpg",
                "question": "How long?",
                "query": "Hint: Give a number.\nQuestion: How long?",
                "question_type": "free_form",
                "choices": None,
                "answer": "2.50",
            }
        },
    ),
    "captioning": (
        "captions.json",
        {
            "images": [{"id": 42, "file_name": "COCO_val2014_000000000042.jpg"}],
            "annotations": [{"image_id": 42, "caption": "A dog."}, {"image_id": 42, "caption": "A red dog."}],
        },
    ),
    "AI2D": ("ai2d.jsonl", [{"image": "1.jpg", "question_id": 7, "question": "Which?\nA. x\nB. y", "answer": "B"}]),
    "MMMU": (
        "mmmu.jsonl",
        [{"id": "validation_Art_Theory_1", "question": "Which <image 1>?", "image_1": "1.jpg", "answer": "B", **MC}],
    ),
    "own": ("questions.jsonl", [{"id": "a", "prompt": "Which?", "images": ["1.jpg"], "answers": ["x", "y"]}]),
}
assert set(CONTENT) == {task.name for task in TASKS}


def write(folder: Path, task: str, content: Any = None) -> Path:
    """The file of ``task`` in ``folder``, with ``content`` in place of the one good record."""
    name, good = CONTENT[task]
    content = good if content is None else content
    text = "\n".join(map(json.dumps, content)) if name.endswith("jsonl") else json.dumps(content)
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(text, encoding="utf-8")
    return folder
