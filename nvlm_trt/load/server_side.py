"""The server's own account of a run: the difference of its counters after and before.

Triton's statistics give each model's requests and the nanoseconds they spent queued, in inputs, computing and in
outputs. They say little about the decoder, which answers long after Triton's call into it has returned; its own
counters, and the vision encoder's tiles, are on the metrics page.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import grpc
from google.protobuf import json_format
from tritonclient.grpc import service_pb2, service_pb2_grpc

from nvlm_trt.client.direct import read_page
from nvlm_trt.client.grpc_client import CHANNEL, read_address
from nvlm_trt.load.result import DecoderWork, ModelTimes, ServerSide, TilesEncoded

__all__ = ["Counters", "difference", "read_counters", "server_name"]

T = TypeVar("T")
_TIMEOUT_S = 10.0
_LINE = re.compile(r"^(nvlm_\w+)(?:\{([^}]*)\})? (\S+)$", re.MULTILINE)
_PARTS = {
    "queue_ms": "queue",
    "input_ms": "compute_input",
    "compute_ms": "compute_infer",
    "output_ms": "compute_output",
}


@dataclass(frozen=True, slots=True)
class Counters:
    """``models`` maps a model to Triton's numbers by path, ``metrics`` the page's names with labels to values."""

    models: Mapping[str, Mapping[str, int]] | None
    metrics: Mapping[str, float] | None


def read_counters(triton_url: str | None, metrics_url: str | None) -> Counters:
    """What cannot be read is None: a server that died in a run still leaves the run's own figures."""
    return Counters(
        _tried(lambda: _statistics(triton_url)) if triton_url else None,
        _tried(lambda: _metrics(metrics_url)) if metrics_url else None,
    )


def difference(before: Counters, after: Counters) -> ServerSide:
    models = None
    if before.models is not None and after.models is not None:
        old = before.models
        models = {name: _times(old.get(name, {}), numbers) for name, numbers in after.models.items()}
    if before.metrics is None or after.metrics is None:
        return ServerSide(models=models)
    start = before.metrics
    change = {name: value - start.get(name, 0.0) for name, value in after.metrics.items()}
    return ServerSide(models=models, tiles=_tiles(change), decoder=_decoder(change))


def server_name(triton_url: str) -> str | None:
    """As it names itself, "triton 2.51.0"; None if it does not answer."""

    def over_grpc() -> dict[str, Any]:
        return _grpc(triton_url, "ServerMetadata", service_pb2.ServerMetadataRequest())

    data = _tried(over_grpc if triton_url.startswith("grpc://") else lambda: _get_json(f"{triton_url}/v2"))
    return f"{data['name']} {data['version']}" if data else None


def _tiles(change: Mapping[str, float]) -> TilesEncoded | None:
    if "nvlm_vision_calls_total" not in change:
        return None
    return TilesEncoded(
        computed=round(change.get('nvlm_vision_cache_tiles_total{outcome="miss"}', 0)),
        cached=round(change.get('nvlm_vision_cache_tiles_total{outcome="hit"}', 0)),
        calls=round(change["nvlm_vision_calls_total"]),
    )


def _decoder(change: Mapping[str, float]) -> DecoderWork | None:
    if 'nvlm_decoder_seconds_total{part="step"}' not in change:
        return None

    def tokens(kind: str) -> int:
        return round(change.get(f'nvlm_decoder_tokens_total{{kind="{kind}"}}', 0))

    def seconds(part: str) -> float:
        return round(change.get(f'nvlm_decoder_seconds_total{{part="{part}"}}', 0), 4)

    def mean_ms(histogram: str) -> float | None:
        count = change.get(f"nvlm_decoder_{histogram}_seconds_count", 0)
        return round(1e3 * change[f"nvlm_decoder_{histogram}_seconds_sum"] / count, 3) if count else None

    return DecoderWork(
        prompt_tokens=tokens("prompt"),
        reused_tokens=tokens("reused"),
        generated_tokens=tokens("generated"),
        preemptions=round(change.get("nvlm_decoder_preemptions_total", 0)),
        step_s=seconds("step"),
        model_s=seconds("model"),
        queue_ms=mean_ms("request_queue_time"),
        total_ms=mean_ms("e2e_request_latency"),
    )


def _times(before: Mapping[str, int], after: Mapping[str, int]) -> ModelTimes:
    def change(name: str) -> int:
        return after.get(name, 0) - before.get(name, 0)

    requests, failures = change("success.count"), change("fail.count")
    means = {
        key: round(change(f"{part}.ns") / 1e6 / max(1, change(f"{part}.count")), 4) for key, part in _PARTS.items()
    }
    return ModelTimes(requests=requests, failures=failures, executions=change("executions"), **means)


def _statistics(url: str) -> dict[str, dict[str, int]]:
    if url.startswith("grpc://"):
        data = _grpc(url, "ModelStatistics", service_pb2.ModelStatisticsRequest())
    else:
        data = _get_json(f"{url}/v2/models/stats")
    return {
        model["name"]: {
            "executions": int(model.get("execution_count", 0)),
            **{
                f"{part}.{unit}": int(numbers.get(unit, 0))
                for part, numbers in model["inference_stats"].items()
                for unit in ("count", "ns")
            },
        }
        for model in data["model_stats"]
    }


def _metrics(url: str) -> dict[str, float]:
    text = read_page(url, _TIMEOUT_S).decode()
    return {name + (f"{{{labels}}}" if labels else ""): float(value) for name, labels, value in _LINE.findall(text)}


def _grpc(url: str, call: str, request: Any) -> dict[str, Any]:
    with grpc.insecure_channel(read_address(url), CHANNEL) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        response = getattr(stub, call)(request, timeout=_TIMEOUT_S)
    data: dict[str, Any] = json_format.MessageToDict(response, preserving_proto_field_name=True)
    return data


def _get_json(url: str) -> dict[str, Any]:
    data: dict[str, Any] = json.loads(read_page(url, _TIMEOUT_S))
    return data


def _tried(read: Callable[[], T]) -> T | None:
    try:
        return read()
    except (OSError, ValueError, KeyError, grpc.RpcError):
        return None
