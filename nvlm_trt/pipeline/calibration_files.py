"""The files of a user's own calibration set: the list and the pictures it names."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

__all__ = ["calibration_files"]


def calibration_files(set_file: str | None) -> Mapping[str, Path]:
    """By names that do not contain where they lie; none for the shipped set, which is a resource.

    Raises ``UsageError`` E-USAGE-CALIBRATION for a set that cannot be read.
    """
    if set_file is None:
        return {}
    from nvlm_trt.decoder.calibration_set import read_set

    file = Path(set_file)
    pictures = {image for prompt in read_set(file) for image in prompt.images}
    return {"set": file} | {f"picture {image.relative_to(file.parent)}": image for image in sorted(pictures)}
