"""The steps of the vision half, as data.

vision.calibration (for FP8) ──► vision.onnx ──► vision.engine (where the engine is built)
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from nvlm_trt.pipeline.calibration_files import calibration_files
from nvlm_trt.pipeline.machine import lacking_tensorrt, lacking_tensorrt_rtx
from nvlm_trt.pipeline.recipe import Recipe
from nvlm_trt.pipeline.step import Step, StepContext

__all__ = ["VISION_ARTEFACTS", "VISION_TENSORS", "vision_steps"]

VISION_TENSORS = ("vision_model.", "mlp1.")
VISION_ARTEFACTS = ("vision/vision.onnx", "vision/weights.json", "vision/weights.safetensors")
_CALIBRATION_FILE = "vision/calibration.json"
# The graph and its calibration carry the whole checkpoint's fingerprint, which the decoder's files and the index change
# as well.
_FINGERPRINTED: dict[str, Any] = {"tensors": ("",), "documents": ("config.json", "model.safetensors.index.json")}


def vision_steps(recipe: Recipe) -> list[Step]:
    steps = [_ONNX]
    if recipe.vision.quantization == "fp8":
        steps = [_CALIBRATION, dataclasses.replace(_ONNX, artefacts=(_CALIBRATION_FILE,))]
    engine = _ENGINES.get(recipe.vision.engine)
    return [*steps, engine] if engine is not None else steps


def _calibrate(context: StepContext) -> None:
    from nvlm_trt.decoder.calibration_set import picture_files, shipped_set
    from nvlm_trt.vision.fp8_calibration import calibrate_vision, calibration_tiles

    own = context.recipe.calibration.set
    pictures = [file.read_bytes() for file in picture_files(Path(own) if own else shipped_set())]
    tiles = calibration_tiles(pictures, context.checkpoint.config.tiling)
    calibration = calibrate_vision(context.checkpoint, tiles, progress=context.advance)
    file = context.into / _CALIBRATION_FILE
    file.parent.mkdir()
    file.write_text(calibration.to_json(), encoding="utf-8")


def _onnx(context: StepContext) -> None:
    from nvlm_trt.vision.export import export_vision
    from nvlm_trt.vision.fp8_calibration import VisionCalibration

    vision, calibration = context.recipe.vision, None
    if vision.quantization == "fp8":
        calibration = VisionCalibration.from_json((context.out / _CALIBRATION_FILE).read_bytes())
    export = export_vision(
        context.checkpoint,
        context.into / "vision",
        vision.dtype,
        quantization=calibration,
        exclude=vision.exclude,
        progress=context.advance,
    )
    for name in export.rounded:
        context.note(f"{name}: some values were rounded to {vision.dtype}.")


def _engine(context: StepContext) -> None:
    from nvlm_trt.vision.registry import build_engine

    folder = context.into / "vision"
    folder.mkdir()
    vision = context.recipe.vision
    build_engine(
        vision.engine,
        context.out / "vision",
        context.checkpoint.root,
        vision.profile,
        folder / "vision.plan",
        progress=context.advance,
    )


_CALIBRATION = Step(
    name="vision.calibration",
    run=_calibrate,
    resources=("calibration/set.jsonl", "calibration/pictures"),
    files=lambda recipe: calibration_files(recipe.calibration.set),
    outputs=(_CALIBRATION_FILE,),
    code=("checkpoint.registry", "decoder.calibration_set", "vision.fp8_calibration"),
    libraries=("ml_dtypes", "numpy", "onnx", "onnxruntime", "pillow"),
    **_FINGERPRINTED,
)

_ONNX = Step(
    name="vision.onnx",
    run=_onnx,
    values=("vision.dtype", "vision.exclude", "vision.quantization"),
    outputs=VISION_ARTEFACTS,
    code=("checkpoint.registry", "vision.export"),
    libraries=("ml_dtypes", "onnx"),
    **_FINGERPRINTED,
)

# The versions of TensorRT and TensorRT-LLM are those of the container, so its name is in the key. Asking the machine
# would make a deployment, finished in the container, look stale on the machine that began it.
_ENGINES = {
    name: Step(
        name="vision.engine",
        run=_engine,
        tensors=VISION_TENSORS,
        artefacts=VISION_ARTEFACTS,
        values=("container", "vision.engine", "vision.profile"),
        outputs=("vision/vision.plan", "vision/vision.plan.json"),
        code=("vision.registry",),
        lacking=lacking,
    )
    for name, lacking in (
        ("tensorrt", lambda _: lacking_tensorrt()),
        ("tensorrt_rtx", lambda _: lacking_tensorrt_rtx()),
    )
}
