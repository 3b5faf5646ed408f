"""The ``trtllm-build`` command line for a recipe; every size that follows from another is computed here.

Parallel sizes are not on it, because the tool takes them from the checkpoint's config.json.
"""

from __future__ import annotations

from pathlib import PurePath

from nvlm_trt.decoder.trtllm_format import FIXED_BUILD_FLAGS
from nvlm_trt.errors import UsageError
from nvlm_trt.model.config import NvlmConfig
from nvlm_trt.pipeline.recipe import Recipe

__all__ = ["gemm_plugin", "prompt_table_rows", "trtllm_build_command"]


def prompt_table_rows(recipe: Recipe, config: NvlmConfig) -> int:
    """Rows of the engine's prompt table over the whole batch; the runtime gives each request an equal part.

    A request brings at most ``max_images`` pictures of the most tiles, and never more rows than it has positions.
    """
    tiling = config.tiling.limited(recipe.prompt.max_tiles)
    rows = recipe.prompt.max_images * tiling.most_tiles_per_image * config.vision.tokens_per_tile
    return recipe.decoder.max_batch_size * min(rows, recipe.decoder.max_seq_len)


def gemm_plugin(recipe: Recipe) -> str:
    """FP8 GEMMs are TensorRT's own, and the plugin would take them away from it; for BF16 the plugin is faster."""
    return "disable" if recipe.decoder.quantization == "fp8" else "auto"


def trtllm_build_command(
    recipe: Recipe, config: NvlmConfig, checkpoint_dir: PurePath | str, engine_dir: PurePath | str
) -> list[str]:
    """The argument vector for TensorRT-LLM 1.2.1.

    Raises ``UsageError`` E-RECIPE-SEQ when the recipe's sequences are longer than the decoder's positions: rotary
    scaling is written as none, so nothing beyond them would be right.
    """
    sizes = recipe.decoder
    if sizes.max_seq_len > config.decoder.max_positions:
        raise UsageError(
            "E-RECIPE-SEQ",
            f"decoder.max_seq_len is {sizes.max_seq_len}; this decoder has {config.decoder.max_positions} positions.",
            f"Set it to {config.decoder.max_positions} or less.",
        )
    flags = {
        "--checkpoint_dir": str(checkpoint_dir),
        "--output_dir": str(engine_dir),
        "--max_batch_size": str(sizes.max_batch_size),
        # Without effect when padding is removed, but its default of 1024 is not what is meant.
        "--max_input_len": str(sizes.max_seq_len),
        "--max_seq_len": str(sizes.max_seq_len),
        "--max_num_tokens": str(sizes.max_num_tokens),
        "--max_multimodal_len": str(prompt_table_rows(recipe, config)),
        "--workers": str(sizes.world_size),
        **FIXED_BUILD_FLAGS,
        "--gemm_plugin": gemm_plugin(recipe),
    }
    return ["trtllm-build", *(word for flag in flags.items() for word in flag)]
