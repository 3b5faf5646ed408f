"""A ``BlockRunner`` on the CPU in code of its own, that reads FP8 weights as they are.

Decoding is bound by the bytes of the weights, and e4m3 is a quarter of what ONNX Runtime's kernels want to be given. A
step is one call of compiled code (``step_code``) on every thread of a team; what Python does for it is to say which rows
there are and where they go.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from nvlm_trt.embedded.checkpoint import DecoderCheckpoint
from nvlm_trt.embedded.compiled.layout import BLOCK, STEP, TILE
from nvlm_trt.embedded.compiled.memory import aligned
from nvlm_trt.embedded.compiled.packed_weights import PackedWeights
from nvlm_trt.embedded.compiled.step_function import step_function
from nvlm_trt.embedded.compiled.team import Team
from nvlm_trt.errors import ArtefactError

__all__ = ["CompiledRunner"]


class CompiledRunner:
    """``max_rows`` is the most ids of one ``prefill``; ``num_blocks`` None is room for every sequence at full length;
    ``threads`` None means all cores.
    """

    block_size = BLOCK

    def __init__(
        self,
        checkpoint: DecoderCheckpoint,
        *,
        max_batch_size: int,
        max_seq_len: int,
        max_rows: int,
        num_blocks: int | None = None,
        quantize_activations: bool = True,
        threads: int | None = None,
    ) -> None:
        if checkpoint.config.tp != 1:
            raise ArtefactError(
                "E-ARTEFACT-RANKS",
                f"The decoder checkpoint is split over {checkpoint.config.tp} ranks; the CPU runner reads one.",
                'Build it with tp = 1, or serve it with decoder.runner = "torch" or with TensorRT-LLM.',
            )
        config = checkpoint.config.decoder
        self.vocab_size, self.hidden_size = config.vocab_size, config.hidden_size
        self.max_positions = config.max_positions
        self.num_blocks = num_blocks or max_batch_size * -(-max_seq_len // BLOCK)
        self._embedding = checkpoint.read("transformer.vocab_embedding.weight")
        code = step_function(config, checkpoint.config.dtype, max_seq_len)
        layout = self._layout = code.layout
        self._weights = PackedWeights(checkpoint, layout, quantize_activations)
        # Attention never looks beyond a sequence's length: what a block held before, even NaN, does not show.
        self._cache = aligned((config.num_layers, self.num_blocks, layout.block_bytes // 4), np.float32)
        self._weights.layers["cache"] = [layer.ctypes.data for layer in self._cache]
        rows = max(max_rows, max_batch_size)
        floats = layout.row_bytes // 4
        self._rotary = _rotary_tables(config, max_seq_len)
        self._hidden = aligned((rows, floats), np.float32, zeroed=True)
        self._given, self._wide = (aligned((rows, floats), np.float32, zeroed=True) for _ in range(2))
        self._logits = aligned((max_batch_size, layout.padded(config.vocab_size)), np.float32)
        step = self._step = np.zeros((), STEP)
        cosines, sines = self._rotary
        for name, array in {
            "layers": self._weights.layers, "cosines": cosines, "sines": sines, "hidden": self._hidden,
            "given": self._given, "wide": self._wide, "logits": self._logits,
        }.items():  # fmt: skip
            step[name] = array.ctypes.data
        self._team = Team(code, step, threads)
        step["head"], step["head_norm"] = self._weights.head, self._weights.head_norm

    def prefill(
        self, blocks: NDArray[np.int32], start: int, ids: NDArray[np.int32], prompt_table: NDArray[np.float32] | None
    ) -> NDArray[np.float32]:
        virtual = ids >= self.vocab_size
        hidden = self._hidden[: len(ids), : self.hidden_size]
        if prompt_table is None or not virtual.any():
            hidden[:] = self._embedding[ids]
        else:
            hidden[:] = self._embedding[np.where(virtual, 0, ids)]
            hidden[virtual] = prompt_table[ids[virtual] - self.vocab_size]
        last: NDArray[np.float32] = self._run(blocks[np.newaxis], np.array([start], np.int32), np.array([len(ids)]))[0]
        return last

    def decode(
        self, tables: NDArray[np.int32], lengths: NDArray[np.int32], ids: NDArray[np.int32]
    ) -> NDArray[np.float32]:
        self._hidden[: len(ids), : self.hidden_size] = self._embedding[ids]
        return self._run(tables, lengths, np.ones(len(ids), np.int64))

    def close(self) -> None:
        self._team.close()

    def _run(self, tables: NDArray[np.int32], starts: NDArray[np.int32], counts: NDArray[np.int64]) -> Any:
        """Rows of one sequence after another, as many of each as ``counts`` [n] says, from position ``starts`` [n] on;
        the logits [n, vocab] of each one's last.
        """
        layout, step = self._layout, self._step
        firsts = np.cumsum(counts) - counts
        of = np.repeat(np.arange(len(counts)), counts)
        offsets = np.arange(len(of)) - firsts[of]
        positions = (starts[of] + offsets).astype(np.int32)
        blocks = tables[of, positions // BLOCK].astype(np.int32)
        tables = np.ascontiguousarray(tables, np.int32)
        tiles = _tiles(layout.tile_rows, layout.group, tables.shape[1], starts, firsts, np.zeros_like(counts), counts)
        ends = (firsts + counts - 1).astype(np.int32)
        last = _tiles(
            layout.tile_rows, layout.group, tables.shape[1], starts, firsts, counts - 1, counts,
        )  # fmt: skip
        last["target"] = np.repeat(np.arange(len(counts)) - (counts - 1), len(last) // len(counts))
        for name, array in {
            "positions": positions, "blocks": blocks, "tables": tables, "tiles": tiles, "ends": ends, "last_tiles": last
        }.items():  # fmt: skip
            step[name] = array.ctypes.data
        step["rows"], step["num_ends"] = len(of), len(counts)
        step["num_tiles"], step["num_last_tiles"] = len(tiles), len(last)
        self._team.run()
        return self._logits[: len(counts), : self.vocab_size]


def _tiles(tile_rows: int, group: int, width: int, starts: Any, firsts: Any, begins: Any, counts: Any) -> Any:
    """Rows ``begins`` to ``counts`` of each sequence, cut into tiles of queries."""
    queries = (counts - begins) * group
    per_sequence = -(-queries // tile_rows)
    of = np.repeat(np.arange(len(counts)), per_sequence)
    index = np.arange(len(of)) - (np.cumsum(per_sequence) - per_sequence)[of]
    tiles = np.zeros(len(of), TILE)
    tiles["query"] = begins[of] * group + index * tile_rows
    tiles["count"] = np.minimum(tile_rows, queries[of] - index * tile_rows)
    tiles["source"] = tiles["target"] = firsts[of]
    tiles["start"], tiles["table"] = starts[of], of * width
    return tiles


def _rotary_tables(config: Any, max_seq_len: int) -> list[NDArray[np.float32]]:
    frequencies = config.rope_theta ** -(np.arange(0, config.head_dim, 2) / config.head_dim)
    angles = np.outer(np.arange(max_seq_len), frequencies)
    return [np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)]
