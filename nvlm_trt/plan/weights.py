"""Bytes of the weights, exact: counted over the tensor lists that the exporters write, not estimated."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

from nvlm_trt.decoder.trtllm_format import Kind, Mapping, tensor_rules
from nvlm_trt.model.config import NvlmConfig, VisionConfig

__all__ = ["RankWeights", "decoder_weights", "vision_parameters", "vision_weight_bytes"]

ITEM_BYTES = {"bfloat16": 2, "float16": 2, "float32": 4}
_FP8_BYTES = {Kind.WEIGHT: 1, Kind.WEIGHT_SCALE: 4, Kind.INPUT_SCALE: 4}
_PLAIN_FACTOR = {Kind.WEIGHT: 1, Kind.WEIGHT_SCALE: 0, Kind.INPUT_SCALE: 0}


@dataclass(frozen=True, slots=True)
class RankWeights:
    """What one rank of a pipeline stage holds. ``read_bytes`` are those that every step of the decoder reads: all
    but the embedding, of which a step takes a few rows. ``linear_elements`` are weights of quantised linears."""

    total_bytes: int
    read_bytes: int
    linear_elements: int
    head_elements: int
    largest_tensor_bytes: int


@functools.cache
def decoder_weights(config: NvlmConfig, tp: int, pp: int, quantization: str) -> tuple[RankWeights, ...]:
    """For each pipeline stage, the weights of any of its ranks: ranks of a tensor group hold the same shapes.

    Raises ``UsageError`` E-RECIPE-TP or E-RECIPE-PP for a split that the decoder does not allow.
    """
    mapping = Mapping(tp, pp)
    mapping.check(config.decoder)
    return tuple(_stage(config, mapping, stage, quantization) for stage in range(pp))


def _stage(config: NvlmConfig, mapping: Mapping, stage: int, quantization: str) -> RankWeights:
    plain = ITEM_BYTES[config.dtype]
    total = read = linear = head = largest = 0
    for rule in tensor_rules(config.decoder, mapping, stage):
        elements = math.prod(rule.shape)
        if quantization == "fp8":
            nbytes = elements * _FP8_BYTES.get(rule.kind, plain)
        else:
            nbytes = elements * plain * _PLAIN_FACTOR.get(rule.kind, 1)
        total += nbytes
        largest = max(largest, elements * plain)
        read += 0 if rule.name.endswith("vocab_embedding.weight") else nbytes
        linear += elements if rule.kind is Kind.WEIGHT else 0
        head += elements if rule.name == "lm_head.weight" else 0
    return RankWeights(total, read, linear, head, largest)


def vision_parameters(vision: VisionConfig) -> int:
    """Of the vision tower without its dummy heads, and the projector."""
    hidden, inner = vision.hidden_size, vision.intermediate_size
    attention = 4 * hidden * hidden + hidden + 2 * hidden  # q, k, v, projection and its bias, q and k norms
    mlp = 2 * hidden * inner + hidden + inner
    norms_and_scales = 4 * hidden
    patches = hidden * (3 * vision.patch_size**2 + 1) + hidden * (vision.num_positions + 1)
    shuffled, wide = vision.shuffled_width, vision.projector_hidden_size
    projector = 2 * shuffled + shuffled * wide + wide * vision.output_size
    return vision.num_layers * (attention + mlp + norms_and_scales) + patches + projector


def vision_weight_bytes(config: NvlmConfig, dtype: str) -> int:
    return vision_parameters(config.vision) * ITEM_BYTES[dtype]
