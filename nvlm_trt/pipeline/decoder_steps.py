"""The steps of the decoder half, as data.

decoder.calibration ──► decoder.kv_cache (for an FP8 cache) ──► decoder.checkpoint ──► decoder.engine
        │                                                             ▲
        ├──► decoder.sensitivity (asked for)                          │ without quantisation: this step alone
        └──► decoder.unified (asked for)
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from nvlm_trt.model.config import NvlmConfig
from nvlm_trt.pipeline.calibration_files import calibration_files
from nvlm_trt.pipeline.container import DEPLOYMENT
from nvlm_trt.pipeline.machine import gpus, lacking_trtllm_build
from nvlm_trt.pipeline.recipe import Recipe
from nvlm_trt.pipeline.step import Step, StepContext
from nvlm_trt.pipeline.vision_steps import VISION_ARTEFACTS, VISION_TENSORS

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from nvlm_trt.decoder.calibration import Calibration
    from nvlm_trt.decoder.sample_source import Samples

__all__ = ["decoder_steps"]

_TENSORS = ("language_model.",)
_CALIBRATION_FILE = "decoder/calibration.json"
_KV_FILE = "decoder/kv_cache.json"


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


def _calibrate(context: StepContext) -> None:
    from nvlm_trt.decoder.calibration import calibrate
    from nvlm_trt.decoder.key_biases import scan_key_biases
    from nvlm_trt.decoder.kv_gate import require_kv_cache

    decoder, wanted = context.recipe.decoder, context.recipe.calibration
    if decoder.kv_cache == "fp8":
        # Seconds, and from the checkpoint alone: a cache that cannot be is refused before the hours below.
        require_kv_cache(scan_key_biases(context.checkpoint), decoder.force_kv_cache)
    calibration = calibrate(
        context.checkpoint,
        _samples(context),
        lambda done, total: context.advance(done, total, "layers"),
        method=wanted.method,
        device=wanted.device,
        scratch=context.scratch,
    )
    _write(context, _CALIBRATION_FILE, calibration.to_json())


def _check_kv_cache(context: StepContext) -> None:
    from nvlm_trt.decoder.kv_gate import check_kv_cache

    report = check_kv_cache(
        context.checkpoint,
        _samples(context),
        _calibration(context),
        device=context.recipe.calibration.device,
        scratch=context.scratch,
        progress=lambda done, total: context.advance(done, total, "layers"),
    )
    # Kept also where it speaks against the cache: the next step refuses, and here one can read why.
    _write(context, _KV_FILE, report.to_json())


def _measure_sensitivity(context: StepContext) -> None:
    from nvlm_trt.decoder.linear_groups import exclude_modules
    from nvlm_trt.decoder.sensitivity import confirm_exclusion, measure_sensitivity

    bound = context.recipe.calibration.error_bound
    assert bound is not None
    samples, calibration, device = _samples(context), _calibration(context), context.recipe.calibration.device
    report = measure_sensitivity(
        context.checkpoint,
        samples,
        calibration,
        device=device,
        scratch=context.scratch,
        progress=lambda done, total: context.advance(done, total, "layers"),
    )
    chosen = confirm_exclusion(
        context.checkpoint, samples, calibration, report, bound, device=device, scratch=context.scratch
    )
    _write(context, "decoder/sensitivity.json", report.to_json())
    exclusion = {
        "format": 1,
        "error_bound": bound,
        "measured_error": chosen.measured_error,
        "exclude": exclude_modules(chosen.groups),
    }
    _write(context, "decoder/exclude.json", json.dumps(exclusion, indent=2, sort_keys=True) + "\n")


def _write_unified(context: StepContext) -> None:
    from nvlm_trt.decoder.unified_checkpoint import write_unified_checkpoint

    _require_kv_cache(context)
    write_unified_checkpoint(
        context.checkpoint,
        _calibration(context),
        context.into / "decoder" / "unified",
        kv_cache=context.recipe.decoder.kv_cache,
        exclude=context.recipe.decoder.exclude,
        progress=lambda done, total: context.advance(done, total, "B"),
    )


def _write_checkpoint(context: StepContext) -> None:
    from nvlm_trt.decoder.trtllm_checkpoint import write_trtllm_checkpoint

    decoder = context.recipe.decoder
    _require_kv_cache(context)
    write_trtllm_checkpoint(
        context.checkpoint,
        _calibration(context) if decoder.calibrated else None,
        context.into / "decoder" / "checkpoint",
        tp=decoder.tp,
        pp=decoder.pp,
        quantization=decoder.quantization,
        kv_cache=decoder.kv_cache,
        exclude=decoder.exclude,
        progress=lambda done, total: context.advance(done, total, "B"),
    )


def _build_engine(context: StepContext) -> None:
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


def _engine_command(recipe: Recipe, config: NvlmConfig) -> tuple[str, ...]:
    from nvlm_trt.decoder.build_command import trtllm_build_command

    folder = PurePosixPath(DEPLOYMENT) / "decoder"
    return tuple(trtllm_build_command(recipe, config, folder / "checkpoint", folder / "engine"))


def _require_kv_cache(context: StepContext) -> None:
    from nvlm_trt.decoder.kv_gate import KvReport, require_kv_cache

    if context.recipe.decoder.kv_cache == "fp8":
        report = KvReport.from_json((context.out / _KV_FILE).read_text(encoding="utf-8"))
        require_kv_cache(report, context.recipe.decoder.force_kv_cache)


def _samples(context: StepContext) -> Samples | Sequence[NDArray[np.float32]]:
    from nvlm_trt.decoder.samples import build_samples

    own = context.recipe.calibration.set
    return build_samples(context.checkpoint, context.out / "vision", context.recipe, Path(own) if own else None)


def _calibration(context: StepContext) -> Calibration:
    from nvlm_trt.decoder.calibration import Calibration

    return Calibration.from_json((context.out / _CALIBRATION_FILE).read_text(encoding="utf-8"))


def _write(context: StepContext, name: str, text: str) -> None:
    file = context.into / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, encoding="utf-8")


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
    run=_calibrate,
    artefacts=("model", *VISION_ARTEFACTS),
    values=("calibration.method", *_SAMPLE_VALUES),
    outputs=(_CALIBRATION_FILE,),
    code=("checkpoint.registry", "decoder.calibration", "decoder.samples"),
    **_SAMPLED,
)

_KV_CACHE = Step(
    name="decoder.kv_cache",
    run=_check_kv_cache,
    artefacts=("model", *VISION_ARTEFACTS, _CALIBRATION_FILE),
    values=_SAMPLE_VALUES,
    outputs=(_KV_FILE,),
    code=("checkpoint.registry", "decoder.kv_gate", "decoder.samples"),
    **_SAMPLED,
)

_SENSITIVITY = Step(
    name="decoder.sensitivity",
    run=_measure_sensitivity,
    artefacts=("model", *VISION_ARTEFACTS, _CALIBRATION_FILE),
    values=("calibration.error_bound", *_SAMPLE_VALUES),
    outputs=("decoder/sensitivity.json", "decoder/exclude.json"),
    code=("checkpoint.registry", "decoder.samples", "decoder.sensitivity"),
    **_SAMPLED,
)


def _scales(recipe: Recipe) -> tuple[str, ...]:
    """The artefacts that scales come from, and the word that they may be used."""
    calibrated = (_CALIBRATION_FILE,) if recipe.decoder.calibrated else ()
    return (*calibrated, _KV_FILE) if recipe.decoder.kv_cache == "fp8" else calibrated


def _unified_step(recipe: Recipe) -> Step:
    return Step(
        name="decoder.unified",
        run=_write_unified,
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
    return Step(
        name="decoder.checkpoint",
        run=_write_checkpoint,
        tensors=_TENSORS,
        artefacts=(*_scales(recipe), "model/config.json"),
        values=tuple(f"decoder.{name}" for name in sizes),
        outputs=("decoder/checkpoint",),
        code=("checkpoint.registry", "decoder.trtllm_checkpoint"),
        libraries=("ml_dtypes", "numpy"),
    )


_ENGINE = Step(
    name="decoder.engine",
    run=_build_engine,
    artefacts=("decoder/checkpoint",),
    values=(
        "container",
        "decoder.max_batch_size",
        "decoder.max_num_tokens",
        "decoder.max_seq_len",
        "decoder.pp",
        "decoder.tp",
        "gpu.name",
        "prompt.max_images",
    ),
    outputs=("decoder/engine",),
    code=("decoder.build_command",),
    lacking=lambda _: lacking_trtllm_build(),
    command=_engine_command,
)
