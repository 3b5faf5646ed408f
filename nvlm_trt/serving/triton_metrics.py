"""The embedded decoder's and the vision encoder's figures on the server's ``/metrics``.

Only importable inside a Triton model process.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import Any

import triton_python_backend_utils as pb_utils

from nvlm_trt.serving.buckets import FIRST_TOKEN_S, PER_TOKEN_S, TILES, WHOLE_S
from nvlm_trt.serving.decoder_record import DecoderRecord
from nvlm_trt.serving.embedding_cache import CacheFigures

__all__ = ["DecoderMetrics", "VisionMetrics"]


class DecoderMetrics:
    """``nvlm_decoder_healthy``, ``nvlm_decoder_requests{state}`` and ``nvlm_decoder_pool_tokens{state}`` now;
    ``nvlm_decoder_tokens_total{kind}``, ``nvlm_decoder_steps_total``, ``nvlm_decoder_preemptions_total`` and
    ``nvlm_decoder_seconds_total{part}`` since the start. Of the parts, ``step`` holds ``model``; of the kinds,
    ``reused`` over ``prompt`` is the hit rate, and ``generated`` over steps how full the batch was.
    ``nvlm_decoder_kv_cache_usage_perc`` now; of requests that ended, ``nvlm_decoder_request_success_total`` and
    histograms of their times.
    """

    def __init__(self) -> None:
        self._told: dict[str, Any] = {}
        # The families must live as long as their metrics, or the server drops both.
        self._families: list[Any] = []
        gauge, counter = pb_utils.MetricFamily.GAUGE, pb_utils.MetricFamily.COUNTER
        healthy = self._family("healthy", "1 while the embedded decoder takes requests, 0 after a fault", gauge)
        requests = self._family("requests", "Requests in the embedded decoder, by state", gauge)
        pool = self._family("pool_tokens", "Positions of keys and values in the embedded decoder, by state", gauge)
        tokens = self._family("tokens_total", "Tokens the embedded decoder was sent, found, read and made", counter)
        steps = self._family("steps_total", "Steps of the embedded decoder", counter)
        preemptions = self._family("preemptions_total", "Requests thrown out when the pool ran out", counter)
        seconds = self._family(
            "seconds_total", "Seconds the embedded decoder has spent in steps, and in the model during them", counter
        )
        self._gauges = {
            "healthy": healthy.Metric(labels={}),
            **{name: requests.Metric(labels={"state": name}) for name in ("running", "waiting", "unsent")},
            "pool_tokens": pool.Metric(labels={"state": "all"}),
            "free_tokens": pool.Metric(labels={"state": "free"}),
        }
        self._usage = self._family("kv_cache_usage_perc", "The part of the pool in use, 0 to 1", gauge).Metric(
            labels={}
        )
        ended = self._family("request_success_total", "Requests that ended, by reason", counter)
        self._ended = {
            reason: ended.Metric(labels={"finished_reason": reason}) for reason in ("stop", "length", "abort", "error")
        }
        self._times = {
            name: self._histogram(metric, description, buckets)
            for name, metric, description, buckets in (
                ("queue_s", "request_queue_time_seconds", "Waiting for the first step", FIRST_TOKEN_S),
                ("first_token_s", "time_to_first_token_seconds", "From a request's arrival", FIRST_TOKEN_S),
                ("per_token_s", "time_per_output_token_seconds", "Mean time between an answer's tokens", PER_TOKEN_S),
                ("total_s", "e2e_request_latency_seconds", "From a request's arrival to its end", WHOLE_S),
            )
        }
        kinds = ("prompt", "reused", "prefill", "generated")
        self._counters = {
            **{f"{kind}_tokens": tokens.Metric(labels={"kind": kind}) for kind in kinds},
            "steps": steps.Metric(labels={}),
            "preemptions": preemptions.Metric(labels={}),
            **{f"{part}_s": seconds.Metric(labels={"part": part}) for part in ("step", "model")},
        }

    def update(self, figures: Mapping[str, Any]) -> None:
        """Copy what ``DecoderCalls`` observes. What has not changed is skipped: every call goes to the server's
        process and back, on the engine's cores."""
        for name in (name for name, value in figures.items() if value != self._told.get(name)):
            if name in self._gauges:
                self._gauges[name].set(figures[name])
            elif name in self._counters:
                self._counters[name].increment(figures[name] - self._told.get(name, 0))
        if figures["free_tokens"] != self._told.get("free_tokens"):
            self._usage.set(1 - figures["free_tokens"] / figures["pool_tokens"])
        self._told = dict(figures)

    def ended(self, record: DecoderRecord) -> None:
        self._ended[record.reason].increment(1)
        for name, histogram in self._times.items():
            seconds = getattr(record, name)
            if seconds is not None:
                histogram.observe(seconds)

    def _histogram(self, name: str, description: str, buckets: Sequence[float]) -> Any:
        family = self._family(name, f"Seconds in the embedded decoder: {description}", pb_utils.MetricFamily.HISTOGRAM)
        return family.Metric(labels={}, buckets=list(buckets))

    def _family(self, name: str, description: str, kind: Any) -> Any:
        self._families.append(pb_utils.MetricFamily(name=f"nvlm_decoder_{name}", description=description, kind=kind))
        return self._families[-1]


class VisionMetrics:
    """``nvlm_vision_cache_tiles_total{outcome}`` and ``nvlm_vision_calls_total`` since the start,
    ``nvlm_vision_cache_bytes`` now. Misses over calls are the tiles in a call. Histograms ``nvlm_vision_request_tiles``
    and ``nvlm_vision_queue_time_seconds``, the latter of requests with a tile that was not known.
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
        histogram = pb_utils.MetricFamily.HISTOGRAM
        self._sizes = pb_utils.MetricFamily(
            name="nvlm_vision_request_tiles", description="Tiles of a request, thumbnails included", kind=histogram
        )
        self._waits = pb_utils.MetricFamily(
            name="nvlm_vision_queue_time_seconds",
            description="Seconds that a request's first tile waited for the vision engine",
            kind=histogram,
        )
        self.tiles = self._sizes.Metric(labels={}, buckets=list(TILES))
        self.queue_s = self._waits.Metric(labels={}, buckets=list(FIRST_TOKEN_S))
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
