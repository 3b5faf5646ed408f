"""Every value of a recipe that decides something, with its reason."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from nvlm_trt.decoder.build_command import gemm_plugin, prompt_table_rows
from nvlm_trt.model.config import NvlmConfig
from nvlm_trt.pipeline.recipe import Recipe, RecipeDraft
from nvlm_trt.plan.resolve import MOST_REQUESTS

__all__ = ["Choice", "choices"]


@dataclass(frozen=True, slots=True)
class Choice:
    name: str
    value: str
    reason: str


def choices(config: NvlmConfig, draft: RecipeDraft, recipe: Recipe) -> Iterator[Choice]:
    """``draft`` tells which values we chose and which the user set."""
    decoder, usual = recipe.decoder, recipe.workload
    yield Choice("vision.engine", recipe.vision.engine, "the recipe's")
    yield Choice(
        "vision.dtype",
        recipe.vision.dtype,
        "the tower's own; float16 may overflow in its residual stream",
    )
    if recipe.vision.quantization == "fp8":
        kept = ", ".join(recipe.vision.exclude) or "nothing"
        yield Choice("vision.quantization", "fp8", f"the recipe's; {kept} stays in {recipe.vision.dtype}")
    else:
        yield Choice(
            "vision.quantization", "none", "FP8 moves the rows by some per cent, and what answers make of it is unknown"
        )
    low, often, high = recipe.vision.profile
    yield Choice(
        "vision.profile",
        f"{low}, {often}, {high}",
        f"one picture is {config.tiling.most_tiles_per_image} tiles at most; the largest decides the activation memory",
    )
    shared = "tiles of waiting requests share calls" if recipe.vision.share_calls else "each request calls for itself"
    yield Choice("vision.share_calls", str(recipe.vision.share_calls).lower(), shared)
    yield Choice("vision.cache_bytes", str(recipe.vision.cache_bytes), "rows kept for the next question on a picture")
    if decoder.quantization == "fp8":
        yield Choice("decoder.quantization", "fp8", "half the bytes of BF16 and twice its arithmetic on Hopper")
    else:
        yield Choice("decoder.quantization", "none", "the recipe's; no calibration is needed")
    if decoder.kv_cache == "bf16":
        yield Choice("decoder.kv_cache", "bf16", "an FP8 cache needs a passed check: Qwen2's keys carry large biases")
    else:
        forced = "the recipe forces it" if decoder.force_kv_cache else "if calibration's check passes"
        yield Choice("decoder.kv_cache", "fp8", f"half the bytes a token; {forced}")
    if decoder.calibrated:
        on_cpu = recipe.calibration.device == "cpu"
        reason = 'needs no GPU; "cuda" is hundreds of times quicker where there is one' if on_cpu else "the recipe's"
        yield Choice("calibration.device", recipe.calibration.device, reason)
    if decoder.exclude:
        yield Choice("decoder.exclude", ", ".join(decoder.exclude), "the recipe's: these linears stay unquantised")
    if not recipe.production:
        yield Choice("decoder.runner", decoder.runner, "the recipe's; torch uses a GPU where it finds one")
    typed = "the recipe's"
    if recipe.gpu is not None:
        yield Choice("decoder.tp", str(decoder.tp), _split_reason(recipe.gpu.count, decoder.pp))
    yield Choice(
        "decoder.max_seq_len",
        str(decoder.max_seq_len),
        f"the recipe's; the decoder has {config.decoder.max_positions} positions",
    )
    auto = draft.decoder.max_num_tokens == "auto"
    yield Choice(
        "decoder.max_num_tokens",
        str(decoder.max_num_tokens),
        "the longest prompt in one step: contexts are not chunked" if auto else typed,
    )
    if draft.decoder.max_batch_size != "auto":
        reason = typed
    elif decoder.max_batch_size == MOST_REQUESTS:
        reason = f"more fit, but past {MOST_REQUESTS} each step is bound by arithmetic and the prompt table grows"
    else:
        reason = (
            f"as many requests as the KV pool holds, in eights; each with pictures: {usual.pictures}, "
            f"text tokens: {usual.text_tokens}, answer tokens: {usual.answer_tokens}"
        )
    yield Choice("decoder.max_batch_size", str(decoder.max_batch_size), reason)
    if decoder.max_kv_tokens:
        yield Choice(
            "decoder.max_kv_tokens",
            str(decoder.max_kv_tokens),
            "the KV pool; a bound, so that it is the same whichever engine loads first",
        )
    yield Choice("prompt.max_images", str(recipe.prompt.max_images), typed)
    if recipe.prompt.max_tiles is not None:
        yield Choice("prompt.max_tiles", str(config.tiling.max_tiles), "the recipe's; fewer than the model's see less")
    if recipe.production:
        rows = prompt_table_rows(recipe, config)
        yield Choice(
            "--max_multimodal_len",
            str(rows),
            f"max_batch_size times the {rows // decoder.max_batch_size} rows that one request may bring",
        )
        plugin = gemm_plugin(recipe)
        reason = "FP8 GEMMs are TensorRT's own" if plugin == "disable" else "for GEMMs that are not quantised"
        yield Choice("--gemm_plugin", plugin, reason)
        yield Choice("--use_paged_context_fmha", "enable", "sharing the KV blocks of equal pictures stands on it")


def _split_reason(num_gpus: int, pp: int) -> str:
    if num_gpus == 1:
        return "one GPU"
    return f"{num_gpus} GPUs, each layer cut across {'all' if pp == 1 else f'those of one of {pp} stages'}"
