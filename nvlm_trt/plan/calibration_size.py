"""How many tokens a calibration set has, about, without tokenising it."""

from __future__ import annotations

import json
from pathlib import Path

from nvlm_trt.model.config import NvlmConfig
from nvlm_trt.plan.workload import Workload
from nvlm_trt.resources import resource_folder

__all__ = ["calibration_tokens"]

# Bytes of UTF-8 to a token, over the shipped set; the template around a prompt.
_BYTES_PER_TOKEN = 4
_TEMPLATE_TOKENS = 20


def calibration_tokens(config: NvlmConfig, set_file: str | None) -> int:
    """An upper estimate: pictures count as the most tiles. A set that cannot be read counts nothing: the build says
    what is wrong with it."""
    file = Path(set_file) if set_file else resource_folder("calibration") / "set.jsonl"
    try:
        lines = [json.loads(line) for line in file.read_text(encoding="utf-8").split("\n") if line.strip()]
        return sum(_line_tokens(config, line["prompt"], len(line.get("images", ()))) for line in lines)
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return 0


def _line_tokens(config: NvlmConfig, prompt: str, pictures: int) -> int:
    text = len(prompt.encode()) // _BYTES_PER_TOKEN + _TEMPLATE_TOKENS
    return Workload(pictures, text, 0).prompt_tokens(config)
