"""What this machine has for building GPU engines: looked up, never loaded."""

from __future__ import annotations

import functools
import importlib.metadata
import importlib.util
import shutil
import subprocess
from dataclasses import dataclass

__all__ = [
    "Gpu",
    "gpus",
    "has_module",
    "lacking_tensorrt",
    "lacking_tensorrt_rtx",
    "lacking_trtllm_build",
    "version_of",
]


@dataclass(frozen=True, slots=True)
class Gpu:
    name: str
    memory_mib: int
    driver: str
    compute_capability: str


@functools.cache
def gpus() -> tuple[Gpu, ...]:
    """The NVIDIA GPUs that the driver shows, none when there is no driver."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return ()
    query = [tool, "--query-gpu=name,memory.total,driver_version,compute_cap", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ()
    rows = [[cell.strip() for cell in line.split(",")] for line in done.stdout.splitlines()]
    return tuple(Gpu(r[0], int(r[1]), r[2], r[3]) for r in rows if len(r) == 4 and r[1].isdigit())


def lacking_tensorrt() -> str | None:
    """Why a TensorRT plan cannot be built here, or None."""
    if not gpus():
        return "a TensorRT plan is built on the GPU it runs on, and this machine has none"
    return None if has_module("tensorrt") else "the TensorRT Python package is not installed"


def lacking_tensorrt_rtx() -> str | None:
    """Why a TensorRT-RTX engine cannot be built here, or None. It needs no GPU."""
    return None if has_module("tensorrt_rtx") else "the TensorRT-RTX Python package is not installed"


def lacking_trtllm_build() -> str | None:
    """Why a TensorRT-LLM engine cannot be built here, or None."""
    if not gpus():
        return "a TensorRT-LLM engine is built on the GPU it runs on, and this machine has none"
    return None if shutil.which("trtllm-build") else "trtllm-build is not installed"


def has_module(name: str) -> bool:
    return importlib.util.find_spec(name) is not None


def version_of(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None
