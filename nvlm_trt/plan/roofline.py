"""How fast a deployment can be: the time that arithmetic, memory and links take at an assumed part of their peak.

This is a bound, not a measurement: queues, kernel launches and the CPU's share are not in it. On each pipeline stage a
pass over some tokens takes the longer of multiplying them with the weights and reading those weights and the KV cache,
plus two all-reduces a layer where a layer is split. Everything assumed is in ``Assumptions`` and is shown beside the
result.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from types import MappingProxyType

from nvlm_trt.model.config import NvlmConfig
from nvlm_trt.pipeline.recipe import Recipe
from nvlm_trt.plan.gpu import GpuModel
from nvlm_trt.plan.memory import stage_kv_bytes_per_token, stage_layers
from nvlm_trt.plan.weights import ITEM_BYTES, RankWeights, decoder_weights, vision_parameters
from nvlm_trt.plan.workload import Workload

__all__ = ["ASSUMED", "Assumptions", "Speed", "speed", "vision_flops"]


@dataclass(frozen=True, slots=True)
class Assumptions:
    """Parts of the data sheet's peak that are reached, and the fixed time of one all-reduce."""

    gemm_efficiency: float = 0.5
    attention_efficiency: float = 0.3
    vision_efficiency: float = 0.4
    bandwidth_efficiency: float = 0.7
    nvlink_efficiency: float = 0.6
    all_reduce_latency_s: float = 12e-6

    def to_json(self) -> dict[str, float]:
        return {field.name: getattr(self, field.name) for field in fields(self)}


ASSUMED: Mapping[str, str] = MappingProxyType(
    {
        "gemm_efficiency": "of dense tensor-core peak, decoder linears over a long prompt",
        "attention_efficiency": "of dense BF16 peak, attention over a long prompt",
        "vision_efficiency": "of dense BF16 peak, the vision engine",
        "bandwidth_efficiency": "of memory bandwidth, one decoding step",
        "nvlink_efficiency": "of NVLink's rate in one direction, all-reduce of a long prompt",
        "all_reduce_latency_s": "seconds, one small all-reduce",
    }
)


@dataclass(frozen=True, slots=True)
class Speed:
    """The speed for one kind of request. ``tokens_s`` counts answer tokens of all requests together.

    ``alone`` is one request on an idle server, ``full`` as many as there are slots, including the prompts of new ones.
    """

    vision_s: float
    prefill_s: float
    step_alone_s: float
    step_full_s: float
    num_full: int
    full_tokens_s: float

    @property
    def time_to_first_token_s(self) -> float:
        return self.vision_s + self.prefill_s

    @property
    def alone_tokens_s(self) -> float:
        return 1 / self.step_alone_s


def speed(
    config: NvlmConfig, recipe: Recipe, gpu: GpuModel, workload: Workload, num_full: int, assumed: Assumptions
) -> Speed:
    """``num_full`` requests at once, at least one, count as a full server."""
    pass_ = _Pass(config, recipe, gpu, assumed)
    prompt = workload.prompt_tokens(config)
    middle = prompt + workload.answer_tokens // 2
    vision_s = vision_flops(config, workload.num_tiles(config)) / (gpu.bf16_flops * assumed.vision_efficiency)
    prefill_s = pass_.prefill_s(prompt)
    step_full_s = pass_.step_s(num_full, middle)
    busy_s = workload.answer_tokens * step_full_s + num_full * (vision_s + prefill_s)
    return Speed(
        vision_s=vision_s,
        prefill_s=prefill_s,
        step_alone_s=pass_.step_s(1, middle),
        step_full_s=step_full_s,
        num_full=num_full,
        full_tokens_s=num_full * workload.answer_tokens / busy_s,
    )


@dataclass(frozen=True, slots=True)
class _Pass:
    config: NvlmConfig
    recipe: Recipe
    gpu: GpuModel
    assumed: Assumptions

    def prefill_s(self, tokens: int) -> float:
        """All of one prompt at once; stages of a pipeline follow each other."""
        decoder, tp = self.config.decoder, self.recipe.decoder.tp
        total = 0.0
        for stage, weights in enumerate(self._stages()):
            layers = stage_layers(self.config, self.recipe, stage)
            compute = self._linears_s(weights, tokens)
            # Causal: half of the square. Scores and their use are two products.
            attention = 2 * tokens**2 * decoder.q_size * layers / tp
            compute += attention / (self.gpu.bf16_flops * self.assumed.attention_efficiency)
            total += max(compute, weights.read_bytes / self._bandwidth()) + layers * self._all_reduces_s(tokens)
        return total

    def step_s(self, requests: int, context: int) -> float:
        """Seconds of a step that generates one token for each of ``requests``, which hold ``context`` tokens each."""
        total = 0.0
        for stage, weights in enumerate(self._stages()):
            cache = requests * context * stage_kv_bytes_per_token(self.config, self.recipe, stage)
            compute = self._linears_s(weights, requests) + self._plain_s(weights.head_elements, requests)
            layers = stage_layers(self.config, self.recipe, stage)
            total += max(compute, (weights.read_bytes + cache) / self._bandwidth())
            total += layers * self._all_reduces_s(requests)
        return total

    def _stages(self) -> tuple[RankWeights, ...]:
        return decoder_weights(self.config, self.recipe.decoder)

    def _linears_s(self, weights: RankWeights, tokens: int) -> float:
        fp8_s = 2 * weights.fp8_elements * tokens / (self.gpu.fp8_flops * self.assumed.gemm_efficiency)
        return fp8_s + self._plain_s(weights.plain_elements, tokens)

    def _plain_s(self, elements: int, tokens: int) -> float:
        return 2 * elements * tokens / (self.gpu.bf16_flops * self.assumed.gemm_efficiency)

    def _bandwidth(self) -> float:
        return self.gpu.bandwidth_bytes_s * self.assumed.bandwidth_efficiency

    def _all_reduces_s(self, tokens: int) -> float:
        """The two of one layer, after attention and after the MLP."""
        tp = self.recipe.decoder.tp
        if tp == 1:
            return 0.0
        nbytes = tokens * self.config.decoder.hidden_size * ITEM_BYTES[self.config.dtype]
        on_the_wire = 2 * (tp - 1) / tp * nbytes
        rate = self.gpu.nvlink_bytes_s * self.assumed.nvlink_efficiency
        return 2 * (self.assumed.all_reduce_latency_s + on_the_wire / rate)


def vision_flops(config: NvlmConfig, num_tiles: int) -> float:
    """Multiplications and additions of the vision tower and the projector."""
    vision = config.vision
    projector = vision.shuffled_width * vision.projector_hidden_size + vision.projector_hidden_size * vision.output_size
    tower = vision_parameters(vision) - projector
    attention = 4 * vision.num_positions**2 * vision.hidden_size * vision.num_layers
    per_tile = 2 * tower * vision.num_positions + attention + 2 * projector * vision.tokens_per_tile
    return float(per_tile * num_tiles)
