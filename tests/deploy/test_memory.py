from __future__ import annotations

import json

from nvlm_trt.deploy.memory import shared_memory_bytes
from nvlm_trt.model.config import NvlmConfig


def test_shared_memory_grows_with_pictures(small_checkpoint):
    config = NvlmConfig.from_json(json.loads((small_checkpoint / "config.json").read_text(encoding="utf-8")))
    one, four = (shared_memory_bytes(config, max_images) for max_images in (1, 4))
    assert 4 * 2**20 < one < four < 4 * one
