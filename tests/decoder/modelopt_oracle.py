"""NVIDIA ModelOpt's own exporters on the same weights and samples: FP8 checkpoints that nobody here wrote."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from nvlm_trt.checkpoint.base import Checkpoint
from tests.decoder.qwen2 import build_qwen2

__all__ = ["export_unified_with_modelopt", "export_with_modelopt"]


def export_with_modelopt(
    checkpoint: Checkpoint, samples: Sequence[NDArray[np.float32]], folders_by_tp: dict[int, Path]
) -> None:
    """TensorRT-LLM checkpoints: calibrate once, export once per tensor parallel size. The import takes seconds."""
    with _known_warnings():
        from modelopt.torch.export import export_tensorrt_llm_checkpoint

        # float32 activations, as ours are; the weights are bfloat16 values in either case.
        model = _quantized(checkpoint, samples, torch.float32)
        for tp, folder in folders_by_tp.items():
            export_tensorrt_llm_checkpoint(model, "qwen", torch.bfloat16, folder, inference_tensor_parallel=tp)


def export_unified_with_modelopt(
    checkpoint: Checkpoint, samples: Sequence[NDArray[np.float32]], folder: Path, kv_cache: bool
) -> None:
    """The unified Hugging Face checkpoint of the decoder alone. Its tensors have the model's dtype, hence bfloat16."""
    with _known_warnings():
        from modelopt.torch.export import export_hf_checkpoint

        model = _quantized(checkpoint, samples, torch.bfloat16, kv_cache)
        export_hf_checkpoint(model, dtype=torch.bfloat16, export_dir=folder)


def _quantized(
    checkpoint: Checkpoint, samples: Sequence[NDArray[np.float32]], dtype: Any, kv_cache: bool = False
) -> Any:
    import modelopt.torch.quantization as mtq

    def run_samples(model: Any) -> None:
        with torch.no_grad():
            for sample in samples:
                model(inputs_embeds=torch.from_numpy(sample)[None].to(dtype))

    config = copy.deepcopy(mtq.FP8_DEFAULT_CFG)
    if kv_cache:
        # In one go: a second quantize would leave the cache's quantisers without calibration.
        config["quant_cfg"] = config["quant_cfg"] + mtq.FP8_KV_CFG["quant_cfg"]
    return mtq.quantize(build_qwen2(checkpoint, dtype), config, run_samples)


@contextmanager
def _known_warnings() -> Iterator[None]:
    with warnings.catch_warnings():
        # ModelOpt 0.47 still scripts one helper on import; torch 2.13 calls that deprecated.
        warnings.filterwarnings("ignore", r"`torch\.jit\.script", DeprecationWarning)
        # It says so whenever a model has an lm_head, and leaves it unquantised all the same.
        warnings.filterwarnings("ignore", "Enable lm_head quantization", UserWarning)
        # Without TensorRT-LLM installed it writes config.json by its own means: the ones compared here.
        warnings.filterwarnings("ignore", "Cannot export tensorrt_llm checkpoint config", UserWarning)
        # It copies the scales it has just computed.
        warnings.filterwarnings("ignore", "To copy construct from a tensor", UserWarning)
        yield
