"""A step of generation at fixed batch sizes, captured once on CUDA and replayed from then on.

A step launches some nine hundred kernels, each a few microseconds of the host's time: more than a small batch takes on
the device. So each size of 1, 2, 4, 8, ... is captured as a CUDA graph over the same buffers: ids, lengths and tables
in, logits out. A step writes the buffers and replays the smallest graph that is large enough. Padding rows have length
0 and write to a block of their own that nobody reads. On the CPU the same code runs without capture.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nvlm_trt.embedded.pytorch.ops import Step

__all__ = ["DecodeBatch", "Forward"]

Forward = Callable[[Tensor, Step], Tensor]
"""Ids int32 [n] and where they belong, to logits float32 [n, vocab]."""


class DecodeBatch:
    """``width`` is the most blocks of a sequence, ``spare_block`` the one for padding rows. What is captured must not
    read a value on the host.
    """

    def __init__(
        self,
        forward: Forward,
        *,
        max_batch_size: int,
        width: int,
        spare_block: int,
        device: torch.device,
        capture: bool,
    ) -> None:
        self._forward = forward
        self._width = width
        self._spare_block = spare_block
        self._sizes = [1 << power for power in range((max_batch_size - 1).bit_length() + 1)]
        # Ids, lengths, tables: one buffer on either side, so that a step is one copy.
        shape = (self._sizes[-1], 2 + width)
        self._host = torch.zeros(shape, dtype=torch.int32, pin_memory=device.type == "cuda")
        self._inputs = torch.zeros(shape, dtype=torch.int32, device=device)
        self._graphs: dict[int, tuple[torch.cuda.CUDAGraph, Tensor]] = {}
        if capture:
            self._capture()

    def run(self, tables: NDArray[np.int32], lengths: NDArray[np.int32], ids: NDArray[np.int32]) -> Tensor:
        """Logits [n, vocab] on the device."""
        count = len(ids)
        size = next(size for size in self._sizes if size >= count)
        host = self._host.numpy()[:size]
        host[:count, 0], host[:count, 1], host[:count, 2 : 2 + tables.shape[1]] = ids, lengths, tables
        host[count:, :2], host[count:, 2] = 0, self._spare_block
        self._inputs[:size].copy_(self._host[:size], non_blocking=True)
        if size not in self._graphs:
            return self._step(size)[:count]
        graph, logits = self._graphs[size]
        graph.replay()
        return logits[:count]

    def _step(self, size: int) -> Tensor:
        inputs = self._inputs[:size]
        return self._forward(inputs[:, 0].contiguous(), Step(inputs[:, 1].contiguous(), inputs[:, 2:], together=False))

    def _capture(self) -> None:
        self._inputs[:, 2] = self._spare_block
        pool = None
        for size in reversed(self._sizes):  # the largest first: smaller ones find room in its memory
            for _ in range(2):  # kernels are compiled, and libraries choose theirs, outside the capture
                self._step(size)
            torch.cuda.synchronize()
            graph = torch.cuda.CUDAGraph()
            # Only this thread is watched: NCCL's own thread may ask after its events meanwhile.
            with torch.cuda.graph(graph, pool=pool, capture_error_mode="thread_local"):
                logits = self._step(size)
            pool = graph.pool()
            self._graphs[size] = (graph, logits)
