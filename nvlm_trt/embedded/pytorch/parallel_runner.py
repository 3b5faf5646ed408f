"""A ``BlockRunner`` over a checkpoint of several ranks: a process for each, none of them the engine's own.

The engine's process takes part in no sum, so a rank's fate can hold it up for no longer than a deadline. A step is a
few words on each rank's line; ids, tables, rows of a prompt table and logits lie in memory that all share.
"""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nvlm_trt.embedded.checkpoint import DecoderCheckpoint
from nvlm_trt.embedded.pytorch.arithmetic import DEFAULT_ARITHMETIC, Arithmetic
from nvlm_trt.embedded.pytorch.rank_processes import RankProcesses
from nvlm_trt.embedded.pytorch.sizes import RunnerSizes
from nvlm_trt.embedded.pytorch.step_memory import StepMemory

__all__ = ["ParallelRunner"]


class ParallelRunner:
    """``device`` is "cpu" or "cuda", one for each rank; ``threads`` are a rank's on the CPU, None for its share of the
    cores. A step that some rank does not answer ends at ``step_deadline_s``.

    Raises ``ArtefactError``: E-ARTEFACT-DECODER for a rank's file, E-ENGINE-RANK, here and in every call, for a rank
    that is lost.
    """

    def __init__(
        self,
        folder: str | Path,
        sizes: RunnerSizes,
        *,
        device: str,
        arithmetic: Arithmetic = DEFAULT_ARITHMETIC,
        threads: int | None = None,
        step_deadline_s: float = 60.0,
        start_deadline_s: float = 1800.0,
    ) -> None:
        config = DecoderCheckpoint(folder).config
        for rank in range(1, config.tp):
            DecoderCheckpoint(folder, rank)  # judged here, where the error has somebody to tell
        decoder = config.decoder
        self.vocab_size, self.hidden_size = decoder.vocab_size, decoder.hidden_size
        self.max_positions, self.block_size = decoder.max_positions, sizes.block_size
        self._step_deadline_s = step_deadline_s
        self._memory = StepMemory(sizes, decoder.vocab_size, decoder.hidden_size)
        spec = {
            "folder": str(Path(folder).absolute()),
            "device": device,
            "threads": threads,
            "sizes": dataclasses.asdict(sizes),
            "arithmetic": dataclasses.asdict(arithmetic),
        }
        try:
            self._ranks = RankProcesses(config.tp, spec, self._memory.fd, start_deadline_s)
        finally:
            os.close(self._memory.fd)  # the mapping stays
        self.num_blocks = int(self._ranks.ready[0])

    @property
    def alive(self) -> bool:
        return self._ranks.alive

    @property
    def pids(self) -> list[int]:
        """The ranks' processes, in their order."""
        return self._ranks.pids

    def prefill(
        self, blocks: NDArray[np.int32], start: int, ids: NDArray[np.int32], prompt_table: NDArray[np.float32] | None
    ) -> NDArray[np.float32]:
        memory, virtual = self._memory, ids[ids >= self.vocab_size] - self.vocab_size
        memory.ids[: len(ids)], memory.tables[0, : len(blocks)] = ids, blocks
        if prompt_table is not None:
            memory.rows[: len(virtual)] = prompt_table[virtual]
        self._ranks.call(["prefill", len(ids), len(blocks), start, len(virtual)], self._step_deadline_s)
        first: NDArray[np.float32] = memory.logits[0]
        return first

    def decode(
        self, tables: NDArray[np.int32], lengths: NDArray[np.int32], ids: NDArray[np.int32]
    ) -> NDArray[np.float32]:
        memory, (count, width) = self._memory, tables.shape
        memory.ids[:count], memory.lengths[:count], memory.tables[:count, :width] = ids, lengths, tables
        self._ranks.call(["decode", count, width], self._step_deadline_s)
        return memory.logits[:count]

    def close(self) -> None:
        self._ranks.close()
