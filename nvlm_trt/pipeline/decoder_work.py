"""What the decoder's steps do when they run: each reads its artefacts and calls one function of ``decoder/``."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from nvlm_trt.pipeline.machine import gpus
from nvlm_trt.pipeline.step import StepContext

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from nvlm_trt.decoder.calibration import Calibration
    from nvlm_trt.decoder.sample_source import Samples

__all__ = [
    "CALIBRATION_FILE",
    "KV_FILE",
    "run_build_engine",
    "run_calibrate",
    "run_check_kv_cache",
    "run_measure_sensitivity",
    "run_write_checkpoint",
    "run_write_unified",
]

CALIBRATION_FILE = "decoder/calibration.json"
KV_FILE = "decoder/kv_cache.json"


def run_calibrate(context: StepContext) -> None:
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
    _write(context, CALIBRATION_FILE, calibration.to_json())


def run_check_kv_cache(context: StepContext) -> None:
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
    _write(context, KV_FILE, report.to_json())


def run_measure_sensitivity(context: StepContext) -> None:
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


def run_write_unified(context: StepContext) -> None:
    from nvlm_trt.decoder.unified_checkpoint import write_unified_checkpoint

    _require_kv_cache(context)
    report = write_unified_checkpoint(
        context.checkpoint,
        _calibration(context),
        context.into / "decoder" / "unified",
        kv_cache=context.recipe.decoder.kv_cache,
        exclude=context.recipe.decoder.exclude,
        progress=lambda done, total: context.advance(done, total, "B"),
    )
    for note in report.notes:
        context.note(note)


def run_write_checkpoint(context: StepContext) -> None:
    from nvlm_trt.decoder.trtllm_checkpoint import write_trtllm_checkpoint

    decoder = context.recipe.decoder
    _require_kv_cache(context)
    report = write_trtllm_checkpoint(
        context.checkpoint,
        _calibration(context) if decoder.calibrated else None,
        context.into / "decoder" / "checkpoint",
        tp=decoder.tp,
        pp=decoder.pp,
        gpus_per_node=context.recipe.gpus_per_node,
        quantization=decoder.quantization,
        kv_cache=decoder.kv_cache,
        exclude=decoder.exclude,
        progress=lambda done, total: context.advance(done, total, "B"),
    )
    for note in report.notes:
        context.note(note)


def run_build_engine(context: StepContext) -> None:
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


def _require_kv_cache(context: StepContext) -> None:
    from nvlm_trt.decoder.kv_gate import KvReport, require_kv_cache

    if context.recipe.decoder.kv_cache == "fp8":
        report = KvReport.from_json((context.out / KV_FILE).read_text(encoding="utf-8"))
        require_kv_cache(report, context.recipe.decoder.force_kv_cache)


def _samples(context: StepContext) -> Samples | Sequence[NDArray[np.float32]]:
    from nvlm_trt.decoder.samples import build_samples

    own = context.recipe.calibration.set
    return build_samples(context.checkpoint, context.out / "vision", context.recipe, Path(own) if own else None)


def _calibration(context: StepContext) -> Calibration:
    from nvlm_trt.decoder.calibration import Calibration

    return Calibration.from_json((context.out / CALIBRATION_FILE).read_text(encoding="utf-8"))


def _write(context: StepContext, name: str, text: str) -> None:
    file = context.into / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, encoding="utf-8")
