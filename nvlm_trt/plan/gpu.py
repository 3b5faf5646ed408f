"""The GPUs a recipe may name, with the figures of their makers' data sheets.

Memory is the data sheet's capacity, in bytes of 10^9 per GB; drivers report a little more, which is left to them. Rates
are dense: half of the figures that are printed "with sparsity".
"""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType

__all__ = ["GPUS", "GpuModel"]


@dataclass(frozen=True, slots=True)
class GpuModel:
    """``nvlink_bytes_s`` is one direction. ``source`` is the public document the numbers are from."""

    name: str
    memory_bytes: int
    bandwidth_bytes_s: float
    fp8_flops: float
    bf16_flops: float
    nvlink_bytes_s: float
    compute_capability: str
    source: str


_H100 = GpuModel(
    name="H100-80GB",
    memory_bytes=80_000_000_000,
    bandwidth_bytes_s=3.35e12,
    fp8_flops=1.979e15,
    bf16_flops=0.989e15,
    nvlink_bytes_s=450e9,
    compute_capability="9.0",
    source="NVIDIA H100 Tensor Core GPU data sheet, column H100 SXM",
)
_H200 = GpuModel(
    name="H200-141GB",
    memory_bytes=141_000_000_000,
    bandwidth_bytes_s=4.8e12,
    fp8_flops=1.979e15,
    bf16_flops=0.989e15,
    nvlink_bytes_s=450e9,
    compute_capability="9.0",
    source="NVIDIA H200 Tensor Core GPU data sheet, column H200 SXM",
)

GPUS = MappingProxyType({gpu.name: gpu for gpu in (_H100, _H200)})
