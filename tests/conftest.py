from __future__ import annotations

from pathlib import Path

import pytest

from nvlm_trt.checkpoint.synthetic import SIZES, write_checkpoint


@pytest.fixture(scope="session")
def small_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small NVLM-D checkpoint, seed 0; to be read, not changed."""
    folder = tmp_path_factory.mktemp("checkpoints") / "small"
    write_checkpoint(folder, SIZES["small"])
    return folder
