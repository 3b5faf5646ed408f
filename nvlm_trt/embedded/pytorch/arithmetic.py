"""The number formats that the torch runner computes in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["DEFAULT_ARITHMETIC", "Arithmetic"]


@dataclass(frozen=True, slots=True)
class Arithmetic:
    """``dtype`` None is the checkpoint's on CUDA and float32 on the CPU. ``fp8`` None uses FP8 hardware where there is
    any.

    Without ``quantize_activations`` only weights are FP8, and no product is done by FP8 hardware.
    """

    dtype: Literal["bfloat16", "float16", "float32"] | None = None
    fp8: Literal["hardware", "emulated"] | None = None
    quantize_activations: bool = True


DEFAULT_ARITHMETIC = Arithmetic()
