"""The steps of a build, as data.

    inspect → vision.onnx → vision.engine → decoder.calibration → decoder.checkpoint → decoder.engine
            → triton.repository

An engine that reads the shared artefact itself (ONNX Runtime, the embedded decoder) has no engine step.
"""

from __future__ import annotations

import shutil
from pathlib import PurePosixPath

from nvlm_trt.model.config import NvlmConfig
from nvlm_trt.pipeline.container import DEPLOYMENT
from nvlm_trt.pipeline.machine import gpus, lacking_tensorrt, lacking_tensorrt_rtx, lacking_trtllm_build
from nvlm_trt.pipeline.recipe import Recipe
from nvlm_trt.pipeline.step import Step, StepContext

__all__ = ["steps_for"]

# What preprocessing needs of a model folder; a checkpoint has the tokenizer in one form or the other.
_DOCUMENTS = (
    "added_tokens.json",
    "config.json",
    "generation_config.json",
    "merges.txt",
    "preprocessor_config.json",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.json",
)
_VISION = ("vision_model.", "mlp1.")
_DECODER = ("language_model.",)


def steps_for(recipe: Recipe) -> list[Step]:
    """The recipe's steps in the order above."""
    vision_engine = _VISION_ENGINES.get(recipe.vision.engine)
    decoder_engine = _DECODER_ENGINES.get(recipe.decoder.engine)
    steps = (_INSPECT, _VISION_ONNX, vision_engine, _CALIBRATION, _TRTLLM_CHECKPOINT, decoder_engine, _REPOSITORY)
    return [step for step in steps if step is not None]


def _inspect(context: StepContext) -> None:
    from nvlm_trt.model.tokenizer import NvlmTokenizer

    # Here, so that a broken tokenizer shows before the long work and not after.
    NvlmTokenizer.from_folder(context.checkpoint.root)
    folder = context.into / "model"
    folder.mkdir()
    for name in _DOCUMENTS:
        source = context.checkpoint.root / name
        if source.is_file():
            shutil.copyfile(source, folder / name)


def _vision_onnx(context: StepContext) -> None:
    from nvlm_trt.vision.export import export_vision

    export_vision(context.checkpoint, context.into / "vision", context.recipe.vision.dtype)


def _vision_engine(context: StepContext) -> None:
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


def _calibration(context: StepContext) -> None:
    from nvlm_trt.decoder.calibration import calibrate
    from nvlm_trt.decoder.samples import build_samples

    folder = context.into / "decoder"
    folder.mkdir()
    samples = build_samples(context.checkpoint, context.out / "vision", context.recipe)
    calibration = calibrate(context.checkpoint, samples, lambda done, total: context.advance(done, total, "layers"))
    (folder / "calibration.json").write_text(calibration.to_json(), encoding="utf-8")


def _trtllm_checkpoint(context: StepContext) -> None:
    from nvlm_trt.decoder.calibration import Calibration
    from nvlm_trt.decoder.trtllm_checkpoint import write_trtllm_checkpoint

    text = (context.out / "decoder" / "calibration.json").read_text(encoding="utf-8")
    write_trtllm_checkpoint(
        context.checkpoint,
        Calibration.from_json(text),
        context.into / "decoder" / "checkpoint",
        tp=context.recipe.decoder.tp,
        progress=lambda done, total: context.advance(done, total, "B"),
    )


def _trtllm_engine(context: StepContext) -> None:
    from nvlm_trt.decoder.trtllm_build import LOG_NAME, run_trtllm_build

    folder = context.into / "decoder"
    folder.mkdir()
    checkpoint = context.out / "decoder" / "checkpoint"
    try:
        run_trtllm_build(
            context.recipe,
            context.checkpoint.config,
            checkpoint,
            folder / "engine",
            gpus=gpus(),
            progress=lambda done, total: context.advance(done, total, "stages"),
        )
    finally:
        # It tells times, so it is no artefact; and it must outlive the step's folder when the tool fails.
        if (folder / LOG_NAME).is_file():
            (folder / LOG_NAME).replace(context.out / "decoder" / LOG_NAME)


def _trtllm_command(recipe: Recipe, config: NvlmConfig) -> tuple[str, ...]:
    from nvlm_trt.decoder.build_command import trtllm_build_command

    folder = PurePosixPath(DEPLOYMENT) / "decoder"
    return tuple(trtllm_build_command(recipe, config, folder / "checkpoint", folder / "engine"))


def _repository(context: StepContext) -> None:
    from nvlm_trt.deploy.repository import write_repository

    write_repository(context.recipe, context.checkpoint.config, context.into / "triton_repo")


_INSPECT = Step(
    name="inspect",
    run=_inspect,
    tensors=("",),
    documents=_DOCUMENTS,
    outputs=("model",),
)

_VISION_ONNX = Step(
    name="vision.onnx",
    run=_vision_onnx,
    tensors=_VISION,
    documents=("config.json",),
    values=("vision.dtype",),
    outputs=("vision/vision.onnx", "vision/weights.json", "vision/weights.safetensors"),
    code=("checkpoint", "graph_writer", "model.config", "vision"),
    libraries=("ml_dtypes", "onnx"),
)

# The versions of TensorRT and TensorRT-LLM are those of the container, so its name is in the key. Asking the machine
# would make a deployment, finished in the container, look stale on the machine that began it.
_VISION_ENGINES = {
    name: Step(
        name="vision.engine",
        run=_vision_engine,
        tensors=_VISION,
        artefacts=("vision/vision.onnx", "vision/weights.json", "vision/weights.safetensors"),
        values=("container", "vision.engine", "vision.profile"),
        outputs=("vision/vision.plan", "vision/vision.plan.json"),
        code=("vision",),
        lacking=lacking,
    )
    for name, lacking in (
        ("tensorrt", lambda _: lacking_tensorrt()),
        ("tensorrt_rtx", lambda _: lacking_tensorrt_rtx()),
    )
}

_CALIBRATION = Step(
    name="decoder.calibration",
    run=_calibration,
    tensors=_VISION + _DECODER,
    artefacts=("model", "vision/vision.onnx", "vision/weights.json", "vision/weights.safetensors"),
    resources=("calibration/set.jsonl", "calibration/pictures"),
    values=("prompt.style", "prompt.system"),
    outputs=("decoder/calibration.json",),
    code=(
        *("checkpoint", "decoder.calibration", "decoder.fp8", "decoder.layer", "decoder.samples", "model"),
        *("serving.parameters", "serving.preprocess", "serving.word_list", "vision"),
    ),
    libraries=("ml_dtypes", "numpy", "onnxruntime", "pillow", "tokenizers"),
)

_TRTLLM_CHECKPOINT = Step(
    name="decoder.checkpoint",
    run=_trtllm_checkpoint,
    tensors=_DECODER,
    artefacts=("decoder/calibration.json", "model/config.json"),
    values=("decoder.kv_cache", "decoder.quantization", "decoder.tp"),
    outputs=("decoder/checkpoint",),
    code=("checkpoint", "decoder.fp8", "decoder.trtllm_checkpoint", "decoder.trtllm_format", "model.config"),
    libraries=("ml_dtypes", "numpy"),
)

_DECODER_ENGINES = {
    "tensorrt_llm": Step(
        name="decoder.engine",
        run=_trtllm_engine,
        artefacts=("decoder/checkpoint",),
        values=(
            "container",
            "decoder.max_batch_size",
            "decoder.max_num_tokens",
            "decoder.max_seq_len",
            "decoder.tp",
            "prompt.max_images",
        ),
        outputs=("decoder/engine",),
        code=("decoder.build_command", "decoder.trtllm_build"),
        lacking=lambda _: lacking_trtllm_build(),
        command=_trtllm_command,
    )
}

_REPOSITORY = Step(
    name="triton.repository",
    run=_repository,
    artefacts=("model/config.json",),
    resources=("triton_repo",),
    values=("decoder", "prompt", "vision"),
    outputs=("triton_repo",),
    code=("decoder.build_command", "deploy", "model.config"),
    libraries=("protobuf",),
)
