from __future__ import annotations

from collections.abc import Callable
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from nvlm_trt.serving.preprocess import Preprocessor
from tests.model.conftest import qwen, qwen_folder

__all__ = ["qwen", "qwen_folder"]


@pytest.fixture(scope="session")
def preprocessor(small_checkpoint) -> Preprocessor:
    return Preprocessor.from_folder(small_checkpoint, max_images=4, max_seq_len=4096)


@pytest.fixture(scope="session")
def png() -> Callable[..., bytes]:
    """A PNG of noise, another for each seed."""

    def png(width: int = 90, height: int = 60, seed: int = 0) -> bytes:
        pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
        file = BytesIO()
        Image.fromarray(pixels).save(file, "PNG")
        return file.getvalue()

    return png
