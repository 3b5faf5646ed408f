"""The scales with which linears of the vision half compute in FP8.

W8A8: weights and inputs of a linear are e4m3, each with one static scale for the whole tensor. The arithmetic is the
decoder's (``nvlm_trt.decoder.fp8``), with one difference. ONNX wants a scale in the dtype that the linear computes in,
so it is rounded there, and the weight is quantised under the rounded scale. Rounding a scale clips nothing: bfloat16
moves it by at most 0.4 %, and whatever lies below 464 / 448 of the largest number still rounds to that number.
"""

from __future__ import annotations

from dataclasses import dataclass

import ml_dtypes
import numpy as np

from nvlm_trt.decoder import fp8
from nvlm_trt.vision.dtype import NUMPY_DTYPE, GraphDtype

__all__ = ["LinearScales", "scale_in"]


@dataclass(frozen=True, slots=True)
class LinearScales:
    """Multipliers that restore what enters a linear and its weight, exact in the graph's dtype."""

    input: float
    weight: float


def scale_in(largest: np.float32, dtype: GraphDtype) -> np.float32:
    """The scale for a tensor whose magnitudes reach ``largest``, rounded to ``dtype`` and never below its normal range.

    Only float16 has such scales: those of tensors below 0.027, whose scale of 6e-5 then leaves them e4m3's lower
    numbers.
    """
    target = NUMPY_DTYPE[dtype]
    scale = fp8.scale_for(largest).astype(target).astype(np.float32)
    return np.float32(max(scale, np.float32(ml_dtypes.finfo(target).tiny)))
