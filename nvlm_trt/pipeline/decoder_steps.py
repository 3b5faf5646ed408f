"""The steps of the decoder half, as data.

decoder.calibration ──► decoder.kv_cache (for an FP8 cache) ──► decoder.checkpoint ──► decoder.engine
        │                                                             ▲
        ├──► decoder.sensitivity (asked for)                          │ without quantisation: this step alone
        └──► decoder.unified (asked for)
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from nvlm_trt.model.config import NvlmConfig
from nvlm_trt.pipeline.calibration_files import calibration_files
from nvlm_trt.pipeline.container import DEPLOYMENT
from nvlm_trt.pipeline.decoder_work import (
    CALIBRATION_FILE,
    KV_FILE,
    run_build_engine,
    run_calibrate,
    run_check_kv_cache,
    run_measure_sensitivity,
    run_write_checkpoint,
    run_write_unified,
)
from nvlm_trt.pipeline.machine import lacking_trtllm_build
from nvlm_trt.pipeline.recipe import DEFAULT_PER_NODE, Recipe
from nvlm_trt.pipeline.step import Step
from nvlm_trt.pipeline.vision_steps import VISION_ARTEFACTS, VISION_TENSORS

__all__ = ["decoder_steps"]

_TENSORS = ("language_model.",)


def decoder_steps(recipe: Recipe) -> list[Step]:
    decoder = recipe.decoder
    steps = []
    if decoder.calibrated:
        steps.append(_CALIBRATION)
    if decoder.kv_cache == "fp8":
        steps.append(_KV_CACHE)
    if recipe.calibration.error_bound is not None:
        steps.append(_SENSITIVITY)
    if decoder.unified_checkpoint:
        steps.append(_unified_step(recipe))
    steps.append(_checkpoint_step(recipe))
    if decoder.engine == "tensorrt_llm":
        steps.append(_ENGINE)
    return steps


def _engine_command(recipe: Recipe, config: NvlmConfig) -> tuple[str, ...]:
    from nvlm_trt.decoder.build_command import trtllm_build_command

    folder = PurePosixPath(DEPLOYMENT) / "decoder"
    return tuple(trtllm_build_command(recipe, config, folder / "checkpoint", folder / "engine"))


def _own_set(recipe: Recipe) -> Mapping[str, Path]:
    return calibration_files(recipe.calibration.set)


_SAMPLED: dict[str, Any] = {
    "tensors": VISION_TENSORS + _TENSORS,
    "resources": ("calibration/set.jsonl", "calibration/pictures"),
    "files": _own_set,
    "libraries": ("ml_dtypes", "numpy", "onnxruntime", "pillow", "tokenizers"),
}
_SAMPLE_VALUES = ("calibration.device", "prompt.style", "prompt.system")

_CALIBRATION = Step(
    name="decoder.calibration",
    run=run_calibrate,
    artefacts=("model", *VISION_ARTEFACTS),
    values=("calibration.method", *_SAMPLE_VALUES),
    outputs=(CALIBRATION_FILE,),
    code=("checkpoint.registry", "decoder.calibration", "decoder.samples"),
    **_SAMPLED,
)

_KV_CACHE = Step(
    name="decoder.kv_cache",
    run=run_check_kv_cache,
    artefacts=("model", *VISION_ARTEFACTS, CALIBRATION_FILE),
    values=_SAMPLE_VALUES,
    outputs=(KV_FILE,),
    code=("checkpoint.registry", "decoder.kv_gate", "decoder.samples"),
    **_SAMPLED,
)

_SENSITIVITY = Step(
    name="decoder.sensitivity",
    run=run_measure_sensitivity,
    artefacts=("model", *VISION_ARTEFACTS, CALIBRATION_FILE),
    values=("calibration.error_bound", *_SAMPLE_VALUES),
    outputs=("decoder/sensitivity.json", "decoder/exclude.json"),
    code=("checkpoint.registry", "decoder.samples", "decoder.sensitivity"),
    **_SAMPLED,
)


def _scales(recipe: Recipe) -> tuple[str, ...]:
    """The artefacts that scales come from, and the one that allows their use."""
    calibrated = (CALIBRATION_FILE,) if recipe.decoder.calibrated else ()
    return (*calibrated, KV_FILE) if recipe.decoder.kv_cache == "fp8" else calibrated


def _unified_step(recipe: Recipe) -> Step:
    return Step(
        name="decoder.unified",
        run=run_write_unified,
        tensors=("",),
        documents=("*.json", "*.txt", "*.model", "*.py", "*.jinja", "*.md"),
        artefacts=_scales(recipe),
        values=tuple(f"decoder.{name}" for name in ("exclude", "force_kv_cache", "kv_cache")),
        outputs=("decoder/unified",),
        code=("checkpoint.registry", "decoder.unified_checkpoint"),
        libraries=("ml_dtypes", "numpy"),
    )


def _checkpoint_step(recipe: Recipe) -> Step:
    sizes = ("exclude", "force_kv_cache", "kv_cache", "pp", "quantization", "tp")
    # Where they change nothing they are left out, so that a laptop's checkpoint is good for a GPU's recipe.
    machines = () if recipe.gpus_per_node == DEFAULT_PER_NODE else ("gpu.count", "gpu.nodes")
    return Step(
        name="decoder.checkpoint",
        run=run_write_checkpoint,
        tensors=_TENSORS,
        artefacts=(*_scales(recipe), "model/config.json"),
        values=(*(f"decoder.{name}" for name in sizes), *machines),
        outputs=("decoder/checkpoint",),
        code=("checkpoint.registry", "decoder.trtllm_checkpoint"),
        libraries=("ml_dtypes", "numpy"),
    )


_ENGINE = Step(
    name="decoder.engine",
    run=run_build_engine,
    # The config for the rows of a picture, which decide the prompt table.
    artefacts=("decoder/checkpoint", "model/config.json"),
    values=(
        "container",
        "decoder.max_batch_size",
        "decoder.max_num_tokens",
        "decoder.max_seq_len",
        "decoder.pp",
        "decoder.tp",
        "gpu.name",
        "prompt.max_images",
        "prompt.max_tiles",
    ),
    outputs=("decoder/engine",),
    code=("decoder.build_command",),
    lacking=lambda _: lacking_trtllm_build(),
    command=_engine_command,
)
