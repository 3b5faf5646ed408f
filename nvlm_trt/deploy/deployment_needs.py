"""What a deployment needs of the machine that serves it, checked before anything is started."""

from __future__ import annotations

import json
from pathlib import Path

from nvlm_trt.deploy.memory import shared_memory_bytes
from nvlm_trt.deploy.model_config import read_model_config
from nvlm_trt.deploy.runtime import Runtime, check_shared_memory, find_runtime
from nvlm_trt.errors import ArtefactError, MissingToolError
from nvlm_trt.model.config import NvlmConfig
from nvlm_trt.model.json_file import read_json_object
from nvlm_trt.pipeline.machine import gpus
from nvlm_trt.pipeline.recipe import DEFAULT_PER_NODE

__all__ = ["check_deployment"]


def check_deployment(folder: Path) -> tuple[Runtime, int]:
    """The Triton that can serve it, and how many processes of it, one for each rank of its decoder.

    Raises ``MissingToolError`` E-TOOL-*, ``ArtefactError`` E-ARTEFACT-TRITON, ``CheckpointError`` E-CONFIG-*.
    """
    decoder = read_model_config(folder / "triton_repo" / "tensorrt_llm" / "config.pbtxt")
    runtime = find_runtime()
    if decoder.backend not in runtime.decoders:
        raise MissingToolError(
            "E-TOOL-TRTLLM",
            "This deployment's decoder runs in TensorRT-LLM's Triton backend, which the local server does not have.",
            "Serve it in the recipe's container (nvlm-trt serve DIR --container), or build one with --recipe embedded.",
        )
    preprocessing = read_model_config(folder / "triton_repo" / "preprocessing" / "config.pbtxt")
    config = NvlmConfig.from_json(read_json_object(folder / "model" / "config.json", "CONFIG"))
    max_images, max_tiles = (preprocessing.parameters[name].string_value for name in ("max_images", "max_tiles"))
    check_shared_memory(shared_memory_bytes(config.limited(int(max_tiles or 12)), int(max_images)))
    # An embedded decoder starts its own ranks.
    return runtime, 1 if decoder.backend == "python" else _world_size(folder, len(gpus()))


def _world_size(folder: Path, visible_gpus: int) -> int:
    """Of none it is not known whether they are there: they are counted by a tool that may be missing."""
    try:
        config = json.loads((folder / "decoder" / "checkpoint" / "config.json").read_text(encoding="utf-8"))
        mapping = config["mapping"]
        world_size, gpus_per_node = int(mapping["world_size"]), int(mapping.get("gpus_per_node", DEFAULT_PER_NODE))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise ArtefactError(
            "E-ARTEFACT-DECODER", "The decoder checkpoint does not say of how many ranks it is.", "Build it again."
        ) from None
    wanted = min(world_size, gpus_per_node)
    if 0 < visible_gpus < wanted:
        raise MissingToolError(
            "E-TOOL-GPU",
            f"The decoder was built for machines with {wanted} GPUs; this one shows {visible_gpus}.",
            "Make the others visible, or build it with another gpu.count or gpu.nodes.",
        )
    return world_size
