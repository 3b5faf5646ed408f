"""Triton's command lines: for one server, and for one server per rank of a decoder over several GPUs.

Several GPUs use TensorRT-LLM's leader mode: one mpirun, one server per rank. All read the same repository; rank 0 loads
every model and answers, the others load only the decoder and work for it. The form is that of TensorRT-LLM 1.2.1's
``launch_triton_server.py``. Its ranks each hold a CUDA context and a memory pool on every GPU they see, about 0.5 GB
per rank and GPU, for copies between GPUs that nobody makes here; so ours are told to make neither.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from pathlib import Path

from nvlm_trt.deploy.address import Address, in_url

__all__ = ["EXIT_TIMEOUT_S", "rank_commands", "server_command"]

EXIT_TIMEOUT_S = 4
_DECODER = "tensorrt_llm"
# Doors that this project never uses, and that let a client map the server's memory, fill its log or trace others.
_CLOSED = "shared-memory,model-repository,logging,trace"


def server_command(server: Path, repository: Path, address: Address, prefix: str, *more: str) -> list[str]:
    """``prefix`` begins the names of its files in /dev/shm; ``more`` are flags of one kind of installation."""
    key = secrets.token_hex(16)
    # Its HTTP library marks IPv6 addresses in a way of its own.
    http_host = f"ipv6:{address.host}" if ":" in address.host else address.host
    return [
        str(server),
        f"--model-repository={repository}",
        f"--http-address={http_host}",
        f"--http-port={address.http_port}",
        f"--grpc-address={in_url(address.host)}",
        f"--grpc-port={address.grpc_port}",
        f"--metrics-address={http_host}",
        f"--metrics-port={address.metrics_port}",
        "--grpc-infer-allocation-pool-size=0",
        f"--http-restricted-api={_CLOSED}:closed={key}",
        f"--grpc-restricted-protocol={_CLOSED}:closed={key}",
        "--disable-auto-complete-config",
        f"--exit-timeout-secs={EXIT_TIMEOUT_S}",
        f"--backend-config=python,shm-region-prefix-name={prefix}",
        *more,
    ]


def rank_commands(
    world_size: int, server: Path, repository: Path, address: Address, prefix: str, *more: str, mpirun: Sequence[str]
) -> list[str]:
    """``mpirun`` is that program and its own options, such as those for root or for several machines; ``more`` are
    flags of each server.
    """
    pools = [f"--cuda-memory-pool-byte-size={gpu}:0" for gpu in range(world_size)]
    no_copies = ["--enable-peer-access=false", "--pinned-memory-pool-byte-size=0", *pools]
    ranks: list[str] = []
    for rank in range(world_size):
        alone = ["--model-control-mode=explicit", f"--load-model={_DECODER}"] if rank else []
        own = [*more, *alone, *no_copies]
        ranks += [":"] if rank else []
        ranks += ["-n", "1", *server_command(server, repository, address, f"{prefix}{rank}_", *own)]
    return [*mpirun, *ranks]
