from __future__ import annotations

import json
from pathlib import Path

import pytest

from nvlm_trt.deploy.repository import write_repository
from nvlm_trt.model.config import NvlmConfig
from nvlm_trt.plan.resolve import load_recipe


@pytest.fixture(scope="session")
def small_config(small_checkpoint) -> NvlmConfig:
    return NvlmConfig.from_json(json.loads((small_checkpoint / "config.json").read_text(encoding="utf-8")))


@pytest.fixture(scope="session")
def embedded_repository(small_config, tmp_path_factory) -> Path:
    """To be read, not changed."""
    folder: Path = tmp_path_factory.mktemp("repository") / "triton_repo"
    write_repository(load_recipe("embedded", small_config), small_config, folder)
    return folder
