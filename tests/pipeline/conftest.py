from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from nvlm_trt.pipeline.builder import build


@pytest.fixture(scope="session")
def built(small_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small checkpoint, built with the recipe ``embedded``; to be read, not changed."""
    out = tmp_path_factory.mktemp("built") / "embedded"
    build(small_checkpoint, "embedded", out)
    return out


@pytest.fixture
def out_of_built(built: Path, tmp_path: Path) -> Path:
    """A copy of ``built``, to be changed."""
    shutil.copytree(built, tmp_path / "out")
    return tmp_path / "out"
