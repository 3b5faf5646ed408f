"""The real model behind a pool of blocks: each call gathers blocks into the slots of an ``OnnxRuntimeRunner``, and what
it appended goes back. Slow, and exactly as exact as the runner."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from nvlm_trt.embedded.onnxruntime_runner import OnnxRuntimeRunner


class BlocksOverSlots:
    """A ``BlockRunner``."""

    def __init__(self, runner: OnnxRuntimeRunner, num_blocks: int, block_size: int) -> None:
        self._runner = runner
        self.vocab_size, self.hidden_size, self.max_positions = (
            runner.vocab_size,
            runner.hidden_size,
            runner.max_positions,
        )
        self.num_blocks, self.block_size = num_blocks, block_size
        layers, kinds, _, heads, _, channels = runner._cache.shape
        self._blocks = np.full((num_blocks, layers, kinds, heads, block_size, channels), np.nan, np.float32)

    def prefill(
        self,
        blocks: NDArray[np.int32],
        start: int,
        ids: NDArray[np.int32],
        prompt_table: NDArray[np.float32] | None,
    ) -> NDArray[np.float32]:
        self._gather(0, blocks, start)
        logits = self._runner.prefill(0, start, ids, prompt_table)
        self._scatter(0, blocks, start, start + len(ids))
        return logits

    def decode(
        self, tables: NDArray[np.int32], lengths: NDArray[np.int32], ids: NDArray[np.int32]
    ) -> NDArray[np.float32]:
        for slot, (blocks, length) in enumerate(zip(tables, lengths, strict=True)):
            self._gather(slot, blocks, length)
        logits = self._runner.decode(lengths, ids)
        for slot, (blocks, length) in enumerate(zip(tables, lengths, strict=True)):
            self._scatter(slot, blocks, length, length + 1)
        return logits

    def _gather(self, slot: int, blocks: NDArray[np.int32], length: int) -> None:
        cache = self._runner._cache[:, :, slot]
        cache[:] = np.nan
        for index, start in enumerate(range(0, int(length), self.block_size)):
            part = cache[..., start : min(start + self.block_size, length), :]
            part[...] = self._blocks[blocks[index]][..., : part.shape[-2], :]

    def _scatter(self, slot: int, blocks: NDArray[np.int32], start: int, stop: int) -> None:
        for position in range(start, stop):
            block, offset = blocks[position // self.block_size], position % self.block_size
            self._blocks[block][..., offset, :] = self._runner._cache[:, :, slot, :, position]
