"""TensorRT and TensorRT-RTX: one API under two module names, and their few differences."""

from __future__ import annotations

import ctypes
import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from nvlm_trt.errors import MissingToolError

__all__ = ["TENSORRT_KINDS", "TensorRtKind", "gpu_compute_capability", "load_tensorrt"]


@dataclass(frozen=True, slots=True)
class TensorRtKind:
    """``ahead_of_time`` builders need no GPU and take compute capabilities; the other builds, with a timing cache, for
    the GPU it runs on."""

    module: str
    title: str
    ahead_of_time: bool
    how_to_get: str


TENSORRT_KINDS: Mapping[str, TensorRtKind] = MappingProxyType(
    {
        "tensorrt": TensorRtKind(
            "tensorrt",
            "TensorRT",
            ahead_of_time=False,
            how_to_get="Run this step in the recipe's container, which has it.",
        ),
        "tensorrt_rtx": TensorRtKind(
            "tensorrt_rtx",
            "TensorRT-RTX",
            ahead_of_time=True,
            how_to_get="Install it with: pip install 'nvlm-trt[rtx]'.",
        ),
    }
)


def load_tensorrt(kind: TensorRtKind) -> Any:
    """The module. Raises ``MissingToolError`` E-TOOL-TENSORRT."""
    try:
        return importlib.import_module(kind.module)
    except (ImportError, OSError):  # OSError: the wheel is there, a library it needs is not
        raise MissingToolError("E-TOOL-TENSORRT", f"This machine has no {kind.title}.", kind.how_to_get) from None


def gpu_compute_capability() -> str:
    """Of the first visible GPU, as "9.0", asked of the driver. Raises ``MissingToolError`` E-TOOL-GPU."""
    attributes = (75, 76)  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR and _MINOR
    numbers = [ctypes.c_int() for _ in attributes]
    device = ctypes.c_int()
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        raise _no_gpu() from None
    failures = [driver.cuInit(0), driver.cuDeviceGet(ctypes.byref(device), 0)]
    for number, attribute in zip(numbers, attributes, strict=True):
        failures.append(driver.cuDeviceGetAttribute(ctypes.byref(number), attribute, device))
    if any(failures):
        raise _no_gpu()
    return ".".join(str(number.value) for number in numbers)


def _no_gpu() -> MissingToolError:
    return MissingToolError(
        "E-TOOL-GPU", "This machine shows no NVIDIA GPU.", "Run this step on the GPU machine, or use another engine."
    )
