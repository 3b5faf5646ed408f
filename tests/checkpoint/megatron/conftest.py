from __future__ import annotations

import pytest

from nvlm_trt.checkpoint.base import Checkpoint
from nvlm_trt.checkpoint.registry import open_checkpoint
from nvlm_trt.checkpoint.synthetic import write_checkpoint
from tests.checkpoint.megatron_writer import SHAREABLE


@pytest.fixture(scope="session")
def original(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    """A tiny checkpoint in the release's layout; to be read, not changed."""
    folder = tmp_path_factory.mktemp("checkpoints") / "shareable"
    write_checkpoint(folder, SHAREABLE)
    return open_checkpoint(folder)
