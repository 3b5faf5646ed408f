"""Exports a checkpoint's vision half: the graph, and the few tensors that had to change.

A weight of the graph points into the checkpoint whenever its bytes can serve as they are. The rest goes, one tensor at
a time, into ``weights.safetensors``: the attention tensors without their dummy heads, and whatever must be rounded to
the graph's dtype. In the release that is 3.7 of 13.4 GB, all of it stored as float32 and, as bfloat16 once, rounded
without loss. A checkpoint whose tensors lie in parts, one per rank, is written whole. Weights of linears that compute
in FP8 are written as e4m3.

In ``vision.onnx`` each weight's external location is its real file, offset and length. Put the graph and the side file
into the checkpoint's folder and any ONNX tool reads them there; our own engines find weights by name and map them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx

from nvlm_trt.checkpoint.base import Checkpoint, TensorInfo
from nvlm_trt.checkpoint.safetensors_file import SafetensorsFile
from nvlm_trt.checkpoint.safetensors_writer import TensorSpec, write_safetensors
from nvlm_trt.errors import UsageError
from nvlm_trt.vision.artefact import GRAPH_FILE, INDEX_FILE, SIDE_FILE, set_checkpoint_fingerprint, write_artefact
from nvlm_trt.vision.dtype import SAFETENSORS_DTYPE, GraphDtype
from nvlm_trt.vision.fp8 import LinearScales, scale_in
from nvlm_trt.vision.fp8_calibration import VisionCalibration
from nvlm_trt.vision.graph import parameters, vision_graph
from nvlm_trt.vision.linears import PROJECTOR, select_linears
from nvlm_trt.vision.side_tensors import SideTensors

__all__ = ["VisionExport", "export_vision"]


@dataclass(frozen=True, slots=True)
class VisionExport:
    """What an export did: how many weights are pointed at, how many were written, which of these lost precision, and
    which linears compute in FP8."""

    num_pointed: int
    num_written: int
    written_bytes: int
    rounded: tuple[str, ...]
    quantized: tuple[str, ...]


def export_vision(
    checkpoint: Checkpoint,
    out_folder: Path,
    dtype: GraphDtype = "bfloat16",
    *,
    quantization: VisionCalibration | None = None,
    exclude: Sequence[str] = PROJECTOR,
    progress: Callable[[int, int, str], None] | None = None,
) -> VisionExport:
    """Write ``vision.onnx``, ``weights.safetensors`` and ``weights.json`` into ``out_folder``.

    The same checkpoint gives the same bytes. A float32 graph points at bfloat16 weights too and widens them itself,
    which is exact. ``progress`` is called with the bytes written, the bytes there are to write and "B".

    With ``quantization`` linears compute in FP8, but not those that a pattern of ``exclude`` names: the projector's,
    unless told otherwise.

    Raises ``CheckpointError``: E-CKPT-TENSOR, E-CKPT-DUMMY, E-CKPT-NAN (looked for in written tensors only;
    others are not read) and E-CKPT-RANGE for values the dtype cannot hold; ``BuildError`` E-BUILD-WRITE.
    With ``quantization`` also ``ArtefactError`` E-ARTEFACT-CALIBRATION where it is of another checkpoint, and
    ``UsageError`` E-RECIPE-EXCLUDE.
    """
    config = checkpoint.config.vision
    shapes = {name: tuple(tensor.dims) for name, tensor in parameters(vision_graph(config, dtype)).items()}
    input_amax: Mapping[str, float] = {}
    quantized: list[str] = []
    if quantization is not None:
        quantization.require(checkpoint)
        input_amax = quantization.amax
        quantized = select_linears(config, exclude)
    elif tuple(exclude) != PROJECTOR:
        raise UsageError(
            "E-RECIPE-EXCLUDE",
            "Vision linears are excluded from a quantization that is not asked for.",
            "Leave out the patterns, or ask for FP8.",
        )
    in_fp8 = {f"{linear}.weight" for linear in quantized}
    stored = {name: _pointed_dtype(checkpoint.info(name), shape, dtype) for name, shape in sorted(shapes.items())}
    written = sorted(name for name, found in stored.items() if found is None or name in in_fp8)
    specs = [
        TensorSpec(name, "F8_E4M3" if name in in_fp8 else SAFETENSORS_DTYPE[dtype], shapes[name]) for name in written
    ]
    written_bytes = sum(spec.nbytes for spec in specs)
    side = SideTensors(checkpoint, dtype, in_fp8, lambda done: progress(done, written_bytes, "B") if progress else None)
    out_folder.mkdir(parents=True, exist_ok=True)
    write_safetensors(out_folder / SIDE_FILE, specs, side.produce)

    scales = {
        linear: LinearScales(
            input=float(scale_in(np.float32(input_amax[linear]), dtype)),
            weight=float(side.weight_scales[f"{linear}.weight"]),
        )
        for linear in quantized
    }
    model = vision_graph(config, dtype, {name: found for name, found in stored.items() if found is not None}, scales)
    side_file = SafetensorsFile(out_folder / SIDE_FILE)
    set_checkpoint_fingerprint(model, checkpoint.fingerprint())
    _point(model, {name: (side_file if name in written else checkpoint).info(name) for name in shapes})
    index = {name: {"file": "side" if name in written else "checkpoint"} for name in shapes}
    text = json.dumps(index, indent=1, sort_keys=True) + "\n"
    write_artefact(out_folder, INDEX_FILE, text.encode())
    write_artefact(out_folder, GRAPH_FILE, model.SerializeToString(deterministic=True))
    return VisionExport(
        num_pointed=len(shapes) - len(written),
        num_written=len(written),
        written_bytes=written_bytes,
        rounded=tuple(sorted(side.rounded)),
        quantized=tuple(quantized),
    )


def _pointed_dtype(info: TensorInfo, shape: tuple[int, ...], dtype: GraphDtype) -> GraphDtype | None:
    """The dtype in which the graph can use the tensor where it lies, or None if it must be rewritten."""
    if info.place is None or info.shape != shape:  # lies in parts; dummy heads
        return None
    if info.dtype == SAFETENSORS_DTYPE[dtype]:
        return dtype
    widened: dict[str, GraphDtype] = {"BF16": "bfloat16", "F16": "float16"}
    return widened.get(info.dtype) if dtype == "float32" else None


def _point(model: onnx.ModelProto, infos: Mapping[str, TensorInfo]) -> None:
    """Write each weight's real file, offset and length into the graph."""
    for name, tensor in parameters(model).items():
        place, nbytes = infos[name].place, infos[name].nbytes
        assert place is not None, f"{name} is pointed at and has no place"
        del tensor.external_data[:]
        for key, value in (("location", place.file.name), ("offset", place.offset), ("length", nbytes)):
            tensor.external_data.add(key=key, value=str(value))
