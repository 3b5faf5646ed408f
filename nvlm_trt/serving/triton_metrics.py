"""The embedded decoder's figures on the server's ``/metrics``.

Only importable inside a Triton model process.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import triton_python_backend_utils as pb_utils

__all__ = ["DecoderMetrics"]


class DecoderMetrics:
    """``nvlm_decoder_requests{state}`` now, ``nvlm_decoder_tokens_total{kind}`` and
    ``nvlm_decoder_seconds_total{part}`` since the start; of the two parts, ``step`` holds ``model``.
    """

    def __init__(self) -> None:
        # The families must live as long as their metrics, or the server drops both.
        self._requests = pb_utils.MetricFamily(
            name="nvlm_decoder_requests",
            description="Requests in the embedded decoder, by state",
            kind=pb_utils.MetricFamily.GAUGE,
        )
        self._tokens = pb_utils.MetricFamily(
            name="nvlm_decoder_tokens_total",
            description="Tokens the embedded decoder has read and made",
            kind=pb_utils.MetricFamily.COUNTER,
        )
        self._seconds = pb_utils.MetricFamily(
            name="nvlm_decoder_seconds_total",
            description="Seconds the embedded decoder has spent in steps, and in the model during them",
            kind=pb_utils.MetricFamily.COUNTER,
        )
        self._states = {name: self._requests.Metric(labels={"state": name}) for name in ("running", "waiting")}
        self._kinds = {name: self._tokens.Metric(labels={"kind": name}) for name in ("prefill", "generated")}
        self._parts = {name: self._seconds.Metric(labels={"part": name}) for name in ("step", "model")}

    def update(self, figures: Mapping[str, Any]) -> None:
        """Take over a ``DecoderEngine``'s ``metrics()``."""
        for state, gauge in self._states.items():
            gauge.set(figures[state])
        for kind, counter in self._kinds.items():
            counter.increment(max(0, figures[f"{kind}_tokens"] - counter.value()))
        for part, counter in self._parts.items():
            counter.increment(max(0.0, figures[f"{part}_s"] - counter.value()))
