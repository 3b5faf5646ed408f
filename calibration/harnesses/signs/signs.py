"""What lmms-eval calls for the task beside this file: a sign's picture, and whether an answer is the number on it."""

from typing import Any

from PIL import Image


def picture(record: dict[str, Any]) -> list[Image.Image]:
    return [Image.open(record["image"]).convert("RGB")]


def judge(record: dict[str, Any], answers: list[str]) -> dict[str, float]:
    return {"exact": float(answers[0].strip() == record["answer"])}
