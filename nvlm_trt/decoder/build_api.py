"""Builds the same engines through TensorRT-LLM's Python API, for programs that build by themselves.

``build_config`` holds, as plain values, exactly what ``trtllm_build_command`` says on the command line; a test compares
the two. ``build_rank`` needs TensorRT-LLM and the GPU that the rank will run on.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from nvlm_trt.decoder.build_command import trtllm_build_command
from nvlm_trt.errors import MissingToolError
from nvlm_trt.model.config import NvlmConfig
from nvlm_trt.pipeline.recipe import Recipe

__all__ = ["build_config", "build_rank"]

# Flags that the API takes as fields of its plugin configuration.
_PLUGINS = (
    *("gpt_attention_plugin", "gemm_plugin", "remove_input_padding"),
    *("context_fmha", "use_paged_context_fmha", "use_fused_mlp"),
)
_RENAMED = {"max_multimodal_len": "max_prompt_embedding_table_size"}
# Of the tool, not of the engine.
_TOOL_ONLY = {"checkpoint_dir", "output_dir", "workers", "log_level"}


def build_config(recipe: Recipe, config: NvlmConfig) -> dict[str, Any]:
    """Keyword arguments of ``BuildConfig``; ``plugin_config`` holds those of ``PluginConfig``.

    Raises ``UsageError`` E-RECIPE-SEQ.
    """
    words = trtllm_build_command(recipe, config, "", "")[1:]
    flags = {name.removeprefix("--"): value for name, value in zip(words[::2], words[1::2], strict=True)}
    plugins = {name: flags.pop(name) for name in _PLUGINS}
    sizes = {_RENAMED.get(name, name): value for name, value in flags.items() if name not in _TOOL_ONLY}
    numbers = {name: int(value) if value.isdigit() else value for name, value in sizes.items()}
    return {**numbers, "strongly_typed": True, "plugin_config": plugins}


def build_rank(recipe: Recipe, config: NvlmConfig, checkpoint_dir: Path, engine_dir: Path, rank: int) -> None:
    """Build and save one rank's engine on the current GPU. Raises ``MissingToolError`` E-TOOL-TRTLLM."""
    try:
        from tensorrt_llm.builder import BuildConfig, KVCacheType, build
        from tensorrt_llm.models import QWenForCausalLM
        from tensorrt_llm.plugin import PluginConfig
    except ImportError:
        raise MissingToolError(
            "E-TOOL-TRTLLM",
            "The TensorRT-LLM Python package is not installed.",
            "Run this inside the recipe's container.",
        ) from None
    wanted = build_config(recipe, config)
    plugins = PluginConfig(**wanted.pop("plugin_config"))
    wanted["kv_cache_type"] = getattr(KVCacheType, wanted["kv_cache_type"].upper())
    model = QWenForCausalLM.from_checkpoint(str(checkpoint_dir), rank=rank)
    build(model, BuildConfig(**wanted, plugin_config=plugins)).save(str(engine_dir))
