"""The file of prompts and pictures that the decoder is calibrated on.

One JSON object a line: ``{"prompt": "...", "images": ["pictures/rocket.jpg"]}``. Pictures are named relative to the
file; ``images`` may be left out, blank lines are passed over.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from nvlm_trt.errors import UsageError
from nvlm_trt.resources import resource_folder

__all__ = ["CalibrationPrompt", "picture_files", "read_set", "refused", "shipped_set"]


@dataclass(frozen=True, slots=True)
class CalibrationPrompt:
    """One line of the file; ``images`` are files that exist."""

    line: int
    prompt: str
    images: tuple[Path, ...]


def shipped_set() -> Path:
    return resource_folder("calibration") / "set.jsonl"


def read_set(file: Path) -> list[CalibrationPrompt]:
    """Raises ``UsageError`` E-USAGE-CALIBRATION with the number of the line that is invalid."""
    try:
        # Not splitlines(): JSON texts may hold separators that only it takes for ends of lines.
        lines = file.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError):
        raise UsageError(
            "E-USAGE-CALIBRATION", f"{file.name} cannot be read as UTF-8 text.", "Name a JSONL file."
        ) from None
    prompts = [_read_line(file, number, line) for number, line in enumerate(lines, 1) if line.strip()]
    if not prompts:
        raise UsageError("E-USAGE-CALIBRATION", f"{file.name} holds no prompts.", "Write one JSON object a line.")
    return prompts


def picture_files(file: Path) -> list[Path]:
    """The pictures of a set, sorted, each once.

    Raises ``UsageError`` E-USAGE-CALIBRATION for a set that cannot be read or has none.
    """
    pictures = sorted({image for prompt in read_set(file) for image in prompt.images})
    if not pictures:
        raise UsageError(
            "E-USAGE-CALIBRATION",
            f"{file.name} names no pictures, and FP8 in the vision half is calibrated on pictures.",
            'Add lines with "images", or set vision.quantization to "none".',
        )
    return pictures


def _read_line(file: Path, number: int, line: str) -> CalibrationPrompt:
    try:
        data = json.loads(line)
    except (ValueError, RecursionError):
        data = None
    if not isinstance(data, dict) or not isinstance(data.get("prompt"), str):
        raise refused(file, number, 'is not a JSON object with a text under "prompt"')
    unknown = sorted(data.keys() - {"prompt", "images"})
    if unknown:
        raise refused(file, number, f"has the unknown key {unknown[0]!r}")
    images = data.get("images", [])
    if not isinstance(images, list) or not all(isinstance(image, str) and image for image in images):
        raise refused(file, number, 'has "images" that are not a list of file names')
    paths = tuple(file.parent / image for image in images)
    for image, path in zip(images, paths, strict=True):
        if not path.is_file():
            raise refused(file, number, f"names the picture {image}, which does not exist")
    return CalibrationPrompt(number, data["prompt"], paths)


def refused(file: Path, number: int, why: str) -> UsageError:
    """The error for a line."""
    return UsageError("E-USAGE-CALIBRATION", f"{file.name}, line {number}: {why}.", "Correct the line.")
