"""Whether the graph computes what the checkpoint means, judged link by link and stage by stage.

    torch float64 ── torch float32 ── ONNX Runtime float32
                           │
                           └───────── torch in the graph's dtype ── engine

A chain is one way of running the same weights: it gives each stage's name and values in order. A link compares two
chains. The first link shows how exact the oracle itself is; the second, whether the graph is the same model; the third,
what the narrow dtype costs and so what an engine may cost; the fourth, whether the engine costs more. The tight
tolerance of the second is what finds a wrong graph: the third's would let an approximated GELU pass.

Tolerances are on the relative error, the norm of the difference divided by the norm of the expected value: one number
that does not depend on a single value, and that grows with the square root of the number of roundings, so it can be
derived. The cosine is reported beside it because others report it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nvlm_trt.vision.dtype import GraphDtype
from nvlm_trt.vision.parity_report import LinkReport, ParityReport, StageDifference

__all__ = [
    "ENGINE",
    "GRAPH_FLOAT32",
    "TORCH_FLOAT32",
    "TORCH_FLOAT64",
    "Chain",
    "Link",
    "compare_chains",
    "difference",
    "links_for",
]

Chain = Iterator[tuple[str, NDArray[Any]]]
"""Stage names and their values, [tiles, ...], in the model's order; a chain may leave stages out."""

TORCH_FLOAT64, TORCH_FLOAT32, GRAPH_FLOAT32, ENGINE = (
    "torch float64",
    "torch float32",
    "ONNX Runtime float32",
    "engine",
)

# Half a step of the significand: the most one rounding changes a value, relative to it.
_ROUNDING = {"float32": 2.0**-24, "bfloat16": 2.0**-9, "float16": 2.0**-12}
# The projector's inner width. A sum of n terms of random sign grows with the root of k over its terms k, and a rounding
# error is evenly spread up to the half step: together the root of n / 6 half steps, relative to the sum.
_LONGEST_SUM = 29568


@dataclass(frozen=True, slots=True)
class Link:
    """``tolerance`` is the largest relative error, from the number of layers run so far."""

    seen: str
    wanted: str
    reason: str
    scale: float
    grows: bool

    def tolerance(self, num_layers: int) -> float:
        return self.scale * (math.sqrt(1 + num_layers) if self.grows else 1.0)


def links_for(dtype: GraphDtype) -> tuple[Link, ...]:
    """The links that are to hold for a graph that computes in ``dtype``; none of the narrow ones for float32."""
    exact = Link(
        TORCH_FLOAT32,
        TORCH_FLOAT64,
        f"Sums of up to {_LONGEST_SUM} terms, each rounded by up to 2^-24 of the sum so far.",
        math.sqrt(_LONGEST_SUM / 6) * _ROUNDING["float32"],
        grows=False,
    )
    graph = Link(
        GRAPH_FLOAT32,
        TORCH_FLOAT32,
        "Both are as exact as the link above, and their errors are independent.",
        math.sqrt(2) * exact.scale,
        grows=False,
    )
    if dtype == "float32":
        return exact, graph
    narrow = Link(
        f"torch {dtype}",
        TORCH_FLOAT32,
        f"Four roundings of half a step of {dtype} a layer reach the residual stream, and add up as their root.",
        4 * _ROUNDING[dtype],
        grows=True,
    )
    engine = Link(
        ENGINE,
        TORCH_FLOAT32,
        "An engine rounds where the graph does or less often, so it may be no further off than twice torch's bound.",
        2 * narrow.scale,
        grows=True,
    )
    return exact, graph, narrow, engine


def compare_chains(
    links: Sequence[Link],
    chains: Mapping[str, Chain],
    kinds: Mapping[str, slice],
    not_run: Mapping[str, str] | None = None,
) -> ParityReport:
    """Run all chains in step, so that only one stage's values are held, and compare what ``links`` name.

    ``kinds`` names parts of the tile axis, which are judged each by itself ("pictures", "noise"). ``not_run`` says of
    a chain that is not in ``chains`` why; the report repeats it, so that nothing unproven looks proven.
    Raises ``ValueError`` for a chain with stages that the torch float32 chain does not have, or out of order.
    """
    waiting = {name: next(chain, None) for name, chain in chains.items() if name != TORCH_FLOAT32}
    found: dict[Link, list[StageDifference]] = {link: [] for link in links}
    num_layers = 0
    for stage, values in chains[TORCH_FLOAT32]:
        num_layers += stage.startswith("layers.")
        given = {TORCH_FLOAT32: values}
        for name, item in waiting.items():
            if item is not None and item[0] == stage:
                given[name] = item[1]
        for link in links:
            if link.seen in given and link.wanted in given:
                found[link] += _stage(link, stage, num_layers, given, kinds)
        for name in given.keys() - {TORCH_FLOAT32}:
            waiting[name] = next(chains[name], None)
    left = {name: item[0] for name, item in waiting.items() if item is not None}
    if left:
        raise ValueError(f"stages that the reference does not have, or out of order: {left}")
    reports = []
    for link in links:
        missing = [name for name in (link.seen, link.wanted) if name not in chains]
        why = "; ".join((not_run or {}).get(name, f"{name} was not asked for") for name in missing)
        reports.append(LinkReport(link.seen, link.wanted, link.reason, tuple(found[link]), why))
    return ParityReport(tuple(reports))


def _stage(
    link: Link, stage: str, num_layers: int, given: Mapping[str, NDArray[Any]], kinds: Mapping[str, slice]
) -> Iterator[StageDifference]:
    seen, wanted = given[link.seen], given[link.wanted]
    if seen.shape != wanted.shape:
        raise ValueError(f"{stage} is {seen.shape} in {link.seen} and {wanted.shape} in {link.wanted}")
    for kind, part in kinds.items():
        relative_error, cosine = difference(seen[part], wanted[part])
        yield StageDifference(stage, kind, relative_error, cosine, link.tolerance(num_layers))


def difference(seen: NDArray[Any], wanted: NDArray[Any]) -> tuple[float, float]:
    """The relative error and the cosine, summed in float64; infinite and 0 where a value is not a number."""
    one, other = seen.astype(np.float64).ravel(), wanted.astype(np.float64).ravel()
    if not (np.isfinite(one).all() and np.isfinite(other).all()):
        return math.inf, 0.0
    distance, lengths = float(np.linalg.norm(one - other)), (float(np.linalg.norm(one)), float(np.linalg.norm(other)))
    if distance == 0:
        return 0.0, 1.0
    if 0 in lengths:
        return math.inf, 0.0
    return distance / lengths[1], float(one @ other) / (lengths[0] * lengths[1])
