"""Makes a deployment's model repository from the sources in ``triton_repo`` and a recipe.

Both forms come from the same five configurations. The production form is the sources with sizes filled in. The embedded
form has a Python decoder behind the same tensors, and float32 where production has BF16, which numpy cannot hold. Every
file is named by where containers mount it, ``/deployment`` and ``/checkpoint``.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from nvlm_trt.deploy.model_config import ModelConfig, read_model_config, set_parameter, set_type, write_model_config
from nvlm_trt.model.config import NvlmConfig
from nvlm_trt.pipeline.recipe import Recipe
from nvlm_trt.plan.memory import KV_POOL_FRACTION
from nvlm_trt.resources import resource_folder

__all__ = ["MODELS", "render_repository", "write_repository"]

MODELS = ("ensemble", "postprocessing", "preprocessing", "tensorrt_llm", "vision_encoder")

_TABLE_TYPES = {"bfloat16": "TYPE_BF16", "float16": "TYPE_FP16", "float32": "TYPE_FP32"}


def render_repository(recipe: Recipe, config: NvlmConfig) -> dict[str, ModelConfig]:
    """The configuration of each model, by the model's name."""
    sources = resource_folder("triton_repo")
    models = {name: read_model_config(sources / name / "config.pbtxt") for name in MODELS}
    table_dtype = config.dtype if recipe.production else "float32"

    preprocessing = models["preprocessing"]
    set_parameter(preprocessing, "prompt_style", recipe.prompt.style)
    set_parameter(preprocessing, "system", recipe.prompt.system)
    set_parameter(preprocessing, "max_images", recipe.prompt.max_images)
    set_parameter(preprocessing, "max_tiles", recipe.prompt.max_tiles or config.tiling.max_tiles)
    set_parameter(preprocessing, "max_seq_len", recipe.decoder.max_seq_len)

    vision = models["vision_encoder"]
    set_parameter(vision, "engine", recipe.vision.engine)
    set_parameter(vision, "max_tiles", recipe.vision.profile[2])
    set_parameter(vision, "share_calls", recipe.vision.share_calls)
    set_parameter(vision, "cache_bytes", recipe.vision.cache_bytes)
    set_parameter(vision, "table_dtype", table_dtype)
    set_type(vision, "prompt_embedding_table", _TABLE_TYPES[table_dtype])

    decoder = models["tensorrt_llm"]
    decoder.max_batch_size = recipe.decoder.max_batch_size
    decoder.dynamic_batching.preferred_batch_size[:] = [recipe.decoder.max_batch_size]
    set_type(decoder, "prompt_embedding_table", _TABLE_TYPES[table_dtype])
    set_type(decoder, "encoder_input_features", _TABLE_TYPES[table_dtype])
    if recipe.production:
        set_parameter(decoder, "max_tokens_in_paged_kv_cache", recipe.decoder.max_kv_tokens)
        set_parameter(decoder, "kv_cache_free_gpu_mem_fraction", KV_POOL_FRACTION)
    else:
        _embed(decoder, recipe)
    return models


def write_repository(recipe: Recipe, config: NvlmConfig, out_folder: Path) -> None:
    """Write the whole repository to ``out_folder``, which is created and must not hold one yet."""
    sources = resource_folder("triton_repo")
    for name, model in render_repository(recipe, config).items():
        version = out_folder / name / "1"
        version.mkdir(parents=True)
        write_model_config(model, out_folder / name / "config.pbtxt")
        if model.backend == "python":
            shutil.copyfile(sources / name / "1" / "model.py", version / "model.py")
        else:
            # Triton wants the version's folder, and archives and object stores lose empty ones.
            (version / ".keep").touch()


def _embed(decoder: ModelConfig, recipe: Recipe) -> None:
    """Put the embedded decoder behind the same tensors, without TensorRT-LLM's parameters, which mean nothing to it."""
    decoder.backend = "python"
    decoder.parameters.clear()
    set_parameter(decoder, "gpt_model_path", "/deployment/decoder/checkpoint")
    set_parameter(decoder, "runner", recipe.decoder.runner)
    set_parameter(decoder, "max_seq_len", recipe.decoder.max_seq_len)
    set_parameter(decoder, "max_num_tokens", recipe.decoder.max_num_tokens)
    set_parameter(decoder, "quantize_activations", recipe.decoder.quantize_activations)
