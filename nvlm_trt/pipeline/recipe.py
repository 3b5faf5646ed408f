"""A recipe says what to build: which engines, how large, for which GPUs.

It has two forms. A ``RecipeDraft`` is what a TOML file says, where a size may be "auto". A ``Recipe`` has every size as
a number, for one model, and is all that steps ever see. ``plan.resolve`` makes it from a draft and the model's config.
"""

from __future__ import annotations

from typing import Annotated, Literal

import pydantic

from nvlm_trt.plan.gpu import GPUS, GpuModel
from nvlm_trt.vision.linears import PROJECTOR

__all__ = [
    "DEFAULT_PER_NODE",
    "CalibrationRecipe",
    "ContainerRecipe",
    "DecoderDraft",
    "DecoderRecipe",
    "GpuRecipe",
    "PromptRecipe",
    "Recipe",
    "RecipeDraft",
    "VisionRecipe",
    "WorkloadRecipe",
]

Auto = Literal["auto"]
TensorParallel = Literal[1, 2, 4, 8]
BatchSize = Annotated[int, pydantic.Field(ge=1, le=2048)]
NumTokens = Annotated[int, pydantic.Field(ge=16)]

DEFAULT_PER_NODE = 8
"""GPUs of a machine where TensorRT-LLM is told nothing."""


class _Section(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid", frozen=True, strict=True)


class VisionRecipe(_Section):
    """``profile`` is the smallest, the usual and the largest number of tiles in one call of the engine.

    ``exclude`` are glob patterns of linears that stay in ``dtype`` under FP8. While serving, tiles of requests that
    wait together share one call of the engine if ``share_calls``; rows of ``cache_bytes`` are kept for the next
    question about the same picture.
    """

    engine: Literal["onnxruntime", "tensorrt", "tensorrt_rtx"]
    dtype: Literal["bfloat16", "float16", "float32"] = "bfloat16"
    quantization: Literal["fp8", "none"] = "none"
    exclude: tuple[str, ...] = PROJECTOR
    profile: tuple[int, int, int] = (1, 7, 28)
    share_calls: bool = True
    cache_bytes: int = pydantic.Field(default=256 * 2**20, ge=0)

    @pydantic.field_validator("profile", "exclude", mode="before")
    @classmethod
    def _tuple(cls, value: object) -> object:
        return tuple(value) if isinstance(value, list) else value

    @pydantic.model_validator(mode="after")
    def _ordered(self) -> VisionRecipe:
        low, usual, high = self.profile
        if not 1 <= low <= usual <= high:
            raise ValueError("profile must be three rising numbers of tiles, from 1 up")
        if self.quantization == "none" and self.exclude != PROJECTOR:
            raise ValueError('exclude has no effect with quantization = "none"')
        return self


class _DecoderSection(_Section):
    """``exclude`` are glob patterns of linears that stay in the model's dtype. ``kv_cache`` "bf16" means that dtype.

    ``runner`` is what the embedded engine computes with. ``force_kv_cache`` takes an FP8 cache although the
    checkpoint's keys speak against it.
    """

    engine: Literal["embedded", "tensorrt_llm"]
    runner: Literal["cpu", "compiled", "onnxruntime", "torch"] = "cpu"
    quantization: Literal["fp8", "none"] = "fp8"
    exclude: tuple[str, ...] = ()
    kv_cache: Literal["bf16", "fp8"] = "bf16"
    force_kv_cache: bool = False
    unified_checkpoint: bool = False
    pp: int = pydantic.Field(default=1, ge=1, le=64)
    max_seq_len: int = pydantic.Field(ge=16, le=131072)
    quantize_activations: bool = True

    @pydantic.field_validator("exclude", mode="before")
    @classmethod
    def _tuple(cls, value: object) -> object:
        return tuple(value) if isinstance(value, list) else value


class DecoderRecipe(_DecoderSection):
    """``max_kv_tokens`` bounds the KV pool of all requests together; 0 leaves it to the engine."""

    tp: TensorParallel
    max_batch_size: BatchSize
    max_num_tokens: NumTokens
    max_kv_tokens: int = pydantic.Field(ge=0)

    @property
    def world_size(self) -> int:
        return self.tp * self.pp

    @property
    def calibrated(self) -> bool:
        """Whether its checkpoint holds scales that only samples can give."""
        return self.quantization == "fp8" or self.kv_cache == "fp8"


class DecoderDraft(_DecoderSection):
    tp: TensorParallel | Auto = "auto"
    max_batch_size: BatchSize | Auto = "auto"
    max_num_tokens: NumTokens | Auto = "auto"


class PromptRecipe(_Section):
    """``max_tiles`` bounds one picture's grid, without its thumbnail, below the model's config: answers come sooner and
    small things are seen less well.
    """

    style: Literal["hf", "megatron"] = "hf"
    system: str = "Answer the questions."
    max_images: int = pydantic.Field(default=4, ge=1, le=16)
    max_tiles: int | None = pydantic.Field(default=None, ge=1, le=12)


class CalibrationRecipe(_Section):
    """``set`` is a JSONL file of prompts and pictures, relative to the recipe's; none means the shipped one.

    With an ``error_bound`` the build also finds the linears that must stay unquantised to keep FP8's error below it.
    """

    method: str = pydantic.Field(default="amax", pattern=r"^(amax|mse|percentile(:[0-9]+(\.[0-9]+)?)?)$")
    set: str | None = None
    device: Literal["cpu", "cuda"] = "cpu"
    error_bound: float | None = pydantic.Field(default=None, gt=0, lt=1)

    @pydantic.field_validator("method")
    @classmethod
    def _in_range(cls, value: str) -> str:
        """As ``RangeMethod`` has it, which needs numpy."""
        percentile = value.partition(":")[2]
        if percentile and not 50 <= float(percentile) <= 100:
            raise ValueError(f"the percentile is {percentile}; 50 to 100 is allowed")
        return value


class WorkloadRecipe(_Section):
    """A usual request. Automatic sizes are made for it; ``plan`` counts how many fit."""

    pictures: int = pydantic.Field(default=1, ge=0, le=16)
    text_tokens: int = pydantic.Field(default=256, ge=1)
    answer_tokens: int = pydantic.Field(default=512, ge=1)


class GpuRecipe(_Section):
    """``count`` GPUs in all, shared evenly by ``nodes`` machines."""

    name: str
    count: int = pydantic.Field(default=1, ge=1, le=64)
    nodes: int = pydantic.Field(default=1, ge=1, le=64)

    @pydantic.field_validator("name")
    @classmethod
    def _known(cls, value: str) -> str:
        if value not in GPUS:
            raise ValueError(f"{value!r} is not known; use one of {', '.join(GPUS)}")
        return value

    @pydantic.model_validator(mode="after")
    def _even(self) -> GpuRecipe:
        if self.count % self.nodes:
            raise ValueError(f"count, {self.count}, must be divided evenly by nodes, {self.nodes}")
        return self

    @property
    def model(self) -> GpuModel:
        return GPUS[self.name]


class ContainerRecipe(_Section):
    """The image that builds and serves. It must be the same one for both, because a plan is tied to its TensorRT."""

    image: str


class _RecipeSections(_Section):
    name: str
    description: str
    vision: VisionRecipe
    prompt: PromptRecipe = PromptRecipe()
    calibration: CalibrationRecipe = CalibrationRecipe()
    workload: WorkloadRecipe = WorkloadRecipe()
    gpu: GpuRecipe | None = None
    container: ContainerRecipe | None = None


class RecipeDraft(_RecipeSections):
    decoder: DecoderDraft

    @pydantic.model_validator(mode="after")
    def _complete(self) -> RecipeDraft:
        decoder = self.decoder
        if decoder.engine == "tensorrt_llm" and (self.container is None or self.gpu is None):
            raise ValueError("a tensorrt_llm decoder needs a [gpu] and a [container] section")
        if decoder.engine == "tensorrt_llm" and decoder.runner != "cpu":
            raise ValueError("decoder.runner applies to the embedded engine only; TensorRT-LLM has its own")
        if decoder.engine == "embedded" and decoder.runner != "torch" and decoder.tp not in (1, "auto"):
            raise ValueError('the embedded decoder reads checkpoints with tp = 1; with runner = "torch", any')
        if decoder.engine == "embedded" and decoder.pp != 1:
            raise ValueError("the embedded decoder reads checkpoints with pp = 1")
        if decoder.engine == "embedded" and decoder.runner == "torch" and decoder.kv_cache == "fp8":
            raise ValueError('the embedded decoder has no FP8 KV cache with runner = "torch"')
        if self.gpu is None and decoder.max_batch_size == "auto":
            raise ValueError('decoder.max_batch_size = "auto" needs a [gpu] section')
        if self.gpu is not None and decoder.engine == "tensorrt_llm":
            shards, rest = divmod(self.gpu.count, decoder.pp)
            if rest or shards not in (1, 2, 4, 8) or decoder.tp not in (shards, "auto"):
                raise ValueError(f"decoder.tp times decoder.pp must be gpu.count, {self.gpu.count}, with tp 1, 2, 4, 8")
        if decoder.quantization == "none" and decoder.exclude:
            raise ValueError('decoder.exclude has no effect with quantization = "none"')
        if decoder.quantization == "none" and (decoder.unified_checkpoint or self.calibration.error_bound):
            raise ValueError('unified_checkpoint and error_bound are about FP8, and quantization is "none"')
        if decoder.kv_cache == "bf16" and decoder.force_kv_cache:
            raise ValueError('decoder.force_kv_cache has no effect with kv_cache = "bf16"')
        return self


class Recipe(_RecipeSections):
    decoder: DecoderRecipe

    @property
    def production(self) -> bool:
        return self.decoder.engine == "tensorrt_llm"

    @property
    def gpus_per_node(self) -> int:
        """By which TensorRT-LLM finds a rank's GPU. On one machine any number does that is not below its GPUs, so it is
        TensorRT-LLM's own default, and the checkpoint the same whatever the machine."""
        if self.gpu is None or (self.gpu.nodes == 1 and self.gpu.count <= DEFAULT_PER_NODE):
            return DEFAULT_PER_NODE
        return self.gpu.count // self.gpu.nodes
