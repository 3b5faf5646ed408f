"""Runs ``trtllm-build`` where it is installed, and checks what it leaves.

The engine folder appears under its name only when it is whole: the tool writes into a folder beside it. What the tool
says goes to a log file next to the folder, for people; errors here only say how it ended and name that file.
"""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
from pathlib import Path
from typing import Any

from nvlm_trt.decoder.build_command import prompt_table_rows, trtllm_build_command
from nvlm_trt.decoder.trtllm_format import TRTLLM_VERSION, engine_file_name
from nvlm_trt.errors import ArtefactError, BuildError, MissingToolError
from nvlm_trt.model.config import NvlmConfig
from nvlm_trt.pipeline.recipe import Recipe

__all__ = ["check_engines", "run_trtllm_build"]

LOG_NAME = "trtllm-build.log"


def run_trtllm_build(recipe: Recipe, config: NvlmConfig, checkpoint_dir: Path, engine_dir: Path) -> None:
    """Build the decoder's engines; blocks until the tool ends.

    Raises ``MissingToolError`` E-TOOL-TRTLLM where there is no ``trtllm-build``, ``BuildError`` E-BUILD-TRTLLM when it
    fails, ``ArtefactError`` E-ENGINE-INCOMPLETE or E-ENGINE-CONFIG when what it left is not what was asked for.
    """
    tool = shutil.which("trtllm-build")
    if tool is None:
        image = recipe.container.image if recipe.container else f"a container with TensorRT-LLM {TRTLLM_VERSION}"
        raise MissingToolError(
            "E-TOOL-TRTLLM",
            "trtllm-build is not installed on this machine.",
            f"Run this step inside {image}.",
        )
    partial = engine_dir.with_name(engine_dir.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    command = [tool, *trtllm_build_command(recipe, config, checkpoint_dir.absolute(), partial.absolute())[1:]]
    try:
        with (engine_dir.parent / LOG_NAME).open("wb") as log:
            # Run in the folder, because the tool leaves its timing cache in the working directory.
            status = subprocess.run(
                command, cwd=partial, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, check=False
            ).returncode
        if status:
            raise BuildError("E-BUILD-TRTLLM", f"trtllm-build {_ending(status)}.", f"See {LOG_NAME} beside the engine.")
        check_engines(partial, recipe, config)
        _replace_folder(engine_dir, partial)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def check_engines(engine_dir: Path, recipe: Recipe, config: NvlmConfig) -> None:
    """That there is one engine per rank, built for this model and with this recipe's sizes.

    Raises ``ArtefactError``: E-ENGINE-INCOMPLETE when a file is missing, empty or not readable, E-ENGINE-CONFIG when
    config.json says something else than the recipe.
    """
    missing = [name for name in map(engine_file_name, range(recipe.decoder.tp)) if not _has_bytes(engine_dir / name)]
    built = _read_json(engine_dir / "config.json")
    if missing or built is None:
        raise ArtefactError(
            "E-ENGINE-INCOMPLETE",
            f"The decoder engine lacks {', '.join(missing) or 'a readable config.json'}.",
            "Run the step decoder.engine again.",
        )
    wanted = {
        "pretrained_config.architecture": "Qwen2ForCausalLM",
        "pretrained_config.dtype": config.dtype,
        "pretrained_config.vocab_size": config.decoder.vocab_size,
        "pretrained_config.mapping.tp_size": recipe.decoder.tp,
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
                "Run the step decoder.engine again.",
            )


def _replace_folder(folder: Path, by: Path) -> None:
    """A folder that is not empty cannot be renamed over, so the old one steps aside first."""
    old = folder.with_name(folder.name + ".old")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.rename(old)
    by.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def _ending(status: int) -> str:
    if status > 0:
        return f"failed with exit status {status}"
    killed = f"was killed by signal {signal.Signals(-status).name}"
    return f"{killed}, most often because memory ran out" if status == -signal.SIGKILL else killed


def _has_bytes(file: Path) -> bool:
    return file.is_file() and file.stat().st_size > 0


def _read_json(file: Path) -> Any:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def _look_up(data: Any, dotted: str) -> Any:
    for key in dotted.split("."):
        data = data.get(key) if isinstance(data, dict) else None
    return data
