"""Whether a deployment's GPU engines are for this machine: GPUs, TensorRT, TensorRT-LLM."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nvlm_trt.decoder.engine_check import engine_version
from nvlm_trt.pipeline.machine import Gpu, gpus, version_of
from nvlm_trt.pipeline.manifest import Manifest

__all__ = ["EngineDifference", "Here", "engine_differences", "this_machine"]


@dataclass(frozen=True, slots=True)
class Here:
    """What this machine has; a version is None where the package is not installed."""

    gpus: tuple[Gpu, ...]
    tensorrt: str | None
    tensorrt_rtx: str | None
    tensorrt_llm: str | None


@dataclass(frozen=True, slots=True)
class EngineDifference:
    part: str
    built: str
    here: str
    step: str


def this_machine() -> Here:
    rtx = next((version for name in ("tensorrt_rtx_cu13", "tensorrt_rtx") if (version := version_of(name))), None)
    return Here(gpus(), version_of("tensorrt"), rtx, version_of("tensorrt_llm"))


def engine_differences(out: Path, manifest: Manifest, here: Here) -> Iterator[EngineDifference]:
    """Each difference keeps an engine from running here. Engines that were not built, or are gone, are ignored."""
    if "vision.engine" in manifest.steps:
        info = _read_json(out / "vision" / "vision.plan.json")
        name = {"tensorrt": "TensorRT", "tensorrt_rtx": "TensorRT-RTX"}.get(str(info.get("module")), "TensorRT")
        version = here.tensorrt_rtx if info.get("module") == "tensorrt_rtx" else here.tensorrt
        yield from _version("vision.engine", name, info.get("version"), version)
        yield from _capability("vision.engine", info.get("compute_capabilities") or (), here)
    if "decoder.engine" in manifest.steps:
        folder = out / "decoder" / "engine"
        yield from _version("decoder.engine", "TensorRT-LLM", engine_version(folder), here.tensorrt_llm)
        built_on = _read_json(folder / "built_on.json").get("compute_capability")
        yield from _capability("decoder.engine", (built_on,) if built_on else (), here)


def _version(step: str, name: str, built: Any, here: str | None) -> Iterator[EngineDifference]:
    if isinstance(built, str) and built != here:
        yield EngineDifference(name, built, here or "not installed", step)


def _capability(step: str, built: Any, here: Here) -> Iterator[EngineDifference]:
    wanted = [str(one) for one in built]
    if not wanted:
        return
    seen = sorted({gpu.compute_capability for gpu in here.gpus})
    if not seen or not set(seen) <= set(wanted):
        part = f"GPU of {step}"
        capability = f"compute capability {', '.join(seen)}" if seen else "none"
        yield EngineDifference(part, f"compute capability {', '.join(wanted)}", capability, step)


def _read_json(file: Path) -> dict[str, Any]:
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return data if isinstance(data, dict) else {}
