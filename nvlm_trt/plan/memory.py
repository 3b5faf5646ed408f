"""What is in GPU memory while a deployment serves, and so what is left for the KV cache.

    capacity = reserve + weights + activations + prompt tables [+ vision engine, on one GPU] + KV pool

Weights, prompt tables and KV bytes are exact. Activations and the reserve are estimates, each with its source.
TensorRT-LLM gives every rank a pool for the same number of tokens, so the fullest GPU decides.

There are two kinds of prompt table. The engine reads one for the whole batch. Before every step each request's own
table is copied into it, so that one stays on the GPU as long as the request does. Every pipeline stage has both kinds,
although only the first looks anything up; and the batch's exists once per stage, because that many batches are under
way (1.2.1's ``PromptTuningBuffers``).
"""

from __future__ import annotations

from dataclasses import dataclass

from nvlm_trt.decoder.build_command import prompt_table_rows
from nvlm_trt.model.config import NvlmConfig, VisionConfig
from nvlm_trt.pipeline.recipe import Recipe
from nvlm_trt.plan.gpu import GpuModel
from nvlm_trt.plan.weights import ITEM_BYTES, decoder_weights, vision_weight_bytes

__all__ = [
    "KV_POOL_FRACTION",
    "TOKENS_PER_BLOCK",
    "GpuMemory",
    "gpu_memory",
    "kv_bytes_per_token",
    "stage_kv_bytes_per_token",
    "stage_layers",
    "vision_activation_bytes_per_tile",
    "vision_stage",
]

# CUDA context, cuBLAS and attention workspaces, NCCL buffers, fragmentation: an estimate, rounded up.
_RESERVE_BYTES = 3_000_000_000
# Measured on the release's vision graph: a plan's activation memory is 641 MB for 7 tiles and 5.13 GB for 56, which is
# 3.5 times the widest tensor of a tile, 1025 positions of the MLP's 12800 channels in two bytes.
_VISION_WIDEST_TENSORS = 3.5
# The pool of a decoder that loads after the vision engine is this part of what is free then; in the other order its
# bound in tokens keeps the vision engine's room.
KV_POOL_FRACTION = 0.95
TOKENS_PER_BLOCK = 32


@dataclass(frozen=True, slots=True)
class GpuMemory:
    """Bytes on the GPU that has least left for the KV cache; ``kv_bytes`` is negative where things do not fit."""

    stage: int
    capacity_bytes: int
    reserve_bytes: int
    weight_bytes: int
    activation_bytes: int
    prompt_table_bytes: int
    request_table_bytes: int
    vision_weight_bytes: int
    vision_activation_bytes: int
    vision_cache_bytes: int
    kv_bytes_per_token: int

    @property
    def used_bytes(self) -> int:
        """Everything except the KV pool."""
        return (
            self.reserve_bytes
            + self.weight_bytes
            + self.activation_bytes
            + self.prompt_table_bytes
            + self.request_table_bytes
            + self.vision_weight_bytes
            + self.vision_activation_bytes
            + self.vision_cache_bytes
        )

    @property
    def kv_bytes(self) -> int:
        return int((self.capacity_bytes - self.used_bytes) * KV_POOL_FRACTION)

    @property
    def kv_tokens(self) -> int:
        """How many tokens the KV cache holds, in whole blocks."""
        return max(0, self.kv_bytes // self.kv_bytes_per_token // TOKENS_PER_BLOCK * TOKENS_PER_BLOCK)

    def requests(self, tokens: int) -> int:
        """How many requests of ``tokens`` tokens fit the KV cache at once."""
        blocks = -(-tokens // TOKENS_PER_BLOCK)
        return self.kv_tokens // (blocks * TOKENS_PER_BLOCK)


def kv_bytes_per_token(config: NvlmConfig, kv_cache: str) -> int:
    """Of the whole decoder: keys and values of every layer."""
    item = 1 if kv_cache == "fp8" else ITEM_BYTES[config.dtype]
    return 2 * config.decoder.num_layers * config.decoder.kv_size * item


def stage_layers(config: NvlmConfig, recipe: Recipe, stage: int) -> int:
    """Layers of each stage. If they do not divide evenly, the first stages get one more."""
    return len(range(stage, config.decoder.num_layers, recipe.decoder.pp))


def stage_kv_bytes_per_token(config: NvlmConfig, recipe: Recipe, stage: int) -> int:
    """Of one rank of a pipeline stage."""
    per_layer = kv_bytes_per_token(config, recipe.decoder.kv_cache) // config.decoder.num_layers
    return per_layer * stage_layers(config, recipe, stage) // recipe.decoder.tp


def vision_activation_bytes_per_tile(vision: VisionConfig, dtype: str) -> int:
    return int(_VISION_WIDEST_TENSORS * vision.num_positions * vision.intermediate_size * ITEM_BYTES[dtype])


def vision_stage(recipe: Recipe) -> int:
    """The pipeline stage of the rank that shares its GPU with the vision engine: the first GPU of the machine that
    answers.

    TensorRT-LLM gives the last stage to that machine's first ranks, and the others backwards from there; a rank takes
    the GPU of its number modulo the GPUs of a machine.
    """
    return recipe.decoder.pp - max(1, min(recipe.gpus_per_node // recipe.decoder.tp, recipe.decoder.pp))


def gpu_memory(config: NvlmConfig, recipe: Recipe, gpu: GpuModel) -> GpuMemory:
    """The fullest GPU of the recipe's tensor and pipeline groups."""
    decoder = recipe.decoder
    stages = decoder_weights(config, decoder)
    memories = []
    table_bytes = prompt_table_rows(recipe, config) * config.decoder.hidden_size * ITEM_BYTES[config.dtype]
    vision, seeing = recipe.vision, vision_stage(recipe)
    tile_bytes = vision_activation_bytes_per_tile(config.vision, vision.dtype)
    for stage, weights in enumerate(stages):
        memories.append(
            GpuMemory(
                stage=stage,
                capacity_bytes=gpu.memory_bytes,
                reserve_bytes=_RESERVE_BYTES,
                weight_bytes=weights.total_bytes,
                activation_bytes=_activation_bytes(config, recipe),
                prompt_table_bytes=decoder.pp * table_bytes,
                request_table_bytes=decoder.pp * table_bytes,
                vision_weight_bytes=vision_weight_bytes(config, vision) if stage == seeing else 0,
                vision_activation_bytes=vision.profile[2] * tile_bytes if stage == seeing else 0,
                vision_cache_bytes=vision.cache_bytes if stage == seeing else 0,
                kv_bytes_per_token=stage_kv_bytes_per_token(config, recipe, stage),
            )
        )
    return min(memories, key=lambda memory: memory.kv_tokens if memory.kv_bytes > 0 else memory.kv_bytes)


def _activation_bytes(config: NvlmConfig, recipe: Recipe) -> int:
    """An estimate: per packed token the residual stream and its copies, qkv, and the MLP's three wide tensors."""
    decoder, tp = config.decoder, recipe.decoder.tp
    channels = 4 * decoder.hidden_size + (decoder.qkv_size + 3 * decoder.intermediate_size) // tp
    return recipe.decoder.max_num_tokens * channels * ITEM_BYTES[config.dtype]
