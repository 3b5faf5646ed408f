"""Roughly how large a calibration set is, without tokenising it or opening its pictures."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from nvlm_trt.model.config import NvlmConfig
from nvlm_trt.plan.workload import Workload
from nvlm_trt.resources import resource_folder

__all__ = ["CalibrationSize", "calibration_size"]

# Bytes of UTF-8 to a token, over the shipped set; the template around a prompt.
_BYTES_PER_TOKEN = 4
_TEMPLATE_TOKENS = 20


@dataclass(frozen=True, slots=True)
class CalibrationSize:
    """``tokens`` go through the decoder, ``tiles`` through the vision tower."""

    tokens: int
    tiles: int


def calibration_size(config: NvlmConfig, set_file: str | None) -> CalibrationSize:
    """An upper estimate: each picture counts as the most tiles, and the vision tower once for each group of them.

    A set that cannot be read counts nothing; the build says what is wrong with it.
    """
    file = Path(set_file) if set_file else resource_folder("calibration") / "set.jsonl"
    try:
        lines = [json.loads(line) for line in file.read_text(encoding="utf-8").split("\n") if line.strip()]
        prompts = [(len(line["prompt"].encode()), tuple(line.get("images", ()))) for line in lines]
        groups = {images for _, images in prompts}
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return CalibrationSize(0, 0)
    requests = [Workload(len(images), size // _BYTES_PER_TOKEN + _TEMPLATE_TOKENS, 0) for size, images in prompts]
    tiles = sum(map(len, groups)) * config.tiling.most_tiles_per_image
    return CalibrationSize(sum(request.prompt_tokens(config) for request in requests), tiles)
