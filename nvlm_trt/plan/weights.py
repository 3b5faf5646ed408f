"""Bytes of the weights, exact: counted over the tensor lists that the exporters write, not estimated."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

from nvlm_trt.decoder.linear_groups import select_groups
from nvlm_trt.decoder.trtllm_format import Kind, Mapping, Precision, tensor_rules
from nvlm_trt.model.config import NvlmConfig, VisionConfig
from nvlm_trt.pipeline.recipe import DecoderRecipe, VisionRecipe
from nvlm_trt.vision.linears import linear_shapes, select_linears

__all__ = ["RankWeights", "decoder_weights", "vision_fp8_elements", "vision_parameters", "vision_weight_bytes"]

ITEM_BYTES = {"bfloat16": 2, "float16": 2, "float32": 4}
_FP8_BYTES = {Kind.WEIGHT: 1, Kind.WEIGHT_SCALE: 4, Kind.INPUT_SCALE: 4, Kind.CACHE_SCALE: 4}
_HEAD = "lm_head.weight"


@dataclass(frozen=True, slots=True)
class RankWeights:
    """What one rank of a pipeline stage holds.

    ``read_bytes`` are those that every step of the decoder reads: all except the embedding, of which a step takes a few
    rows. Elements are weights of the layers' linears, by precision, and of ``lm_head``.
    """

    total_bytes: int
    read_bytes: int
    fp8_elements: int
    plain_elements: int
    head_elements: int
    largest_tensor_bytes: int


def decoder_weights(config: NvlmConfig, decoder: DecoderRecipe) -> tuple[RankWeights, ...]:
    """For each pipeline stage, the weights of any of its ranks: ranks of a tensor group hold the same shapes.

    Raises ``UsageError``: E-RECIPE-TP or E-RECIPE-PP for a split that the decoder does not allow, E-RECIPE-EXCLUDE for
    patterns that name nothing or half of a fusion.
    """
    return _decoder_weights(
        config, decoder.tp, decoder.pp, decoder.quantization == "fp8", decoder.kv_cache == "fp8", decoder.exclude
    )


@functools.cache
def _decoder_weights(
    config: NvlmConfig, tp: int, pp: int, fp8_linears: bool, fp8_cache: bool, exclude: tuple[str, ...]
) -> tuple[RankWeights, ...]:
    mapping = Mapping(tp, pp)
    mapping.check(config.decoder)
    precision = Precision(fp8_linears, fp8_cache, select_groups(exclude, config.decoder.num_layers))
    return tuple(_stage(config, mapping, stage, precision) for stage in range(pp))


def _stage(config: NvlmConfig, mapping: Mapping, stage: int, precision: Precision) -> RankWeights:
    plain = ITEM_BYTES[config.dtype]
    total = read = fp8_elements = plain_elements = largest = 0
    for rule in tensor_rules(config.decoder, mapping, stage, precision):
        elements = math.prod(rule.shape)
        nbytes = elements * _FP8_BYTES.get(rule.kind, plain)
        total += nbytes
        largest = max(largest, elements * plain)
        if rule.name.endswith("vocab_embedding.weight"):
            continue
        read += nbytes
        if rule.kind is Kind.WEIGHT:
            fp8_elements += elements
        elif len(rule.shape) == 2 and rule.name != _HEAD:
            plain_elements += elements
    head = config.decoder.vocab_size * config.decoder.hidden_size // mapping.tp if stage == mapping.pp - 1 else 0
    return RankWeights(total, read, fp8_elements, plain_elements, head, largest)


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


def vision_fp8_elements(config: NvlmConfig, vision: VisionRecipe) -> dict[str, int]:
    """Weights that are e4m3, by the linear's name; none without FP8.

    Raises ``UsageError`` E-RECIPE-EXCLUDE for patterns that name nothing, or everything.
    """
    if vision.quantization == "none":
        return {}
    shapes = linear_shapes(config.vision)
    return {name: math.prod(shapes[name]) for name in select_linears(config.vision, vision.exclude)}


def vision_weight_bytes(config: NvlmConfig, vision: VisionRecipe) -> int:
    item = ITEM_BYTES[vision.dtype]
    return vision_parameters(config.vision) * item - sum(vision_fp8_elements(config, vision).values()) * (item - 1)
