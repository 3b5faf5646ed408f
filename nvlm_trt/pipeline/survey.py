"""Everything worth knowing about this machine: what is there, what each thing is for, how to get what is missing."""

from __future__ import annotations

import shutil
import sys
import sysconfig
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nvlm_trt.deploy.runtime import find_runtime
from nvlm_trt.errors import MissingToolError
from nvlm_trt.pipeline.machine import gpus, has_module, version_of

__all__ = ["Tool", "survey"]

_SHM = Path("/dev/shm")
# Thirteen tiles in and out of two models, 1.7 times, with room: what Triton's Python models share memory through.
_SHM_WANTED_BYTES = 256 << 20


@dataclass(frozen=True, slots=True)
class Tool:
    """One thing a machine may have. ``detail`` is its version, or what was seen instead."""

    name: str
    found: bool
    detail: str
    enables: str
    get: str

    def to_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "found": self.found,
            "detail": self.detail,
            "enables": self.enables,
            "get": "" if self.found else self.get,
        }


def survey() -> list[Tool]:
    """Everything worth knowing, in the order a build and a server need it. Never fails."""
    return [_safely(look) for look in _LOOKS]


def _safely(look: Callable[[], Tool]) -> Tool:
    try:
        return look()
    except Exception as error:  # a broken installation is a finding, not a failure
        return Tool(look.__name__.strip("_"), False, f"cannot be looked at ({type(error).__name__})", "", "")


def _python() -> Tool:
    version = f"{sys.version_info.major}.{sys.version_info.minor}.{sys.version_info.micro}"
    good = sys.version_info[:2] in {(3, 11), (3, 12)}
    return Tool("Python", good, version, "everything", "Install Python 3.11 or 3.12.")


def _gpu() -> Tool:
    found = gpus()
    detail = "; ".join(f"{g.name}, {g.memory_mib} MiB, compute capability {g.compute_capability}" for g in found)
    get = "Build the GPU engines on a machine with a Hopper GPU; everything else is built here."
    return Tool("GPU", bool(found), detail or "none", "TensorRT and TensorRT-LLM engines", get)


def _driver() -> Tool:
    found = gpus()
    get = "Install NVIDIA's driver, R580 or newer for TensorRT-LLM 1.2."
    return Tool("NVIDIA driver", bool(found), found[0].driver if found else "none", "the GPU", get)


def _tensorrt() -> Tool:
    get = "Run the build inside the recipe's container; it brings TensorRT 10.14.1."
    return _distribution("TensorRT", "tensorrt", "tensorrt", "the vision plan of a Hopper deployment", get)


def _trtllm() -> Tool:
    path = shutil.which("trtllm-build")
    version = version_of("tensorrt_llm") or ("found" if path else "not installed")
    get = "Run the build inside the recipe's container; it brings TensorRT-LLM 1.2.1."
    return Tool("TensorRT-LLM", path is not None, version, "the decoder engine of a GPU deployment", get)


def _rtx() -> Tool:
    get = "pip install 'nvlm-trt[rtx]'"
    return _distribution(
        "TensorRT-RTX", "tensorrt_rtx", "tensorrt_rtx_cu13", "vision engines for RTX and L40S cards", get
    )


def _triton() -> Tool:
    name, enables = "Triton server", "serve, ask DIR and the demo on this machine"
    try:
        runtime = find_runtime()
    except MissingToolError as error:
        return Tool(name, False, error.what, enables, error.fix)
    wheel = version_of("nvidia-pytriton")
    return Tool(name, True, f"nvidia-pytriton {wheel}" if wheel else str(runtime.server), enables, "")


def _libpython() -> Tool:
    name = sysconfig.get_config_var("INSTSONAME") or sysconfig.get_config_var("LDLIBRARY") or ""
    minor = f"{sys.version_info.major}.{sys.version_info.minor}"
    shared = f"libpython{minor}.so.1.0"
    folders = [
        Path(sysconfig.get_config_var("LIBDIR") or "/usr/lib"),
        Path("/usr/lib"),
        Path("/usr/lib/x86_64-linux-gnu"),
    ]
    file = next((folder / shared for folder in folders if (folder / shared).is_file()), None)
    get = f"On Debian: apt-get install libpython{minor}. With pyenv: build Python with --enable-shared."
    return Tool("libpython", file is not None, shared if file else f"only {name}", "Triton's Python models", get)


def _numpy() -> Tool:
    version = version_of("numpy") or ""
    good = version.startswith("1.")
    get = "pip install 'numpy>=1.26.4,<2': the stubs of Triton 2.51 pass empty tensors with numpy 2."
    return Tool("numpy", good, version or "not installed", "Triton's Python models (they need numpy 1)", get)


def _shared_memory() -> Tool:
    free = shutil.disk_usage(_SHM).free if _SHM.is_dir() else 0
    get = f"Give {_SHM} at least {_SHM_WANTED_BYTES >> 20} MiB: docker run --shm-size=1g."
    return Tool(str(_SHM), free >= _SHM_WANTED_BYTES, f"{free >> 20} MiB free", "tiles between Triton's models", get)


def _onnxruntime() -> Tool:
    return _distribution("ONNX Runtime", "onnxruntime", "onnxruntime", "the embedded engines", "pip install nvlm-trt")


def _fast() -> Tool:
    found = has_module("simplejpeg") and has_module("llvmlite")
    versions = ", ".join(f"{name} {version_of(name) or 'not installed'}" for name in ("simplejpeg", "llvmlite"))
    get = "pip install 'nvlm-trt[fast]' where the server runs; Pillow and ONNX Runtime do the same work meanwhile."
    return Tool(
        "compiled code", found, versions, "pictures in a quarter of the time, the embedded decoder in half", get
    )


def _torch() -> Tool:
    get = "pip install 'nvlm-trt[torch]'"
    return _distribution("torch", "torch", "torch", "the reference modules the tests compare with", get)


_LOOKS: tuple[Callable[[], Tool], ...] = (
    *(_python, _gpu, _driver, _tensorrt, _trtllm, _rtx),
    *(_triton, _libpython, _numpy, _shared_memory, _onnxruntime, _fast, _torch),
)


def _distribution(name: str, module: str, distribution: str, enables: str, get: str) -> Tool:
    found = has_module(module)
    version = version_of(distribution) or "version unknown"
    return Tool(name, found, version if found else "not installed", enables, get)
