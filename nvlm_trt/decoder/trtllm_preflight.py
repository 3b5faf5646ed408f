"""Finds what would make ``trtllm-build`` fail after a quarter of an hour: version, GPUs, memory, disk."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from nvlm_trt.decoder.trtllm_format import TRTLLM_VERSION, rank_file_name
from nvlm_trt.decoder.trtllm_tool import TrtllmTool
from nvlm_trt.errors import ArtefactError, BuildError
from nvlm_trt.pipeline.machine import Gpu
from nvlm_trt.pipeline.recipe import Recipe

__all__ = ["check_before_build", "check_version", "rank_sizes"]

_LINE = TRTLLM_VERSION.rpartition(".")[0] + "."
# An engine is its weights, its kernels and its plan: a little more than the rank's file.
_ENGINE_FACTOR = 1.05


def check_before_build(
    recipe: Recipe, tool: TrtllmTool, gpus: Sequence[Gpu], checkpoint_dir: Path, engine_parent: Path
) -> None:
    """Raises ``BuildError``: E-BUILD-VERSION for another line of TensorRT-LLM, E-BUILD-GPU when this machine's GPUs are
    not the recipe's or too small to build on, E-BUILD-SPACE when the engines do not fit the disk; ``ArtefactError``
    E-ARTEFACT-FILE when a rank's file is missing."""
    if tool.version is not None:
        check_version(tool.version)
    sizes = rank_sizes(recipe, checkpoint_dir)
    _check_gpus(recipe, gpus, max(sizes))
    wanted, free = int(sum(sizes) * _ENGINE_FACTOR), shutil.disk_usage(engine_parent).free
    if free < wanted:
        raise BuildError(
            "E-BUILD-SPACE",
            f"The decoder's engines need {wanted / 1e9:.1f} GB of disk and {free / 1e9:.1f} GB are free.",
            "Make room and run the same command again: finished steps are kept.",
        )


def check_version(version: str) -> None:
    if not version.startswith(_LINE):
        raise BuildError(
            "E-BUILD-VERSION",
            f"trtllm-build is of TensorRT-LLM {version}; the checkpoint is for {_LINE}x.",
            "Run this step inside the recipe's container.",
        )


def rank_sizes(recipe: Recipe, checkpoint_dir: Path) -> list[int]:
    """Bytes of each rank's file."""
    files = [checkpoint_dir / rank_file_name(rank) for rank in range(recipe.decoder.world_size)]
    missing = [file.name for file in files if not file.is_file()]
    if missing:
        raise ArtefactError(
            "E-ARTEFACT-FILE", f"The decoder's checkpoint lacks {', '.join(missing)}.", "Run the same build again."
        )
    return [file.stat().st_size for file in files]


def _check_gpus(recipe: Recipe, gpus: Sequence[Gpu], rank_bytes: int) -> None:
    """An engine runs only on the compute capability it was built on, so building elsewhere is wasted work."""
    if not gpus:
        raise BuildError("E-BUILD-GPU", "This machine shows no GPU to build on.", "Build where the GPUs are.")
    first = gpus[0]
    wanted = recipe.gpu.model.compute_capability if recipe.gpu else first.compute_capability
    other = next((gpu for gpu in gpus if gpu.compute_capability != wanted), None)
    if other is not None:
        raise BuildError(
            "E-BUILD-GPU",
            f"This machine has {other.name}, compute capability {other.compute_capability}; the recipe is for "
            f"{recipe.gpu.name if recipe.gpu else first.name}, {wanted}.",
            "Build on the GPUs that will serve, or choose their recipe.",
        )
    memory = first.memory_mib * 2**20
    if memory < rank_bytes:
        raise BuildError(
            "E-BUILD-GPU",
            f"One rank's weights are {rank_bytes / 1e9:.1f} GB and {first.name} has {memory / 1e9:.1f} GB.",
            "Use a recipe that cuts the decoder into more parts.",
        )
