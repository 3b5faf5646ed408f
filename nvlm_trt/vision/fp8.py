"""Which linears of the vision half can compute in FP8, and under which scales.

W8A8: weights and inputs of a linear are e4m3, each under one scale for the whole tensor, static. The arithmetic is the
decoder's (``nvlm_trt.decoder.fp8``), with one difference. ONNX wants a scale in the dtype that the linear computes in,
so it is rounded there, and the weight is quantised under the rounded scale. Rounding a scale clips nothing: bfloat16
moves it by at most 0.4 %, and whatever lies below 464 / 448 of the largest number still rounds to that number.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence
from dataclasses import dataclass

import ml_dtypes
import numpy as np

from nvlm_trt.decoder import fp8
from nvlm_trt.errors import UsageError
from nvlm_trt.model.config import VisionConfig
from nvlm_trt.vision.dtype import NUMPY_DTYPE, GraphDtype

__all__ = ["PROJECTOR", "LinearScales", "linear_shapes", "linears", "scale_in", "select_linears"]

# A tenth of the weights, and all of the rows pass through it last: what its rounding costs nothing evens out.
PROJECTOR = ("mlp1.*",)


@dataclass(frozen=True, slots=True)
class LinearScales:
    """Multipliers that restore what enters a linear and its weight, exact in the graph's dtype."""

    input: float
    weight: float


def linears(config: VisionConfig) -> list[str]:
    """The names of all linears, as the checkpoint has them without ``.weight``, in the order in which they compute.

    The patch embedding is not among them: pixels are few, and their rounding would reach everything.
    """
    return list(linear_shapes(config))


def linear_shapes(config: VisionConfig) -> dict[str, tuple[int, int]]:
    """(out, in) of each of the ``linears``, without dummy heads."""
    width, inner = config.hidden_size, config.intermediate_size
    shapes = {
        f"vision_model.encoder.layers.{index}.{name}": shape
        for index in range(config.num_layers)
        for name, shape in (
            ("attn.qkv", (3 * width, width)),
            ("attn.proj", (width, width)),
            ("mlp.fc1", (inner, width)),
            ("mlp.fc2", (width, inner)),
        )
    }
    shapes["mlp1.1"] = (config.projector_hidden_size, config.shuffled_width)
    shapes["mlp1.3"] = (config.output_size, config.projector_hidden_size)
    return shapes


def select_linears(config: VisionConfig, exclude: Sequence[str]) -> list[str]:
    """All linears but those that a pattern names: a case-sensitive glob on the whole name.

    Raises ``UsageError`` E-RECIPE-EXCLUDE for a pattern that matches none, or where nothing is left.
    """
    names = linears(config)
    for pattern in exclude:
        if not any(fnmatch.fnmatchcase(name, pattern) for name in names):
            raise UsageError(
                "E-RECIPE-EXCLUDE",
                f"The pattern {pattern!r} matches none of the vision linears.",
                f"Names run from {names[0]} to {names[-1]}; * and ? are wildcards.",
            )
    kept = [name for name in names if not any(fnmatch.fnmatchcase(name, pattern) for pattern in exclude)]
    if not kept:
        raise UsageError(
            "E-RECIPE-EXCLUDE",
            "The patterns exclude every vision linear.",
            "Exclude fewer, or export without quantization.",
        )
    return kept


def scale_in(largest: np.float32, dtype: GraphDtype) -> np.float32:
    """The scale for a tensor whose magnitudes reach ``largest``, rounded to ``dtype`` and never below its normal range.

    Only float16 has such scales: those of tensors below 0.027, whose scale of 6e-5 then leaves them e4m3's lower
    numbers.
    """
    target = NUMPY_DTYPE[dtype]
    scale = fp8.scale_for(largest).astype(target).astype(np.float32)
    return np.float32(max(scale, np.float32(ml_dtypes.finfo(target).tiny)))
