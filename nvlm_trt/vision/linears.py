"""The linears of the vision half: their names, their shapes, and which of them compute in FP8.

Recipes and plans read this; it loads no ONNX.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence

from nvlm_trt.errors import UsageError
from nvlm_trt.model.config import VisionConfig

__all__ = ["PROJECTOR", "linear_shapes", "linears", "select_linears"]

# A tenth of the weights, and all of the rows pass through it last: what its rounding costs nothing evens out.
PROJECTOR = ("mlp1.*",)


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
