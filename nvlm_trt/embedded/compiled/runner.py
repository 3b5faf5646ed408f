"""A ``BlockRunner`` on the CPU in code of its own that reads FP8 weights as they are.

Decoding is bound by the bytes of the weights, and e4m3 takes a quarter of what ONNX Runtime's kernels read. A step is
one call of compiled code (``step_code``) on every thread of a team; Python only says which rows there are and where
they go.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from nvlm_trt.embedded.checkpoint import DecoderCheckpoint
from nvlm_trt.embedded.compiled.layout import BLOCK, STEP
from nvlm_trt.embedded.compiled.memory import aligned
from nvlm_trt.embedded.compiled.packed_weights import PackedWeights
from nvlm_trt.embedded.compiled.step_function import step_function
from nvlm_trt.embedded.compiled.step_rows import StepRows
from nvlm_trt.embedded.compiled.team import Team
from nvlm_trt.embedded.compiled.vector_writer import FLOAT

__all__ = ["CompiledRunner"]


class CompiledRunner:
    """``max_rows`` is the most ids of one ``prefill``; ``num_blocks`` None means room for every sequence at full
    length; ``threads`` None means all cores; ``without`` lists prefixes of processor features not to use.
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
        without: tuple[str, ...] = (),
    ) -> None:
        checkpoint.config.require_one_rank()
        config = checkpoint.config.decoder
        self.vocab_size, self.hidden_size = config.vocab_size, config.hidden_size
        self.max_positions = config.max_positions
        self.num_blocks = num_blocks or max_batch_size * -(-max_seq_len // BLOCK)
        self._embedding = checkpoint.read("transformer.vocab_embedding.weight")
        code = step_function(config, checkpoint.config.dtype, max_seq_len, without)
        layout = code.layout
        self._weights = PackedWeights(checkpoint, layout, quantize_activations)
        # Attention never looks beyond a sequence's length: what a block held before, even NaN, does not show.
        self._cache = aligned((config.num_layers, self.num_blocks, layout.block_bytes // FLOAT), np.float32)
        self._weights.layers["cache"] = [layer.ctypes.data for layer in self._cache]
        rows = max(max_rows, max_batch_size)
        self._hidden, *others = (aligned((rows, layout.row_bytes // FLOAT), np.float32, zeroed=True) for _ in range(3))
        self._logits = aligned((max_batch_size, layout.padded(config.vocab_size)), np.float32)
        step = np.zeros((), STEP)
        self._held = dict(
            zip(
                ("layers", "cosines", "sines", "hidden", "given", "wide", "logits"),
                (self._weights.layers, *_rotary_tables(config, max_seq_len), self._hidden, *others, self._logits),
                strict=True,
            )
        )
        for name, array in self._held.items():
            step[name] = array.ctypes.data
        step["head"], step["head_norm"] = self._weights.head, self._weights.head_norm
        self._rows = StepRows(step, layout, rows, max_batch_size)
        self._team = Team(code, step, threads)

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
        self._rows.prefill(blocks, start, len(ids))
        last: NDArray[np.float32] = self._run(1)[0]
        return last

    def decode(
        self, tables: NDArray[np.int32], lengths: NDArray[np.int32], ids: NDArray[np.int32]
    ) -> NDArray[np.float32]:
        self._hidden[: len(ids), : self.hidden_size] = self._embedding[ids]
        self._rows.decode(tables, lengths)
        return self._run(len(ids))

    def close(self) -> None:
        self._team.close()

    def _run(self, num_sequences: int) -> NDArray[np.float32]:
        self._team.run()
        return self._logits[:num_sequences, : self.vocab_size]


def _rotary_tables(config: Any, max_seq_len: int) -> list[NDArray[np.float32]]:
    frequencies = config.rope_theta ** -(np.arange(0, config.head_dim, 2) / config.head_dim)
    angles = np.outer(np.arange(max_seq_len), frequencies)
    return [np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)]
