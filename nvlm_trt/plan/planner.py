"""The whole plan of a deployment, from a config and a recipe: what fits, how fast it is, what it costs, and why.

Pure: takes values, returns one frozen value. It needs no GPU, none of the checkpoint's weights, and well under a
second.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from nvlm_trt.decoder.build_command import prompt_table_rows
from nvlm_trt.model.config import NvlmConfig
from nvlm_trt.pipeline.recipe import Recipe, RecipeDraft
from nvlm_trt.plan.calibration_size import CalibrationSize
from nvlm_trt.plan.choices import Choice, choices
from nvlm_trt.plan.cost import Rates, StepCost, build_costs, checkpoint_bytes
from nvlm_trt.plan.fit import Fit, fits
from nvlm_trt.plan.memory import GpuMemory, gpu_memory, kv_bytes_per_token
from nvlm_trt.plan.resolve import resolve, workload_of
from nvlm_trt.plan.roofline import Assumptions, Speed, speed
from nvlm_trt.plan.weights import ITEM_BYTES, vision_weight_bytes
from nvlm_trt.plan.workload import Workload

__all__ = ["Plan", "make_plan"]


@dataclass(frozen=True, slots=True)
class Plan:
    """``memory``, ``speed`` and ``num_requests`` are None for a recipe without GPUs.

    ``num_requests`` is how many requests of ``workload`` fit the KV cache at once, whatever the batch size.
    """

    config: NvlmConfig
    recipe: Recipe
    workload: Workload
    decoder_bytes_by_tp: dict[int, int]
    kv_bytes_per_token: dict[str, int]
    memory: GpuMemory | None
    num_requests: int | None
    speed: Speed | None
    fits: tuple[Fit, ...]
    costs: tuple[StepCost, ...]
    choices: tuple[Choice, ...]
    assumptions: Assumptions
    rates: Rates
    samples: CalibrationSize

    @property
    def prompt_table_rows(self) -> int:
        return prompt_table_rows(self.recipe, self.config)

    @property
    def prompt_table_bytes(self) -> int:
        return self.prompt_table_rows * self.config.decoder.hidden_size * ITEM_BYTES[self.config.dtype]

    @property
    def disk_bytes(self) -> int:
        """The size of the finished deployment, without the checkpoint."""
        return sum(cost.writes_bytes for cost in self.costs)

    @property
    def build_memory_bytes(self) -> int:
        return max(cost.memory_bytes for cost in self.costs)

    @property
    def build_seconds(self) -> float:
        return sum(cost.seconds for cost in self.costs)

    def to_json(self) -> dict[str, Any]:
        memory, quick = self.memory, self.speed
        return {
            "format": 1,
            "recipe": self.recipe.model_dump(mode="json"),
            "workload": {
                **dataclasses.asdict(self.workload),
                "prompt_tokens": self.workload.prompt_tokens(self.config),
                "total_tokens": self.workload.total_tokens(self.config),
            },
            "decoder_bytes_per_rank_by_tp": {str(tp): size for tp, size in self.decoder_bytes_by_tp.items()},
            "vision_bytes": vision_weight_bytes(self.config, self.recipe.vision),
            "kv_bytes_per_token": self.kv_bytes_per_token,
            "prompt_table_rows": self.prompt_table_rows,
            "prompt_table_bytes": self.prompt_table_bytes,
            "gpu_memory": None
            if memory is None
            else {
                **dataclasses.asdict(memory),
                "used_bytes": memory.used_bytes,
                "kv_bytes": memory.kv_bytes,
                "kv_tokens": memory.kv_tokens,
            },
            "num_requests": self.num_requests,
            "speed": None
            if quick is None
            else {
                **dataclasses.asdict(quick),
                "time_to_first_token_s": quick.time_to_first_token_s,
                "alone_tokens_s": quick.alone_tokens_s,
            },
            "fits": [dataclasses.asdict(fit) for fit in self.fits],
            "build": {
                "steps": [dataclasses.asdict(cost) for cost in self.costs],
                "seconds": self.build_seconds,
                "disk_bytes": self.disk_bytes,
                "checkpoint_bytes": checkpoint_bytes(self.config),
                "memory_bytes": self.build_memory_bytes,
                "calibration_tokens": self.samples.tokens,
                "calibration_tiles": self.samples.tiles,
            },
            "choices": [dataclasses.asdict(choice) for choice in self.choices],
            "assumptions": self.assumptions.to_json(),
            "rates": self.rates.to_json(),
        }


def make_plan(
    config: NvlmConfig,
    draft: RecipeDraft,
    *,
    samples: CalibrationSize,
    workload: Workload | None = None,
    assumptions: Assumptions | None = None,
    rates: Rates | None = None,
) -> Plan:
    """Plan the draft for a model. ``workload`` replaces the recipe's usual request; sizes still come from the recipe's.

    Raises what ``resolve`` raises.
    """
    config = config.limited(draft.prompt.max_tiles)
    recipe = resolve(draft, config)
    asked = workload or workload_of(draft)
    assumed, measured = assumptions or Assumptions(), rates or Rates()
    memory = num_requests = quick = None
    if recipe.gpu is not None and recipe.production:
        memory = gpu_memory(config, recipe, recipe.gpu.model)
        num_requests = memory.requests(asked.total_tokens(config))
        num_full = max(1, min(num_requests, recipe.decoder.max_batch_size))
        quick = speed(config, recipe, recipe.gpu.model, asked, num_full, assumed)
    costs = tuple(build_costs(config, recipe, samples, measured))
    table = fits(config, draft, asked)
    return Plan(
        config=config,
        recipe=recipe,
        workload=asked,
        decoder_bytes_by_tp={fit.tp: fit.weight_bytes for fit in table},
        kv_bytes_per_token={kind: kv_bytes_per_token(config, kind) for kind in ("bf16", "fp8")},
        memory=memory,
        num_requests=num_requests,
        speed=quick,
        fits=table,
        costs=costs,
        choices=tuple(choices(config, draft, recipe)),
        assumptions=assumed,
        rates=measured,
        samples=samples,
    )
