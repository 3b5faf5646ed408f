"""The gateway's own metrics, under the names that users of vLLM and NIM look for."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from nvlm_trt.gateway.admission import Admission
from nvlm_trt.serving.buckets import FIRST_TOKEN_S, PER_TOKEN_S, WHOLE_S

__all__ = ["Metrics"]

_PREFIX = "nvlm_gateway_"


class Metrics:
    """One registry for each gateway, so that two in one process do not mix."""

    def __init__(self, admission: Admission) -> None:
        self._registry = CollectorRegistry()
        running = self._gauge("num_requests_running", "Answers being made")
        running.set_function(lambda: admission.running)
        waiting = self._gauge("num_requests_waiting", "Answers waiting for their turn")
        waiting.set_function(lambda: admission.waiting)
        self.requests = self._counter("requests", "Chat requests by HTTP status; 499 for clients that left", "status")
        self.refusals = self._counter("refusals", "Requests refused or failed, by error code", "code")
        self.finished = self._counter("request_success", "Answers that came to an end, by reason", "finished_reason")
        self.prompt_tokens = self._counter("prompt_tokens", "Tokens of prompts, image rows included")
        self.generation_tokens = self._counter("generation_tokens", "Tokens of answers")
        self.pictures = self._counter("pictures", "Pictures, by where they came from", "source")
        self.queue_s = self._histogram("request_queue_time_seconds", "Waiting for a turn", FIRST_TOKEN_S)
        self.first_token_s = self._histogram(
            "time_to_first_token_seconds", "From a request's head to its first token, where tokens are streamed",
            FIRST_TOKEN_S,
        )  # fmt: skip
        self.per_token_s = self._histogram(
            "time_per_output_token_seconds",
            "Mean time between an answer's tokens, where they are streamed",
            PER_TOKEN_S,
        )
        self.whole_s = self._histogram("e2e_request_latency_seconds", "From a request's head to its end", WHOLE_S)

    def text(self) -> bytes:
        """Prometheus's text format."""
        return generate_latest(self._registry)

    def _counter(self, name: str, what: str, *labels: str) -> Counter:
        return Counter(_PREFIX + name, what, labels, registry=self._registry)

    def _gauge(self, name: str, what: str) -> Gauge:
        return Gauge(_PREFIX + name, what, registry=self._registry)

    def _histogram(self, name: str, what: str, buckets: tuple[float, ...]) -> Histogram:
        return Histogram(_PREFIX + name, what, buckets=buckets, registry=self._registry)
