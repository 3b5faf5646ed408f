from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from nvlm_trt.checkpoint.base import Checkpoint
from nvlm_trt.errors import ArtefactError, CheckpointError, RequestError, UsageError
from nvlm_trt.reference.vision import VisionReference
from nvlm_trt.vision.fp8_calibration import VisionCalibration, calibrate_vision, calibration_tiles
from nvlm_trt.vision.linears import linears
from tests.vision.altered import AlteredCheckpoint

FC2 = "vision_model.encoder.layers.1.mlp.fc2"


def test_amaxes_are_those_of_the_torch_reference(
    checkpoint: Checkpoint,
    calibration: VisionCalibration,
    fp8_tiles: NDArray[np.uint8],
    reference: VisionReference,
):
    seen: dict[str, float] = {}

    def observe(name: str) -> Callable[[Any, Any], None]:
        def hook(_module: Any, inputs: Any) -> None:
            seen[name] = float(inputs[0].abs().max())

        return hook

    modules = dict(reference.named_modules())
    handles = [modules[name].register_forward_pre_hook(observe(name)) for name in linears(checkpoint.config.vision)]
    try:
        reference(torch.from_numpy(fp8_tiles))
    finally:
        for handle in handles:
            handle.remove()
    assert calibration.amax == pytest.approx(seen, rel=1e-5)
    assert list(calibration.amax) == linears(checkpoint.config.vision)
    assert (calibration.num_tiles, calibration.checkpoint) == (len(fp8_tiles), checkpoint.fingerprint())


def test_the_same_tiles_give_the_same_bytes_with_any_number_of_threads(
    checkpoint: Checkpoint, calibration: VisionCalibration, fp8_tiles: NDArray[np.uint8]
):
    steps: list[tuple[int, int, str]] = []
    again = calibrate_vision(checkpoint, fp8_tiles, threads=2, progress=lambda *step: steps.append(step))
    assert again.to_json() == calibration.to_json()
    assert steps == [(done, 7, "stages") for done in range(1, 8)]


def test_the_tiles_are_not_changed(checkpoint: Checkpoint, random_tiles: NDArray[np.uint8]):
    before = random_tiles.copy()
    one = calibrate_vision(checkpoint, random_tiles[:1], threads=1)
    np.testing.assert_array_equal(random_tiles, before)
    five = calibrate_vision(checkpoint, random_tiles[:5], threads=1)
    assert five.tiles_sha256 != one.tiles_sha256
    assert all(five.amax[name] >= one.amax[name] * (1 - 1e-6) for name in one.amax)


def test_tiles_of_pictures_and_of_noise(checkpoint: Checkpoint, photos: list[bytes]):
    tiles = calibration_tiles(photos[:1], checkpoint.config.tiling, num_random=3)
    assert tiles.dtype == np.uint8
    assert tiles.shape[1:] == (112, 112, 3)
    assert 4 <= len(tiles) <= 3 + 7
    np.testing.assert_array_equal(tiles, calibration_tiles(photos[:1], checkpoint.config.tiling, num_random=3))
    assert not np.array_equal(tiles[-1], tiles[-2])
    assert len(calibration_tiles([], checkpoint.config.tiling, num_random=1)) == 1


def test_tiles_that_cannot_be_are_refused(checkpoint: Checkpoint):
    with pytest.raises(UsageError, match="E-USAGE-CALIBRATION"):
        calibrate_vision(checkpoint, np.zeros((0, 112, 112, 3), np.uint8))
    with pytest.raises(RequestError, match="E-IMAGE-TILES"):
        calibrate_vision(checkpoint, np.zeros((1, 448, 448, 3), np.uint8))


def test_weights_that_are_not_numbers_are_found_at_their_layer(checkpoint: Checkpoint, random_tiles: NDArray[np.uint8]):
    def spoil(array: NDArray[Any]) -> None:
        array[3, 4] = np.nan

    with pytest.raises(CheckpointError, match=r"E-CKPT-NAN.*layers\.1 "):
        calibrate_vision(AlteredCheckpoint(checkpoint, [f"{FC2}.weight"], spoil), random_tiles[:1], threads=1)


def test_pages_are_let_go_stage_by_stage(checkpoint: Checkpoint, random_tiles: NDArray[np.uint8]):
    counting = AlteredCheckpoint(checkpoint)
    calibrate_vision(counting, random_tiles[:1], threads=1)
    assert counting.dropped == counting.reads
    assert len(set(counting.reads)) == len(counting.reads)


@settings(deadline=None)
@given(
    calibration=st.builds(
        VisionCalibration,
        amax=st.dictionaries(st.text(), st.floats(0, allow_nan=False, allow_infinity=False)),
        num_tiles=st.integers(1, 2**40),
    )
)
def test_json_and_back(calibration: VisionCalibration):
    assert VisionCalibration.from_json(calibration.to_json()) == calibration


def changed(change: Callable[[dict[str, Any]], object]) -> Callable[[dict[str, Any]], str]:
    def text(data: dict[str, Any]) -> str:
        change(data)
        return json.dumps(data)

    return text


@pytest.mark.parametrize(
    "text",
    [
        lambda data: "",
        lambda data: "[]",
        lambda data: "{}",
        lambda data: json.dumps(data)[:-3],
        changed(lambda data: data.update(format=2)),
        changed(lambda data: data.pop("amax")),
        changed(lambda data: data.update(more=1)),
        changed(lambda data: data.update(num_tiles=True)),
        changed(lambda data: data.update(checkpoint=7)),
        changed(lambda data: data.update(amax=[1.0])),
        changed(lambda data: data["amax"].update({FC2: float("nan")})),
        changed(lambda data: data["amax"].update({FC2: -1.0})),
        changed(lambda data: data["amax"].update({FC2: "1"})),
    ],
)
def test_other_json_is_refused(calibration: VisionCalibration, text: Callable[[dict[str, Any]], str]):
    with pytest.raises(ArtefactError, match="E-ARTEFACT-CALIBRATION"):
        VisionCalibration.from_json(text(json.loads(calibration.to_json())))


def test_a_calibration_of_another_checkpoint_is_refused(checkpoint: Checkpoint, calibration: VisionCalibration):
    calibration.require(checkpoint)
    some = {name: amax for name, amax in calibration.amax.items() if name != FC2}
    for other in (
        VisionCalibration(calibration.amax, "0" * 64, 1, ""),
        VisionCalibration(some, calibration.checkpoint, 1, ""),
    ):
        with pytest.raises(ArtefactError, match=r"E-ARTEFACT-CALIBRATION.*another checkpoint"):
            other.require(checkpoint)


def test_a_calibration_names_no_place(calibration: VisionCalibration, small_checkpoint: Path):
    assert str(small_checkpoint) not in calibration.to_json()
