"""Activation scales of the vision half: the largest magnitudes that enter each linear, over a set of tiles.

The tower runs in float32 on the unquantised weights, stage by stage (see ``stages``). Memory holds the weights of one
stage, as stored, widened and packed, the working set of a few tiles, and one hidden state of all tiles. At full size
that is 1.9 GB for a layer (measured with two tiles), some 8 GB for the projector (estimated), and 13 MB a tile.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from nvlm_trt.checkpoint.base import Checkpoint
from nvlm_trt.errors import ArtefactError, CheckpointError, UsageError
from nvlm_trt.model.config import TilingConfig, VisionConfig
from nvlm_trt.model.picture import decode_picture
from nvlm_trt.model.tiling import cut_tiles
from nvlm_trt.vision.dtype import SAFETENSORS_DTYPE, GraphDtype
from nvlm_trt.vision.dummy_heads import strip_dummy_heads
from nvlm_trt.vision.engine import check_tiles
from nvlm_trt.vision.graph import parameters, vision_graph
from nvlm_trt.vision.linears import linears
from nvlm_trt.vision.onnxruntime_engine import open_session
from nvlm_trt.vision.stages import cut_stages

__all__ = ["VisionCalibration", "calibrate_vision", "calibration_tiles"]

_FORMAT = 1
# Tiles that go through a stage at once: enough to keep the cores busy, little memory beside the weights.
_BATCH = 4
_GRAPH_DTYPE: dict[str, GraphDtype] = {tag: dtype for dtype, tag in SAFETENSORS_DTYPE.items()}


@dataclass(frozen=True, slots=True)
class VisionCalibration:
    """The largest magnitude that entered each linear, by its name; of which checkpoint, over which tiles."""

    amax: Mapping[str, float]
    checkpoint: str
    num_tiles: int
    tiles_sha256: str

    def to_json(self) -> str:
        """Exact: a float is written with all digits it needs to be read back as it was."""
        return json.dumps({"format": _FORMAT, **dataclasses.asdict(self)}, indent=1, sort_keys=True) + "\n"

    @classmethod
    def from_json(cls, text: str | bytes) -> VisionCalibration:
        """Inverse of ``to_json``. Raises ``ArtefactError`` E-ARTEFACT-CALIBRATION."""
        try:
            data = json.loads(text)
            if data.pop("format") != _FORMAT:
                raise ValueError
            calibration = cls(**data)
            if not (
                all(isinstance(amax, float) and math.isfinite(amax) and amax >= 0 for amax in data["amax"].values())
                and isinstance(calibration.checkpoint, str)
                and type(calibration.num_tiles) is int
                and isinstance(calibration.tiles_sha256, str)
            ):
                raise ValueError
        except (ValueError, TypeError, KeyError, AttributeError):
            raise _bad("The vision calibration is damaged or of another version.") from None
        return calibration

    def require(self, checkpoint: Checkpoint) -> None:
        """Raises ``ArtefactError`` E-ARTEFACT-CALIBRATION where it is of another checkpoint."""
        if self.checkpoint != checkpoint.fingerprint() or set(self.amax) != set(linears(checkpoint.config.vision)):
            raise _bad("The vision calibration is of another checkpoint.")


def calibration_tiles(
    pictures: Sequence[bytes], tiling: TilingConfig, *, num_random: int = 2, seed: int = 0
) -> NDArray[np.uint8]:
    """All tiles of the pictures, then ``num_random`` of noise, whose contrast no picture exceeds: UINT8 [n, S, S, 3].

    Raises ``RequestError`` for a picture that cannot be read.
    """
    size = tiling.tile_size
    noise = np.random.default_rng(seed).integers(0, 256, (num_random, size, size, 3), dtype=np.uint8)
    return np.concatenate([*(cut_tiles(decode_picture(picture), tiling) for picture in pictures), noise])


def calibrate_vision(
    checkpoint: Checkpoint,
    tiles: NDArray[Any],
    *,
    threads: int | None = None,
    progress: Callable[[int, int, str], None] | None = None,
) -> VisionCalibration:
    """Run ``tiles``, UINT8 [n, S, S, 3], through the vision half.

    ``threads`` is all cores when not given; ``progress`` is called with stages done, stages in all and "stages".
    Raises ``UsageError`` E-USAGE-CALIBRATION without tiles, ``RequestError`` E-IMAGE-TILES for tiles of another size,
    ``CheckpointError`` E-CKPT-NAN where a stage computes values that are not finite.
    """
    config = checkpoint.config.vision
    if not len(tiles):
        raise UsageError(
            "E-USAGE-CALIBRATION", "There are no tiles to calibrate on.", "Give one picture at least; ten are better."
        )
    hidden: NDArray[Any] = check_tiles(tiles, (config.image_size, config.image_size, 3), len(tiles))
    digest = hashlib.sha256(f"{hidden.shape}".encode() + hidden.tobytes()).hexdigest()
    stored = {name: _GRAPH_DTYPE[checkpoint.info(name).dtype] for name in parameters(vision_graph(config))}
    amax: dict[str, float] = {}
    parts = list(cut_stages(vision_graph(config, "float32", stored)))
    for done, (name, stage) in enumerate(parts, start=1):
        hidden, seen = _run(name, stage, checkpoint, hidden, threads)
        amax.update(seen)
        if progress is not None:
            progress(done, len(parts), "stages")
    return VisionCalibration(amax, checkpoint.fingerprint(), len(tiles), digest)


def _run(
    name: str, stage: onnx.ModelProto, checkpoint: Checkpoint, given: NDArray[Any], threads: int | None
) -> tuple[NDArray[np.float32], dict[str, float]]:
    """What a stage makes of ``given``, which it overwrites where the shape is the same, and its linears' amaxes."""
    config: VisionConfig = checkpoint.config.vision
    watched = _watch_linears(stage, set(linears(config)))
    names = list(parameters(stage))
    # The session takes bare memory, and a projection without its dummy heads is a view with gaps.
    weights = {name: np.ascontiguousarray(strip_dummy_heads(name, checkpoint.read(name), config)) for name in names}
    session = open_session(stage, weights, threads)
    largest = np.zeros(len(watched), np.float32)
    takes = stage.graph.input[0].name
    after: NDArray[np.float32] | None = given if given.dtype == np.float32 else None
    for start in range(0, len(given), _BATCH):
        hidden, *seen = session.run(None, {takes: given[start : start + _BATCH]})
        # A NaN that enters a linear comes out of it, so what comes out is enough to look at.
        if not np.isfinite(hidden).all():
            raise CheckpointError(
                "E-CKPT-NAN",
                f"The vision stage {name} computes values that are not finite numbers.",
                "Fetch the checkpoint's files again.",
            )
        largest = np.maximum(largest, np.array(seen, np.float32).reshape(-1))
        if after is None or after.shape[1:] != hidden.shape[1:]:
            after = np.empty((len(given), *hidden.shape[1:]), np.float32)
        after[start : start + _BATCH] = hidden
    assert after is not None, "a stage ran on no tiles"
    del session
    for name in names:
        checkpoint.drop_pages(name)
    return after, dict(zip(watched, largest.tolist(), strict=True))


def _watch_linears(stage: onnx.ModelProto, names: set[str]) -> list[str]:
    """Give the stage a further output for each of its linears among ``names``, in order: the largest magnitude that
    enters it."""
    graph, watched = stage.graph, []
    made = {node.output[0]: node for node in graph.node}
    for node in list(graph.node):
        if node.op_type != "MatMul":
            continue
        weight = node.input[1]
        while weight in made:  # back through the transposition and a cast, or, in attention, to what is no weight
            weight = made[weight].input[0]
        linear = weight.removesuffix(".weight")
        if linear in names:
            magnitude, amax = f"{linear}.magnitude", f"{linear}.amax"
            graph.node.append(helper.make_node("Abs", [node.input[0]], [magnitude]))
            graph.node.append(helper.make_node("ReduceMax", [magnitude], [amax], keepdims=0))
            graph.output.append(helper.make_tensor_value_info(amax, TensorProto.FLOAT, []))
            watched.append(linear)
    return watched


def _bad(what: str) -> ArtefactError:
    return ArtefactError("E-ARTEFACT-CALIBRATION", what, "Calibrate again with this checkpoint.")
