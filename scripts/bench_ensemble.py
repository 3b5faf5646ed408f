"""What the ensemble costs: a request of one token through it, against the same tokens sent straight to the decoder.

    python scripts/bench_ensemble.py DIR CHECKPOINT

All are asked in turn, so that a busy machine is busy for all; the difference of two medians of one protocol is
preprocessing, an idle vision step, postprocessing and the ensemble itself.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from tritonclient.grpc import service_pb2_grpc

from nvlm_trt.client import AskOptions, GrpcClient, HttpClient
from nvlm_trt.client.wire import read_outputs, write_request
from nvlm_trt.deploy.server import TritonServer

QUESTION, ROUNDS, WARM_UP = "Hello", 400, 20
ONE = AskOptions(max_tokens=1, stream=False)


def main(deployment: Path, checkpoint: Path) -> None:
    with (
        TritonServer(deployment, checkpoint) as server,
        GrpcClient(server.grpc_url) as grpc_client,
        HttpClient(server.http_url) as http_client,
    ):
        stub: service_pb2_grpc.GRPCInferenceServiceStub = grpc_client._stub
        values = {"text_input": QUESTION, "max_tokens": 1}
        ids = read_outputs(stub.ModelInfer(write_request("preprocessing", "", values, outputs=("input_ids",))))
        tokens = {"input_ids": ids["input_ids"], "input_lengths": len(ids["input_ids"]), "request_output_len": 1}
        decoder = "/v2/models/tensorrt_llm/generate"

        def over_http() -> bytes:
            with http_client._post(decoder, tokens) as response:
                return response.read()

        def over_grpc() -> list[object]:
            return list(stub.ModelStreamInfer(iter([write_request("tensorrt_llm", "", tokens, batched=True)])))

        ways: dict[str, Callable[[], object]] = {
            "decoder alone, HTTP": over_http,
            "ensemble, HTTP": lambda: http_client.ask(QUESTION, options=ONE),
            "decoder alone, gRPC": over_grpc,
            "ensemble, gRPC": lambda: grpc_client.ask(QUESTION, options=ONE),
        }
        seconds: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(ROUNDS + WARM_UP):
            for name, ask in ways.items():
                begun = time.perf_counter()
                ask()
                seconds[name].append(time.perf_counter() - begun)
    for name, taken in seconds.items():
        p50, p99 = np.percentile(np.array(taken[WARM_UP:]) * 1e3, [50, 99])
        print(f"{name:20}  p50 {p50:6.2f} ms  p99 {p99:6.2f} ms")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
