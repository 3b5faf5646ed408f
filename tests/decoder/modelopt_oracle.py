"""NVIDIA ModelOpt's own exporter on the same weights and samples: an FP8 TensorRT-LLM checkpoint nobody here wrote."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from nvlm_trt.checkpoint.base import Checkpoint
from tests.decoder.qwen2 import build_qwen2

__all__ = ["export_with_modelopt"]


def export_with_modelopt(
    checkpoint: Checkpoint, samples: Sequence[NDArray[np.float32]], folders_by_tp: dict[int, Path]
) -> None:
    """Calibrate once, export once per tensor parallel size. The import takes seconds."""

    def run_samples(model: Any) -> None:
        with torch.no_grad():
            for sample in samples:
                model(inputs_embeds=torch.from_numpy(sample)[None])

    with warnings.catch_warnings():
        # ModelOpt 0.47 still scripts one helper on import; torch 2.13 calls that deprecated.
        warnings.filterwarnings("ignore", r"`torch\.jit\.script", DeprecationWarning)
        # It says so whenever a model has an lm_head, and leaves it unquantised all the same.
        warnings.filterwarnings("ignore", "Enable lm_head quantization", UserWarning)
        # Without TensorRT-LLM installed it writes config.json by its own means: the ones compared here.
        warnings.filterwarnings("ignore", "Cannot export tensorrt_llm checkpoint config", UserWarning)
        import modelopt.torch.quantization as mtq
        from modelopt.torch.export import export_tensorrt_llm_checkpoint

        # float32 activations, as ours are; the weights are bfloat16 values in either case.
        model = mtq.quantize(build_qwen2(checkpoint, torch.float32), mtq.FP8_DEFAULT_CFG, run_samples)
        for tp, folder in folders_by_tp.items():
            export_tensorrt_llm_checkpoint(model, "qwen", torch.bfloat16, folder, inference_tensor_parallel=tp)
