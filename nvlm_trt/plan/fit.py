"""What fits where: one recipe's engines on every known GPU, for every tensor-parallel size."""

from __future__ import annotations

from dataclasses import dataclass
from typing import get_args

from nvlm_trt.decoder.trtllm_format import Mapping
from nvlm_trt.errors import UsageError
from nvlm_trt.model.config import NvlmConfig
from nvlm_trt.pipeline.recipe import RecipeDraft, TensorParallel
from nvlm_trt.plan.gpu import GPUS, GpuModel
from nvlm_trt.plan.memory import gpu_memory
from nvlm_trt.plan.resolve import sized, smallest
from nvlm_trt.plan.weights import decoder_weights
from nvlm_trt.plan.workload import Workload

__all__ = ["Fit", "fits"]


@dataclass(frozen=True, slots=True)
class Fit:
    """``num_requests`` hold their KV cache at once, by the cache's type; 0 where not one does."""

    gpu: str
    tp: int
    weight_bytes: int
    num_requests: dict[str, int]


def fits(config: NvlmConfig, draft: RecipeDraft, workload: Workload) -> tuple[Fit, ...]:
    """One line for each GPU model and ``tp`` that the decoder can be cut into, with sizes chosen as by "auto"."""
    lines = []
    for gpu in GPUS.values():
        for tp in get_args(TensorParallel):
            if not _divides(config, tp):
                continue
            counts = {kind: _requests(config, draft, gpu, tp, kind, workload) for kind in ("bf16", "fp8")}
            [weights] = decoder_weights(config, smallest(draft, tp, pp=1).decoder)
            lines.append(Fit(gpu.name, tp, weights.total_bytes, counts))
    return tuple(lines)


def _divides(config: NvlmConfig, tp: int) -> bool:
    try:
        Mapping(tp).check(config.decoder)
    except UsageError:
        return False
    return True


def _requests(config: NvlmConfig, draft: RecipeDraft, gpu: GpuModel, tp: int, kv_cache: str, workload: Workload) -> int:
    sizes = draft.decoder.model_copy(update={"pp": 1, "kv_cache": kv_cache, "max_batch_size": "auto"})
    recipe = sized(draft.model_copy(update={"decoder": sizes}), config, gpu, tp)
    return 0 if recipe is None else gpu_memory(config, recipe, gpu).requests(workload.total_tokens(config))
