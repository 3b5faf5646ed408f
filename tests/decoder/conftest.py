from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from nvlm_trt.checkpoint.base import Checkpoint
from nvlm_trt.checkpoint.registry import open_checkpoint
from nvlm_trt.decoder.calibration import Calibration, calibrate
from nvlm_trt.decoder.trtllm_checkpoint import ConversionReport, write_trtllm_checkpoint
from tests.decoder.qwen2 import random_samples
from tests.decoder.writing import Write


@pytest.fixture(scope="session")
def checkpoint(small_checkpoint: Path) -> Checkpoint:
    return open_checkpoint(small_checkpoint)


@pytest.fixture(scope="session")
def samples(checkpoint: Checkpoint) -> list[NDArray[np.float32]]:
    return random_samples(checkpoint.config.decoder.hidden_size, (5, 40, 100))


@pytest.fixture(scope="session")
def calibration(checkpoint: Checkpoint, samples: list[NDArray[np.float32]]) -> Calibration:
    return calibrate(checkpoint, samples)


@pytest.fixture
def write(checkpoint: Checkpoint, calibration: Calibration, tmp_path: Path) -> Write:
    """Writes the small decoder, or an altered one, into a folder of its own."""

    def write_it(name: str = "out", source: Checkpoint | None = None, **options: Any) -> tuple[Path, ConversionReport]:
        folder = tmp_path / name
        return folder, write_trtllm_checkpoint(source or checkpoint, calibration, folder, **options)

    return write_it
