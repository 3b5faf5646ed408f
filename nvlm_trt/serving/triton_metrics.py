"""The embedded decoder's and the vision encoder's figures on the server's ``/metrics``.

Only importable inside a Triton model process.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any

import triton_python_backend_utils as pb_utils

from nvlm_trt.serving.embedding_cache import CacheFigures

__all__ = ["DecoderMetrics", "VisionMetrics"]


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


class VisionMetrics:
    """``nvlm_vision_cache_tiles_total{outcome}`` and ``nvlm_vision_calls_total`` since the start,
    ``nvlm_vision_cache_bytes`` now. Misses over calls are the tiles in a call.
    """

    def __init__(self) -> None:
        self._tiles = pb_utils.MetricFamily(
            name="nvlm_vision_cache_tiles_total",
            description="Tiles found in the cache of embeddings, and tiles that had to be encoded",
            kind=pb_utils.MetricFamily.COUNTER,
        )
        self._calls = pb_utils.MetricFamily(
            name="nvlm_vision_calls_total",
            description="Calls of the vision engine",
            kind=pb_utils.MetricFamily.COUNTER,
        )
        self._bytes = pb_utils.MetricFamily(
            name="nvlm_vision_cache_bytes",
            description="Bytes of embeddings in the cache",
            kind=pb_utils.MetricFamily.GAUGE,
        )
        self._outcomes = {name: self._tiles.Metric(labels={"outcome": name}) for name in ("hit", "miss")}
        self._called = self._calls.Metric(labels={})
        self._held = self._bytes.Metric(labels={})
        self._lock = threading.Lock()

    def update(self, figures: CacheFigures) -> None:
        with self._lock:
            totals = (
                (self._outcomes["hit"], figures.hits),
                (self._outcomes["miss"], figures.misses),
                (self._called, figures.calls),
            )
            for counter, total in totals:
                counter.increment(max(0, total - counter.value()))
            self._held.set(figures.bytes)
