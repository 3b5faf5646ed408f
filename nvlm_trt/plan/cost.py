"""What a build costs: bytes, memory and time of each step, extrapolated from measured rates.

Bytes are exact up to file headers. Times are bytes or multiplications over a rate; rates are parameters whose defaults
were measured on a small machine, as they say. A step that we have never run at full size has a lower bound instead.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from types import MappingProxyType

from nvlm_trt.checkpoint.layout import expected_tensors
from nvlm_trt.checkpoint.tensor_spec import TensorSpec
from nvlm_trt.model.config import NvlmConfig
from nvlm_trt.pipeline.recipe import Recipe, VisionRecipe
from nvlm_trt.plan.calibration_size import CalibrationSize
from nvlm_trt.plan.roofline import vision_flops
from nvlm_trt.plan.weights import ITEM_BYTES, decoder_weights, vision_fp8_elements, vision_weight_bytes

__all__ = ["RATE_ORIGINS", "Rates", "StepCost", "build_costs", "checkpoint_bytes"]

_STREAMING_BYTES = 3_000_000_000
# Tokens that go through a layer at once while calibrating, and the two wide float32 tensors they have in it.
_CALIBRATION_BATCH = 2048
# Tiles of calibration pictures that go through the vision half at once.
_TILES_PER_PASS = 32
# ONNX Runtime holds more than a stage's weights in float32: 4.3 GB were measured for the release's projector of 2.48.
_STAGE_FACTOR = 1.7
# TensorRT keeps the graph's weights and a little more while it builds to a stream.
_BUILDER_FACTOR = 1.06
_ENGINE_HOST_FACTOR = 2


@dataclass(frozen=True, slots=True)
class Rates:
    """Rates of the machine that builds."""

    read_bytes_s: float = 0.85e9
    write_bytes_s: float = 0.7e9
    convert_bytes_s: float = 0.96e9
    calibrate_cpu_flops: float = 1.2e11
    calibrate_cuda_flops: float = 2e13
    vision_build_bytes_s: float = 1.9e8

    def to_json(self) -> dict[str, float]:
        return {field.name: getattr(self, field.name) for field in fields(self)}


RATE_ORIGINS: Mapping[str, str] = MappingProxyType(
    {
        "read_bytes_s": "reading and hashing a checkpoint's files, cold, one NVMe disk",
        "write_bytes_s": "writing and syncing large files beside reads, the same disk",
        "convert_bytes_s": "converting to FP8, bytes of input, 2 CPU cores: four layers of the release",
        "calibrate_cpu_flops": "float32 arithmetic a second of layer streaming and pictures, 2 free AVX-512 cores",
        "calibrate_cuda_flops": "the same on a CUDA device: not measured, a third of Hopper's float32 peak",
        "vision_build_bytes_s": "a TensorRT-RTX plan of the release's vision graph: 12.3 GB in 64 s, 2 CPU cores",
    }
)


@dataclass(frozen=True, slots=True)
class StepCost:
    """``seconds`` is a lower bound where ``at_least``. ``memory_bytes`` is host memory without mapped pages."""

    step: str
    reads_bytes: int
    writes_bytes: int
    memory_bytes: int
    seconds: float
    at_least: bool = False


def checkpoint_bytes(config: NvlmConfig) -> int:
    return sum(spec.nbytes for spec in expected_tensors(config).values())


def build_costs(config: NvlmConfig, recipe: Recipe, samples: CalibrationSize, rates: Rates) -> list[StepCost]:
    """One entry for each step of the recipe, in the order of the build."""
    tensors = expected_tensors(config)
    vision = [spec for name, spec in tensors.items() if not name.startswith("language_model.")]
    decoder_bytes = sum(spec.nbytes for name, spec in tensors.items() if name.startswith("language_model."))
    total_bytes = sum(spec.nbytes for spec in tensors.values())
    vision_bytes = sum(spec.nbytes for spec in vision)
    plan_bytes = vision_weight_bytes(config, recipe.vision)
    side_bytes = _side_bytes(config, vision, recipe.vision)
    ranks = decoder_weights(config, recipe.decoder)
    engine_bytes = recipe.decoder.tp * sum(rank.total_bytes for rank in ranks)
    largest = max(rank.largest_tensor_bytes for rank in ranks)
    costs = [
        StepCost("inspect", total_bytes, 0, 0, total_bytes / rates.read_bytes_s),
        *_vision_calibration(config, recipe, vision_bytes, samples, rates),
        StepCost("vision.onnx", vision_bytes, side_bytes, largest_of(vision), side_bytes / rates.write_bytes_s),
    ]
    if recipe.vision.engine != "onnxruntime":
        memory, seconds = int(_BUILDER_FACTOR * plan_bytes), plan_bytes / rates.vision_build_bytes_s
        costs.append(StepCost("vision.engine", plan_bytes, plan_bytes, memory, seconds))
    costs += _sampled(config, recipe, decoder_bytes, samples, rates)
    # What was written is read again, for its hash in the manifest.
    memory = _STREAMING_BYTES + largest
    seconds = decoder_bytes / rates.convert_bytes_s + engine_bytes / rates.read_bytes_s
    if recipe.decoder.unified_checkpoint:
        # The decoder in one piece, however many ranks there are; the rest of the model as it is stored.
        whole = recipe.decoder.model_copy(update={"tp": 1, "pp": 1})
        unified = decoder_weights(config, whole)[0].total_bytes + vision_bytes
        written_s = total_bytes / rates.convert_bytes_s + unified / rates.read_bytes_s
        costs.append(StepCost("decoder.unified", total_bytes, unified, memory, written_s))
    costs.append(StepCost("decoder.checkpoint", decoder_bytes, engine_bytes, memory, seconds))
    if recipe.production:
        memory = _ENGINE_HOST_FACTOR * engine_bytes
        seconds = engine_bytes / rates.read_bytes_s + engine_bytes / rates.write_bytes_s
        costs.append(StepCost("decoder.engine", engine_bytes, engine_bytes, memory, seconds, at_least=True))
    return costs


def largest_of(tensors: list[TensorSpec]) -> int:
    return max(tensor.nbytes for tensor in tensors)


def _vision_calibration(
    config: NvlmConfig, recipe: Recipe, vision_bytes: int, samples: CalibrationSize, rates: Rates
) -> Iterator[StepCost]:
    """Every picture goes through the tower once, all tiles side by side."""
    if recipe.vision.quantization == "fp8":
        seconds = vision_bytes / rates.read_bytes_s + vision_flops(config, samples.tiles) / rates.calibrate_cpu_flops
        states = 4 * samples.tiles * config.vision.num_positions * config.vision.hidden_size
        yield StepCost("vision.calibration", vision_bytes, 0, _stage_bytes(config, 1) + states, seconds)


def _side_bytes(config: NvlmConfig, tensors: list[TensorSpec], recipe: VisionRecipe) -> int:
    """Bytes of the tensors that are rewritten, because of their dtype or their dummy heads."""
    vision, item = config.vision, ITEM_BYTES[recipe.dtype]
    width = vision.num_heads * vision.head_dim
    in_fp8 = vision_fp8_elements(config, recipe)
    rest = [tensor for tensor in tensors if tensor.name.removesuffix(".weight") not in in_fp8]
    changed = [tensor for tensor in rest if tensor.dtype == "F32" or item != 2]
    return sum(in_fp8.values()) + sum(
        tensor.num_elements * item * width // vision.padded_width if _padded(tensor) else tensor.num_elements * item
        for tensor in changed
    )


def _padded(tensor: TensorSpec) -> bool:
    return ".attn." in tensor.name and not tensor.name.endswith(".bias")


def _sampled(
    config: NvlmConfig, recipe: Recipe, decoder_bytes: int, samples: CalibrationSize, rates: Rates
) -> Iterator[StepCost]:
    """Steps that send samples through the layers, by how often: sensitivity runs exact, rounded, and to confirm.

    Each makes its samples anew, and pictures run on the CPU whatever the device.
    """
    on_cpu = recipe.calibration.device == "cpu"
    flops = rates.calibrate_cpu_flops if on_cpu else rates.calibrate_cuda_flops
    pictures_s = vision_flops(config, samples.tiles) / rates.calibrate_cpu_flops
    once = _pass(config, decoder_bytes, samples.tokens, rates, flops)
    once = dataclasses.replace(once, memory_bytes=max(once.memory_bytes, _stage_bytes(config, samples.tiles)))
    passes = {
        "decoder.calibration": 1 if recipe.decoder.calibrated else 0,
        "decoder.kv_cache": 1 if recipe.decoder.kv_cache == "fp8" else 0,
        "decoder.sensitivity": 4 if recipe.calibration.error_bound is not None else 0,
    }
    for step, count in passes.items():
        if count:
            yield dataclasses.replace(once, step=step, seconds=count * once.seconds + pictures_s)


def _stage_bytes(config: NvlmConfig, tiles: int) -> int:
    """The vision half's largest stage in float32, as a rule the projector, and hidden states before and after."""
    vision = config.vision
    projector = (vision.shuffled_width + vision.output_size) * vision.projector_hidden_size
    layer = vision.hidden_size * (4 * vision.hidden_size + 2 * vision.intermediate_size)
    states = 2 * min(tiles, _TILES_PER_PASS) * vision.num_positions * vision.hidden_size
    return int(4 * (_STAGE_FACTOR * max(projector, layer) + states)) if tiles else 0


def _pass(config: NvlmConfig, decoder_bytes: int, tokens: int, rates: Rates, flops: float) -> StepCost:
    decoder = config.decoder
    linears = decoder.num_layers * (
        decoder.hidden_size * (decoder.qkv_size + decoder.q_size) + 3 * decoder.hidden_size * decoder.intermediate_size
    )
    hidden_states = tokens * decoder.hidden_size * 4
    working = (
        decoder.hidden_size * decoder.intermediate_size * 4 + 2 * _CALIBRATION_BATCH * decoder.intermediate_size * 4
    )
    seconds = 2 * linears * tokens / flops + decoder_bytes / rates.read_bytes_s
    return StepCost("decoder.calibration", decoder_bytes, 0, hidden_states + working, seconds)
