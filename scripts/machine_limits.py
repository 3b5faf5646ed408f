"""What this machine allows a decoder: bytes read a second, float32 products a second, and the least time of a step."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from onnx import TensorProto, helper

from nvlm_trt.embedded.config import linear_shapes
from nvlm_trt.model.config import DecoderConfig

__all__ = ["FP8", "WIDENED", "Limits", "Stored", "decode_step_s", "measure_limits", "prefill_s"]

_FLOAT = 4  # bytes of a key or value, in every engine


@dataclass(frozen=True, slots=True)
class Stored:
    """Bytes of a weight as an engine reads it in every step: of the layers' linears, and of the head."""

    linears: int
    head: int

    def num_bytes(self, decoder: DecoderConfig) -> int:
        return self.linears * _layer_weights(decoder) + self.head * _head_weights(decoder)


FP8, WIDENED = Stored(1, 2), Stored(_FLOAT, _FLOAT)


@dataclass(frozen=True, slots=True)
class Limits:
    """Best of several tries on all cores. ``bytes_per_s`` for reading as many bytes as the weights have over and over,
    wherever they fit.
    """

    bytes_per_s: float
    flops_per_s: float

    def __str__(self) -> str:
        return f"read {self.bytes_per_s / 1e9:.1f} GB/s, float32 product {self.flops_per_s / 1e9:.0f} GFLOP/s"

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def measure_limits(decoder: DecoderConfig, stored: Stored) -> Limits:
    return Limits(_read_rate(stored.num_bytes(decoder)), _product_rate())


def decode_step_s(decoder: DecoderConfig, limits: Limits, batch: int, positions: float, stored: Stored) -> float:
    """Least seconds of a step for ``batch`` sequences of ``positions``: each weight, key and value read once; two
    operations for each weight and sequence, and for each query, key or value channel."""
    cached = 2 * decoder.num_layers * decoder.num_kv_heads * decoder.head_dim * positions * batch
    mixed = 4 * decoder.num_layers * decoder.q_size * positions * batch
    weights = _layer_weights(decoder) + _head_weights(decoder)
    read_s = (stored.num_bytes(decoder) + _FLOAT * cached) / limits.bytes_per_s
    return max(read_s, (2 * weights * batch + mixed) / limits.flops_per_s)


def prefill_s(decoder: DecoderConfig, limits: Limits, tokens: int) -> float:
    """Least seconds of a prompt; the head works on its last row alone, attention looks back only."""
    return (
        2 * _layer_weights(decoder) * tokens + 2 * decoder.num_layers * decoder.q_size * tokens**2
    ) / limits.flops_per_s


def _layer_weights(decoder: DecoderConfig) -> int:
    return decoder.num_layers * sum(rows * columns for rows, columns in linear_shapes(decoder).values())


def _head_weights(decoder: DecoderConfig) -> int:
    return decoder.vocab_size * decoder.hidden_size


def _best(work: Callable[[], Any], tries: int = 7) -> float:
    times = []
    for _ in range(tries):
        begun = time.perf_counter()
        work()
        times.append(time.perf_counter() - begun)
    return min(times)


def _read_rate(total_bytes: int) -> float:
    """Matrix times vector on all cores, the kernel that does least per byte; over the same bytes each time."""
    columns = 4096
    rows = max(1, total_bytes // _FLOAT // columns)
    session = _product(rows, columns)
    vector = np.ones((1, columns), np.float32)
    threads = len(os.sched_getaffinity(0))
    parts = [np.ones(max(1, total_bytes // _FLOAT // threads), np.float32) for _ in range(threads)]

    def read_all() -> None:
        workers = [threading.Thread(target=np.max, args=(part,)) for part in parts]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()

    times = [_best(lambda: session.run(None, {"x": vector})), _best(read_all)]
    return rows * columns * _FLOAT / min(times)


def _product_rate(size: int = 2048) -> float:
    """ONNX Runtime's or numpy's, whichever is quicker here."""
    session, left = _product(size, size), np.ones((size, size), np.float32)
    times = [_best(lambda: session.run(None, {"x": left}), 4), _best(lambda: left @ left, 4)]
    return 2 * size**3 / min(times)


def _product(rows: int, columns: int) -> Any:
    """``x`` [n, columns] times a constant [columns, rows], in ONNX Runtime."""
    import onnxruntime

    weight = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[columns, rows])
    weight.data_location = TensorProto.EXTERNAL
    weight.external_data.add(key="location", value="w")
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "product",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", columns])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", rows])],
        [weight],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    options = onnxruntime.SessionOptions()
    value = onnxruntime.OrtValue.ortvalue_from_numpy(np.ones((columns, rows), np.float32))
    options.add_external_initializers(["w"], [value])
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
