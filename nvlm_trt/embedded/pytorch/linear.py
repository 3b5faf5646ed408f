"""A layer's linears: on FP8 hardware, or the same arithmetic without it.

Both compute ``(e4m3(x / x_scale) @ stored.T) * (x_scale * w_scale)``, as an FP8 engine and the ONNX graph of
``embedded.graph`` do. The operation that makes ``x`` also quantises it, as the linear's ``input`` says, so rounding
costs no pass of its own; a linear without ``input`` takes ``x`` as it is.

Every e4m3 number is a bfloat16 number. So without FP8 hardware the stored weights are widened once, to the compute
dtype, and lose nothing. float16 cannot hold the unscaled sums, 448 * 448 at a time, so there they are float32.

With one scale per tensor, ``torch._scaled_mm`` of torch 2.13 needs ``x`` by rows, the weight by columns, both of the
weight's dimensions multiples of 16, and scales in float32. It asks nothing of the number of rows, so none are added.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn.functional import linear

from nvlm_trt.embedded.pytorch.ops import Fp8Input
from nvlm_trt.embedded.pytorch.weights import WeightSource

__all__ = ["Fp8Linear", "Linear", "LinearLoader", "PlainLinear"]

_ALIGNMENT = 16


class Linear(Protocol):
    @property
    def input(self) -> Fp8Input | None:
        """None where the input is not quantised."""

    def __call__(self, x: Tensor) -> Tensor:
        """[rows, in] to [rows, out] in the compute dtype."""


@dataclass(frozen=True, slots=True)
class PlainLinear:
    """``restore``, float32 [] or [out], is what the product still has to be multiplied by."""

    weight: Tensor
    dtype: torch.dtype
    input: Fp8Input | None = None
    restore: Tensor | None = None

    def __call__(self, x: Tensor) -> Tensor:
        product = linear(x.to(self.weight.dtype), self.weight)
        return (product if self.restore is None else product * self.restore).to(self.dtype)


@dataclass(frozen=True, slots=True)
class Fp8Linear:
    """``ratio`` [out] is there where fused linears have different weight scales, relative to ``weight_scale``."""

    weight: Tensor
    dtype: torch.dtype
    input: Fp8Input
    weight_scale: Tensor
    ratio: Tensor | None = None

    def __call__(self, x: Tensor) -> Tensor:
        product = torch._scaled_mm(
            x, self.weight.T, scale_a=self.input.scale, scale_b=self.weight_scale, out_dtype=self.dtype
        )
        return product if self.ratio is None else product * self.ratio


@dataclass(frozen=True, slots=True)
class LinearLoader:
    """``hardware`` asks for FP8 matrix products by the device, for quantised linears of a shape it takes."""

    source: WeightSource
    quantized: frozenset[str]
    device: torch.device
    dtype: torch.dtype
    hardware: bool
    quantize_activations: bool

    def load(self, names: Sequence[str], shape: tuple[int, int]) -> Linear:
        """Linears over one input, each of ``shape`` (out, in), as one with their outputs side by side."""
        out, width = shape
        quantized = names[0] in self.quantized
        fp8 = quantized and self.quantize_activations and self.hardware and not (out % _ALIGNMENT or width % _ALIGNMENT)
        stored_dtype = self.dtype
        if quantized:
            widened = torch.bfloat16 if self.dtype == torch.bfloat16 else torch.float32
            stored_dtype = torch.float8_e4m3fn if fp8 else widened
        weight = torch.empty(len(names) * out, width, dtype=stored_dtype, device=self.device)
        for index, name in enumerate(names):
            self.source.fill(f"{name}.weight", weight[index * out : (index + 1) * out])
        if not quantized:
            return PlainLinear(weight, self.dtype)
        scales = self._scales(names, "weights_scaling_factor")
        alike = bool((scales == scales[0]).all())
        restore = scales[0].clone() if alike else scales.repeat_interleave(out)
        if not self.quantize_activations:
            return PlainLinear(weight, self.dtype, None, restore)
        # Under the larger of their scales, as the engine's builder keeps it when it fuses fc and gate.
        x = Fp8Input(self._scales(names, "activation_scaling_factor").max(), stored_dtype)
        if not fp8:
            return PlainLinear(weight, self.dtype, x, restore * x.scale)
        ratio = None if alike else (scales / scales[0]).repeat_interleave(out).to(self.dtype)
        return Fp8Linear(weight, self.dtype, x, scales[0].clone(), ratio)

    def _scales(self, names: Sequence[str], kind: str) -> Tensor:
        scales = torch.empty(len(names), dtype=torch.float32, device=self.device)
        for index, name in enumerate(names):
            self.source.fill(f"{name}.{kind}", scales[index : index + 1])
        return scales
