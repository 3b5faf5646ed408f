"""The figures of a latency measurement by their keys, in words."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

__all__ = ["FIGURES", "LATENCIES"]

_TIMES = {"ttft": "to first token", "tbt": "between tokens", "gap": "between deliveries", "e2e": "end to end"}

LATENCIES: tuple[str, ...] = tuple(f"{name}_ms_{part}" for name in _TIMES for part in ("p50", "p90", "p99"))

FIGURES: Mapping[str, str] = MappingProxyType(
    {f"{name}_ms_{part}": f"{what}, {part}, ms" for name, what in _TIMES.items() for part in ("p50", "p90", "p99")}
    | {"completed_per_s": "requests/s", "good_per_s": "good requests/s", "output_tokens_per_s": "tokens/s"}
)
