"""Whether a folder holds the decoder's engines, whole, for this model and with this recipe's sizes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from nvlm_trt.decoder.build_command import prompt_table_rows
from nvlm_trt.decoder.trtllm_format import engine_file_name
from nvlm_trt.errors import ArtefactError
from nvlm_trt.model.config import NvlmConfig
from nvlm_trt.pipeline.recipe import Recipe

__all__ = ["check_engines", "engine_version"]

# An engine holds its rank's weights; one that is clearly smaller was not written to its end.
_LEAST_FACTOR = 0.9
_AGAIN = "Run the step decoder.engine again."


def check_engines(engine_dir: Path, recipe: Recipe, config: NvlmConfig, least_bytes: list[int] | None = None) -> None:
    """``least_bytes`` are the sizes of the ranks' weights, where they are known.

    Raises ``ArtefactError``: E-ENGINE-INCOMPLETE when a file is missing, empty, cut short or not readable,
    E-ENGINE-CONFIG when config.json says something else than the recipe.
    """
    least = least_bytes or [1] * recipe.decoder.world_size
    files = [(engine_dir / engine_file_name(rank), size) for rank, size in enumerate(least)]
    bad = [file.name for file, size in files if _size(file) < max(1, int(size * _LEAST_FACTOR))]
    built = _read_json(engine_dir / "config.json")
    if bad or built is None:
        what = f"{', '.join(bad)} missing or cut short" if bad else "no readable config.json"
        raise ArtefactError("E-ENGINE-INCOMPLETE", f"The decoder engine has {what}.", _AGAIN)
    wanted = {
        "pretrained_config.architecture": "Qwen2ForCausalLM",
        "pretrained_config.dtype": config.dtype,
        "pretrained_config.vocab_size": config.decoder.vocab_size,
        "pretrained_config.mapping.tp_size": recipe.decoder.tp,
        "pretrained_config.mapping.pp_size": recipe.decoder.pp,
        "pretrained_config.mapping.gpus_per_node": recipe.gpus_per_node,
        "build_config.max_batch_size": recipe.decoder.max_batch_size,
        "build_config.max_seq_len": recipe.decoder.max_seq_len,
        # The tool lowers this one to what the batch can hold.
        "build_config.max_num_tokens": min(
            recipe.decoder.max_num_tokens, recipe.decoder.max_seq_len * recipe.decoder.max_batch_size
        ),
        "build_config.max_prompt_embedding_table_size": prompt_table_rows(recipe, config),
    }
    for key, value in wanted.items():
        seen = _look_up(built, key)
        if seen != value:
            raise ArtefactError(
                "E-ENGINE-CONFIG",
                f"The decoder engine's config.json has {key} = {seen!r}; the recipe wants {value!r}.",
                _AGAIN,
            )
    if not isinstance(built.get("version"), str):
        raise ArtefactError("E-ENGINE-CONFIG", "The decoder engine's config.json names no version.", _AGAIN)


def engine_version(engine_dir: Path) -> str | None:
    """The TensorRT-LLM that built it, or None where nothing readable says so."""
    version = _look_up(_read_json(engine_dir / "config.json"), "version")
    return version if isinstance(version, str) else None


def _size(file: Path) -> int:
    return file.stat().st_size if file.is_file() else 0


def _read_json(file: Path) -> Any:
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return data if isinstance(data, dict) else None


def _look_up(data: Any, dotted: str) -> Any:
    for key in dotted.split("."):
        data = data.get(key) if isinstance(data, dict) else None
    return data
