"""What FP8 costs and saves in the vision half of a checkpoint: error against the unquantised graph, and bytes.

    python scripts/measure_fp8_vision.py CHECKPOINT [--compute-capability 8.9] [--only-size]

Errors are those of ONNX Runtime in float32 on the shipped photographs' tiles, calibrated on the same photographs and
two tiles of noise. With a compute capability plans are built by TensorRT-RTX.
"""

from __future__ import annotations

import argparse
import re
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto, helper

from nvlm_trt.checkpoint.registry import open_checkpoint
from nvlm_trt.model.picture import decode_picture
from nvlm_trt.model.tiling import cut_tiles
from nvlm_trt.resources import resource_folder
from nvlm_trt.vision.artefact import PLAN_FILE, read_graph
from nvlm_trt.vision.export import export_vision
from nvlm_trt.vision.fp8_calibration import VisionCalibration, calibrate_vision, calibration_tiles
from nvlm_trt.vision.graph import INPUT, OUTPUT
from nvlm_trt.vision.linears import PROJECTOR
from nvlm_trt.vision.onnxruntime_engine import add_weights
from nvlm_trt.vision.registry import build_engine
from nvlm_trt.vision.weights import map_weights
from nvlm_trt.vision.widen import widen

__all__: list[str] = []

# What is left out, by the name of what is quantised.
VARIANTS: dict[str, Sequence[str] | None] = {
    "bfloat16": None,
    "FP8 layers": PROJECTOR,
    "FP8 layers, projector": (),
    "FP8 qkv": ("*.attn.proj", "*.mlp.*", *PROJECTOR),
    "FP8 proj": ("*.attn.qkv", "*.mlp.*", *PROJECTOR),
    "FP8 fc1": ("*.attn.*", "*.fc2", *PROJECTOR),
    "FP8 fc2": ("*.attn.*", "*.fc1", *PROJECTOR),
    "FP8 projector": ("vision_model.*",),
}


def run(folder: Path, checkpoint_folder: Path, tiles: NDArray[np.uint8]) -> tuple[int, dict[str, NDArray[Any]]]:
    """The weights' bytes, and what each layer and the whole graph make of the tiles."""
    import onnxruntime

    model = read_graph(folder)
    weights = map_weights(model, folder, checkpoint_folder)
    nbytes = sum(array.nbytes for array in weights.values())
    wide = widen(model)
    layers = [node.output[0] for node in wide.graph.node if re.fullmatch(r"layers\.\d+/Add\.2", node.name)]
    wide.graph.output.extend(helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in layers)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    add_weights(options, model, weights)
    session = onnxruntime.InferenceSession(wide.SerializeToString(), options, providers=["CPUExecutionProvider"])
    names = [*layers, OUTPUT]
    return nbytes, dict(zip(names, session.run(names, {INPUT: tiles}), strict=True))


def compare(value: NDArray[Any], wanted: NDArray[Any]) -> tuple[float, float, float]:
    """The difference's norm over the wanted one's, and the mean and smallest cosine of a row."""
    rows, wanted_rows = (array.reshape(-1, array.shape[-1]).astype(np.float64) for array in (value, wanted))
    norms = np.linalg.norm(rows, axis=1) * np.linalg.norm(wanted_rows, axis=1)
    cosines = (rows * wanted_rows).sum(1) / norms
    error = np.linalg.norm(rows - wanted_rows) / np.linalg.norm(wanted_rows)
    return float(error), float(cosines.mean()), float(cosines.min())


def plan(folder: Path, checkpoint_folder: Path, compute_capability: str) -> str:
    """A plan's size and its fused attention kernels."""
    build_engine(
        "tensorrt_rtx",
        folder,
        checkpoint_folder,
        (1, 7, 28),
        folder / PLAN_FILE,
        compute_capabilities=[compute_capability],
    )
    data = (folder / PLAN_FILE).read_bytes()
    return f"{len(data) / 1e6:10.1f} {len(re.findall(rb'function=. name=_gemm_mha', data)):9}"


def measure(checkpoint_folder: Path, compute_capability: str, only_size: bool) -> None:
    checkpoint = open_checkpoint(checkpoint_folder)
    pictures = [file.read_bytes() for file in sorted((resource_folder("calibration") / "pictures").glob("*.jpg"))]
    calibration = calibrate_vision(checkpoint, calibration_tiles(pictures, checkpoint.config.tiling))
    if VisionCalibration.from_json(calibration.to_json()) != calibration:
        raise RuntimeError("a calibration came back from JSON as another")
    tiles = np.concatenate([cut_tiles(decode_picture(picture), checkpoint.config.tiling) for picture in pictures])
    if only_size:
        tiles = tiles[:1]
    print(f"{len(tiles)} tiles of {len(pictures)} photographs; calibrated on {calibration.num_tiles}")
    print(f"{'':22} weights MB   error  mean cosine  least cosine    plan MB  attention")
    wanted: dict[str, NDArray[Any]] = {}
    by_layer: dict[str, list[str]] = {}
    for name, exclude in list(VARIANTS.items())[: 3 if only_size else None]:
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary)
            quantization = {} if exclude is None else {"quantization": calibration, "exclude": exclude}
            export_vision(checkpoint, folder, **quantization)  # type: ignore[arg-type]
            nbytes, values = run(folder, checkpoint_folder, tiles)
            wanted = wanted or values
            error, mean, least = compare(values[OUTPUT], wanted[OUTPUT])
            by_layer[name] = [f"{compare(values[key], wanted[key])[0]:.4f}" for key in values]
            built = plan(folder, checkpoint_folder, compute_capability) if compute_capability else ""
            print(f"{name:22} {nbytes / 1e6:10.1f}  {error:.4f}     {mean:.6f}      {least:.6f} {built}", flush=True)
    for name in list(VARIANTS)[1:3]:
        print(f"{name}, error after each layer and of the rows: {' '.join(by_layer[name])}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--compute-capability", default="", help="also build plans, for 8.9 say")
    parser.add_argument("--only-size", action="store_true", help="one tile and three variants, for large checkpoints")
    arguments = parser.parse_args()
    measure(arguments.checkpoint, arguments.compute_capability, arguments.only_size)


if __name__ == "__main__":
    main()
