"""Where and on what a measurement was made."""

from __future__ import annotations

import json
import os
import platform
import shlex
import sys
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from nvlm_trt.load.provenance import Circumstances, Deployed
from nvlm_trt.model.config import NvlmConfig
from nvlm_trt.model.json_file import read_json_object
from nvlm_trt.pipeline.deployment import open_deployment
from nvlm_trt.pipeline.digests import sha256_json
from nvlm_trt.pipeline.manifest import MANIFEST
from nvlm_trt.pipeline.recipe import Recipe

__all__ = ["circumstances", "deployed"]

_PACKAGES = (
    *("nvlm-trt", "numpy", "onnx", "onnxruntime", "llvmlite", "torch", "pillow", "simplejpeg"),
    *("nvidia-pytriton", "tritonclient", "grpcio", "aiohttp", "h11", "starlette", "uvicorn"),
)


def circumstances(server: str | None = None) -> Circumstances:
    """Of this process, now."""
    return Circumstances(
        date=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        cpu=_cpu_name(),
        cores=len(os.sched_getaffinity(0)),
        memory_bytes=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        system=f"{platform.system()} {platform.release()}",
        python=platform.python_version(),
        packages={name: found for name in _PACKAGES if (found := _version(name))},
        command=_command(),
        server=server,
    )


def deployed(folder: Path, checkpoint: Path | None = None) -> Deployed:
    """What the deployment in ``folder`` is. Raises as ``open_deployment`` does."""
    open_deployment(folder, checkpoint)
    manifest = json.loads((folder / MANIFEST).read_bytes())
    recipe = Recipe.model_validate_json(json.dumps(manifest["recipe"]))
    config = NvlmConfig.from_json(read_json_object(folder / "model" / "config.json", "CONFIG"))
    return Deployed(
        manifest_sha256=sha256_json(manifest),
        recipe=recipe.name,
        decoder_engine=recipe.decoder.engine,
        decoder_precision=_precision(recipe.decoder.quantization, config.dtype),
        kv_cache=recipe.decoder.kv_cache,
        decoder_exclude=recipe.decoder.exclude,
        vision_engine=recipe.vision.engine,
        vision_precision=_precision(recipe.vision.quantization, recipe.vision.dtype),
        max_tiles=config.limited(recipe.prompt.max_tiles).tiling.max_tiles,
        tile_size=config.tiling.tile_size,
        max_batch_size=recipe.decoder.max_batch_size,
    )


def _command() -> str:
    """As it was typed, without where the program lies."""
    program, *words = sys.argv
    own = Path(program).name in ("nvlm-trt", "__main__.py")
    return shlex.join(["nvlm-trt", *words] if own else ["python", program, *words])


def _precision(quantization: str, dtype: str) -> str:
    return quantization if quantization != "none" else dtype


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
