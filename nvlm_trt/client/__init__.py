"""Ask a running server, over gRPC or HTTP; both clients have the same methods.

with open_client("grpc://127.0.0.1:8001") as client:
    print(client.measure("What is this?", [picture]))
    with client.stream("What is this?", [picture], AskOptions(max_tokens=64)) as stream:
        for chunk in stream:
            print(chunk.text, end="")
        answer = stream.finish()
"""

from __future__ import annotations

from nvlm_trt.client.answer import Answer, AnswerStream, Chunk, PromptFacts
from nvlm_trt.client.grpc_client import GrpcClient
from nvlm_trt.client.http_client import HttpClient
from nvlm_trt.client.options import AskOptions
from nvlm_trt.errors import UsageError

__all__ = ["Answer", "AnswerStream", "AskOptions", "Chunk", "GrpcClient", "HttpClient", "PromptFacts", "open_client"]


def open_client(url: str, timeout_s: float = 60.0) -> GrpcClient | HttpClient:
    """A client for grpc://HOST:PORT or http://HOST:PORT. Raises ``UsageError`` E-USAGE-URL."""
    if not url.startswith(("grpc://", "http://")):
        raise UsageError("E-USAGE-URL", f"{url!r} is neither grpc://HOST:PORT nor http://HOST:PORT.", "Correct it.")
    return GrpcClient(url, timeout_s) if url.startswith("grpc://") else HttpClient(url, timeout_s)
