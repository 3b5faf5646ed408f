"""Writes the TensorRT-LLM checkpoint folder: ``config.json`` and one ``rank{R}.safetensors`` per GPU."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

from nvlm_trt.checkpoint.base import Checkpoint
from nvlm_trt.decoder.calibration import Calibration
from nvlm_trt.decoder.conversion import ConversionReport, convert
from nvlm_trt.decoder.linear_groups import select_groups
from nvlm_trt.decoder.placement import OutputFile
from nvlm_trt.decoder.trtllm_format import Mapping, Precision, checkpoint_json, rank_file_name, tensor_rules
from nvlm_trt.errors import UsageError

__all__ = ["ConversionReport", "write_trtllm_checkpoint"]


def write_trtllm_checkpoint(
    checkpoint: Checkpoint,
    calibration: Calibration | None,
    out_folder: Path,
    *,
    tp: int = 1,
    pp: int = 1,
    gpus_per_node: int = 8,
    quantization: Literal["fp8", "none"] = "fp8",
    kv_cache: Literal["bf16", "fp8"] = "bf16",
    exclude: Sequence[str] = (),
    progress: Callable[[int, int], None] | None = None,
) -> ConversionReport:
    """Convert the checkpoint's decoder for ``tp`` times ``pp`` GPUs, ``gpus_per_node`` on each machine, in one pass.

    ``exclude`` are globs on TensorRT-LLM's module names (``*.layers.0.mlp.*``); the linears they name stay in the
    model's dtype. Without quantisation and with a plain KV cache no calibration is needed. A folder that has a
    ``config.json`` is complete: it appears last, and an old one lives until then. ``progress`` is called with bytes
    done and bytes in all.

    Raises ``UsageError`` E-RECIPE-TP or E-RECIPE-PP for a split the decoder does not allow, E-RECIPE-EXCLUDE for
    patterns that name nothing or half of a fusion, or stand beside "none"; and what ``convert`` raises.
    """
    config, mapping = checkpoint.config, Mapping(tp, pp, gpus_per_node)
    mapping.check(config.decoder)
    if exclude and quantization == "none":
        raise UsageError(
            "E-RECIPE-EXCLUDE", "Nothing is quantised, so nothing can be excluded.", "Leave out one of the two."
        )
    excluded = select_groups(exclude, config.decoder.num_layers)
    precision = Precision(quantization == "fp8", kv_cache == "fp8", excluded)
    config_json = json.dumps(checkpoint_json(config, mapping, precision), indent=2, sort_keys=True) + "\n"
    documents = {out_folder / "config.json": config_json.encode()}
    files = [
        OutputFile(out_folder / rank_file_name(stage * tp + position), rules, position, tp)
        for stage in range(pp)
        for rules in [tensor_rules(config.decoder, mapping, stage, precision)]
        for position in range(tp)
    ]
    return convert(checkpoint, calibration, files, documents, progress=progress)
