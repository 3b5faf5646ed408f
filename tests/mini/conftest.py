from __future__ import annotations

from pathlib import Path

import pytest

from nvlm_trt.checkpoint.synthetic import write_checkpoint
from nvlm_trt.mini.batches import BatchMaker
from nvlm_trt.mini.sizes import MINI
from nvlm_trt.mini.supply import batch_maker


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of the mini model's sizes, random; to be read, not changed."""
    folder = tmp_path_factory.mktemp("mini") / "base"
    write_checkpoint(folder, MINI, 0, 1)
    return folder


@pytest.fixture(scope="session")
def maker(base: Path) -> BatchMaker:
    return batch_maker(base, seed=0)
