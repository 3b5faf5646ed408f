"""The process of one rank: ``python -m nvlm_trt.embedded.pytorch.rank_process LINE MEMORY``, two open descriptors.

A thread listens to the line and ends the process when it closes, whatever the main thread is doing: it may be waiting
for a rank that no longer exists.
"""

from __future__ import annotations

import json
import os
import queue
import sys
import threading
from collections.abc import Mapping
from multiprocessing.connection import Connection
from typing import Any, NoReturn

import torch
import torch.distributed as dist

from nvlm_trt.embedded.checkpoint import DecoderCheckpoint
from nvlm_trt.embedded.pytorch.arithmetic import Arithmetic
from nvlm_trt.embedded.pytorch.ranks import RankGroup
from nvlm_trt.embedded.pytorch.runner import TorchRunner
from nvlm_trt.embedded.pytorch.sizes import RunnerSizes
from nvlm_trt.embedded.pytorch.step_memory import StepMemory
from nvlm_trt.embedded.pytorch.weights import CheckpointWeights

__all__: list[str] = []


def _main() -> NoReturn:
    line, memory_fd = Connection(int(sys.argv[1])), int(sys.argv[2])
    inbox: queue.SimpleQueue[Any] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(line, inbox), daemon=True).start()
    runner, memory = _started(inbox.get(), memory_fd)
    line.send_bytes(json.dumps(runner.num_blocks).encode())
    while True:
        match inbox.get():
            case ["prefill", num_ids, num_blocks, start, num_rows]:
                blocks, rows = memory.tables[0, :num_blocks], memory.rows[:num_rows]
                runner.prefill_rows(blocks, start, memory.ids[:num_ids], rows)
            case ["decode", count, width]:
                runner.decode(memory.tables[:count, :width], memory.lengths[:count], memory.ids[:count])
        line.send_bytes(b"null")


def _listen(line: Connection, inbox: queue.SimpleQueue[Any]) -> None:
    try:
        while True:
            inbox.put(json.loads(line.recv_bytes()))
    except (EOFError, OSError):
        os._exit(0)


def _started(spec: Mapping[str, Any], memory_fd: int) -> tuple[TorchRunner, StepMemory]:
    rank, size, cuda = spec["rank"], spec["size"], spec["device"] == "cuda"
    checkpoint = DecoderCheckpoint(spec["folder"], rank)
    device = torch.device("cuda", rank) if cuda else torch.device("cpu")
    if cuda:
        torch.cuda.set_device(device)
    else:
        torch.set_num_threads(spec["threads"] or max(1, len(os.sched_getaffinity(0)) // size))
    # All ranks are on this machine: the loopback needs no name service and is open to nobody else.
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    os.environ.setdefault("NCCL_SOCKET_IFNAME", "lo")
    store = dist.FileStore(spec["store"], size)
    dist.init_process_group("nccl" if cuda else "gloo", store=store, rank=rank, world_size=size)
    sizes, decoder = RunnerSizes(**spec["sizes"]), checkpoint.config.decoder
    memory = StepMemory(sizes, decoder.vocab_size, decoder.hidden_size, memory_fd)
    logits = torch.from_numpy(memory.logits) if rank == 0 else None
    if cuda and logits is not None:  # pinned, like memory of torch's own: results come back at the bus's speed
        torch.cuda.cudart().cudaHostRegister(logits.data_ptr(), logits.nbytes, 0)
    runner = TorchRunner(
        checkpoint.config,
        CheckpointWeights(checkpoint, device),
        sizes,
        device=device,
        arithmetic=Arithmetic(**spec["arithmetic"]),
        ranks=RankGroup(device),
        logits=logits,
    )
    return runner, memory


if __name__ == "__main__":
    _main()
