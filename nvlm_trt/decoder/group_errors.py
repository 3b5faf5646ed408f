"""Measures what rounding each linear group of one layer to FP8 does, to the group's own output and to the layer's.

All groups are tried in one walk through the layer: what is exact is computed once and shared, and after a rounded group
only the way to the layer's output is computed again.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

from nvlm_trt.decoder.layer import DecoderLayer

__all__ = ["GroupErrors"]


class GroupErrors:
    """``LayerWork``: what rounding each group of one layer alone does, own output and layer's."""

    def __init__(self, exact: DecoderLayer, rounded: DecoderLayer) -> None:
        self._exact = exact
        self._rounded = rounded
        self._energies: dict[str, float] = {}

    def run(self, hidden: Any, lengths: Sequence[int]) -> Any:
        exact, rounded = self._exact, self._rounded
        x = exact.attention_input(hidden)
        q_k_v, rounded_q_k_v = exact.qkv(x), rounded.qkv(x)
        self._own("qkv", q_k_v, rounded_q_k_v)
        attended = exact.attended(*exact.rotated(*q_k_v, lengths), lengths)
        dense = exact.dense(attended)
        moved = exact.dense(exact.attended(*exact.rotated(*rounded_q_k_v, lengths), lengths))
        self._add("qkv.error", moved - dense)
        del q_k_v, rounded_q_k_v, moved
        rounded_dense = rounded.dense(attended)
        self._own("dense", (dense,), (rounded_dense,))
        self._add("dense.error", rounded_dense - dense)
        hidden = hidden + dense
        x = exact.mlp_input(hidden)
        gate_up, rounded_gate_up = exact.gate_up(x), rounded.gate_up(x)
        self._own("fc", gate_up, rounded_gate_up)
        inner = exact.ops.silu_product(*gate_up)
        proj = exact.proj(inner)
        self._add("fc.error", exact.proj(exact.ops.silu_product(*rounded_gate_up)) - proj)
        del gate_up, rounded_gate_up
        rounded_proj = rounded.proj(inner)
        self._own("proj", (proj,), (rounded_proj,))
        self._add("proj.error", rounded_proj - proj)
        hidden = hidden + proj
        self._add("output", hidden)
        return hidden

    def result(self) -> dict[str, float]:
        found = self._energies
        errors = {}
        for kind in ("qkv", "dense", "fc", "proj"):
            errors[f"{kind}.own"] = _relative(found[f"{kind}.own_error"], found[f"{kind}.own_energy"])
            errors[f"{kind}.layer"] = _relative(found[f"{kind}.error"], found["output"])
        return errors

    def _own(self, kind: str, exact: Iterable[Any], rounded: Iterable[Any]) -> None:
        for one, other in zip(exact, rounded, strict=True):
            self._add(f"{kind}.own_error", other - one)
            self._add(f"{kind}.own_energy", one)

    def _add(self, name: str, values: Any) -> None:
        self._energies[name] = self._energies.get(name, 0.0) + self._exact.ops.energy(values)


def _relative(error: float, energy: float) -> float:
    return math.sqrt(error / energy) if energy else 0.0
