from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from nvlm_trt.checkpoint.base import Checkpoint
from nvlm_trt.checkpoint.registry import open_checkpoint
from nvlm_trt.model.tiling import cut_tiles
from nvlm_trt.reference.vision import VisionReference
from nvlm_trt.resources import resource_folder
from nvlm_trt.vision.export import export_vision
from nvlm_trt.vision.fp8_calibration import VisionCalibration, calibrate_vision, calibration_tiles
from nvlm_trt.vision.onnxruntime_engine import OnnxRuntimeEngine

MAX_TILES = 7


@pytest.fixture(scope="session")
def checkpoint(small_checkpoint: Path) -> Checkpoint:
    return open_checkpoint(small_checkpoint)


@pytest.fixture(scope="session")
def exported(checkpoint: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small checkpoint's vision folder in bfloat16; to be read, not changed."""
    folder = tmp_path_factory.mktemp("exports") / "vision"
    export_vision(checkpoint, folder)
    return folder


@pytest.fixture
def vision_folder(exported: Path, tmp_path: Path) -> Path:
    """A copy that a test may spoil."""
    return Path(shutil.copytree(exported, tmp_path / "vision"))


@pytest.fixture(scope="session")
def engine(exported: Path, small_checkpoint: Path) -> Iterator[OnnxRuntimeEngine]:
    engine = OnnxRuntimeEngine(exported, small_checkpoint, MAX_TILES, threads=1)
    yield engine
    engine.close()


@pytest.fixture(scope="session")
def reference(checkpoint: Checkpoint) -> VisionReference:
    return VisionReference.from_checkpoint(checkpoint)


@pytest.fixture(scope="session")
def random_tiles(checkpoint: Checkpoint) -> NDArray[np.uint8]:
    side = checkpoint.config.vision.image_size
    return np.random.default_rng(0).integers(0, 256, (MAX_TILES, side, side, 3), dtype=np.uint8)


@pytest.fixture(scope="session")
def real_tiles(checkpoint: Checkpoint) -> NDArray[np.uint8]:
    """The first tiles of the shipped photographs."""
    pictures = sorted((resource_folder("calibration") / "pictures").glob("*.jpg"))
    cut: list[Any] = []
    for picture in pictures:
        with Image.open(picture) as image:
            cut.append(cut_tiles(image.convert("RGB"), checkpoint.config.tiling))
    tiles: NDArray[np.uint8] = np.concatenate(cut)[:MAX_TILES]
    assert len(tiles) == MAX_TILES
    return tiles


@pytest.fixture(scope="session")
def fp8_tiles(checkpoint: Checkpoint, photos: list[bytes]) -> NDArray[np.uint8]:
    return calibration_tiles(photos, checkpoint.config.tiling)


@pytest.fixture(scope="session")
def calibration(checkpoint: Checkpoint, fp8_tiles: NDArray[np.uint8]) -> VisionCalibration:
    return calibrate_vision(checkpoint, fp8_tiles, threads=1)
