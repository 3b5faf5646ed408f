"""The steps of the vision half, as data."""

from __future__ import annotations

from nvlm_trt.pipeline.machine import lacking_tensorrt, lacking_tensorrt_rtx
from nvlm_trt.pipeline.step import Step, StepContext

__all__ = ["VISION_ARTEFACTS", "VISION_ENGINES", "VISION_ONNX", "VISION_TENSORS"]

VISION_TENSORS = ("vision_model.", "mlp1.")
VISION_ARTEFACTS = ("vision/vision.onnx", "vision/weights.json", "vision/weights.safetensors")


def _onnx(context: StepContext) -> None:
    from nvlm_trt.vision.export import export_vision

    vision = context.into / "vision"
    export_vision(context.checkpoint, vision, context.recipe.vision.dtype, progress=context.advance)


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


VISION_ONNX = Step(
    name="vision.onnx",
    run=_onnx,
    tensors=VISION_TENSORS,
    documents=("config.json",),
    values=("vision.dtype",),
    outputs=VISION_ARTEFACTS,
    code=("checkpoint.registry", "vision.export"),
    libraries=("ml_dtypes", "onnx"),
)

# The versions of TensorRT and TensorRT-LLM are those of the container, so its name is in the key. Asking the machine
# would make a deployment, finished in the container, look stale on the machine that began it.
VISION_ENGINES = {
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
