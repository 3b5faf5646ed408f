"""A point of a report as a recipe for ``build`` and ``plan``."""

from __future__ import annotations

from collections.abc import Sequence

import pydantic

from nvlm_trt.errors import UsageError
from nvlm_trt.pipeline.recipe import RecipeDraft
from nvlm_trt.precision.spec import parse_precision
from nvlm_trt.report.configuration import Configuration
from nvlm_trt.report.figures import FIGURES
from nvlm_trt.report.points import Point
from nvlm_trt.report.scale import shown
from nvlm_trt.vision.linears import PROJECTOR

__all__ = ["chosen_point", "recipe_of"]


def chosen_point(points: Sequence[Point], name: str) -> Point:
    """The point with that name. Of a configuration's name alone, its point with the first load.

    Raises ``UsageError`` E-REPORT-POINT.
    """
    for point in points:
        if name in (point.name, point.configuration.name):
            return point
    names = list(dict.fromkeys(point.name for point in points))
    listed = (
        ", ".join(names[:12]) + (", ..." if len(names) > 12 else "") or "none: no score and latency belong together"
    )
    raise UsageError("E-REPORT-POINT", f"There is no point {name!r}.", f"The points are: {listed}.")


def recipe_of(point: Point, base: RecipeDraft, figure: str) -> RecipeDraft:
    """``base`` with the point's precision and tile limit.

    Raises ``UsageError`` E-REPORT-POINT where the two contradict each other.
    """
    configuration, spread = point.configuration, point.latency.summary[figure]
    precision = parse_precision(configuration.precision)
    score = point.accuracy.score
    data = base.model_dump()
    data["name"] = f"{base.name}-chosen"
    data["description"] = (
        f"Chosen from a report: {point.accuracy.task} {score.value:.2f} [{score.low:.2f}, {score.high:.2f}], "
        f"{FIGURES[figure]} {shown(spread.median)}, {point.name}."
    )
    data["decoder"] |= {
        "quantization": precision.quantization,
        "kv_cache": precision.kv_cache,
        "exclude": precision.exclude,
        "force_kv_cache": False,
    }
    if precision.quantization == "none":
        data["decoder"]["unified_checkpoint"] = False
        data["calibration"]["error_bound"] = None
    data["prompt"]["max_tiles"] = configuration.max_tiles
    data["vision"] |= _vision(configuration, data["vision"])
    try:
        return RecipeDraft.model_validate(data)
    except pydantic.ValidationError as error:
        why = error.errors(include_url=False)[0]["msg"].removeprefix("Value error, ")
        raise UsageError(
            "E-REPORT-POINT", f"The recipe {base.name} cannot be {point.name}: {why}.", "Name another with --base."
        ) from None


def _vision(configuration: Configuration, base: dict[str, object]) -> dict[str, object]:
    if configuration.vision_precision == "fp8":
        return {"quantization": "fp8"}
    plain: dict[str, object] = {"quantization": "none", "dtype": configuration.vision_precision}
    if base["quantization"] == "fp8":
        plain["exclude"] = PROJECTOR
    return plain
