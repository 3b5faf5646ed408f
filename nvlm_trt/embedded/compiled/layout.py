"""The memory layout of all that a step's code reads and writes: sizes in bytes, and the records of its arguments.

Rows of activations of all kinds are ``row_bytes`` apart, an odd number of cache lines: at a power of two the rows of a
tile would fall into one set of the cache.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from nvlm_trt.embedded.compiled.product_code import PIECE
from nvlm_trt.embedded.compiled.vector_writer import FLOAT, LINE, VectorWriter
from nvlm_trt.model.config import DecoderConfig

__all__ = ["BLOCK", "LAYER", "LINEAR", "STEP", "TILE", "Layout", "offset"]

BLOCK = 32  # positions in a block of the pool

# A matrix: its panels' address, whether they are e4m3; what sums are multiplied with; what its input is divided by
# before it is rounded to e4m3, or 0 where it is not.
LINEAR = np.dtype([("panels", "u8"), ("fp8", "i8"), ("restore", "f4"), ("quantise", "f4")])
LAYER = np.dtype(
    [
        ("cache", "u8"),  # its keys and values of block 0
        ("norm", "u8"),
        ("bias", "u8"),
        ("mlp_norm", "u8"),
        ("cache_scale", "f4", 2),  # of e4m3 keys and values, or 0 where they are not rounded; the second fills up
        *((name, LINEAR) for name in ("qkv", "dense", "fc", "gate", "proj")),
    ]
)
# Queries of one sequence that are computed together; the i-th of a key head is that of row i // group.
TILE = np.dtype(
    [
        ("query", "i4"),  # the first
        ("count", "i4"),
        ("source", "i4"),  # row of the sequence's first query
        ("target", "i4"),  # and of its result
        ("start", "i4"),  # position of the sequence's first query
        ("table", "i4"),  # where in the tables its blocks begin
    ]
)
STEP = np.dtype(
    [
        ("layers", "u8"),
        ("head", LINEAR),
        ("head_norm", "u8"),
        ("cosines", "u8"),  # [positions, head_dim / 2], as the sines
        ("sines", "u8"),
        ("hidden", "u8"),  # [rows, row_bytes], as the next two
        ("given", "u8"),  # to the next linear
        ("wide", "u8"),  # queries, keys and values; then what is between the two halves of the MLP
        ("logits", "u8"),  # [ends, padded vocabulary]
        ("scratch", "u8"),  # of thread 0
        ("board", "u8"),  # a line for each phase
        ("rows", "i8"),
        ("positions", "u8"),  # int32 of each row, as the block it goes to
        ("blocks", "u8"),
        ("tables", "u8"),  # int32
        ("tiles", "u8"),
        ("num_tiles", "i8"),
        ("ends", "u8"),  # int32, the rows that lead to logits
        ("num_ends", "i8"),
        ("last_tiles", "u8"),  # those of the last layer
        ("num_last_tiles", "i8"),
    ]
)


def offset(record: Any, *names: str) -> int:
    """Of a field in a record, or of a field within that field."""
    start = 0
    for name in names:
        record, begin = record.fields[name]
        start += begin
    return start


@dataclass(frozen=True, slots=True)
class Layout:
    """``columns`` and ``tile_rows`` are those of the writer."""

    config: DecoderConfig
    max_seq_len: int
    columns: int
    tile_rows: int

    @classmethod
    def of(cls, config: DecoderConfig, max_seq_len: int, w: VectorWriter) -> Layout:
        return cls(config, max_seq_len, w.columns, w.tile_rows)

    def padded(self, width: int) -> int:
        """``width`` rounded up to whole panels."""
        return -(-width // self.columns) * self.columns

    @property
    def group(self) -> int:
        """Query heads that share a key head."""
        return self.config.num_heads // self.config.num_kv_heads

    @property
    def row_bytes(self) -> int:
        config = self.config
        longest = max(config.hidden_size, config.intermediate_size, config.qkv_size, self.max_seq_len + BLOCK)
        return (-(-self.padded(longest) * FLOAT // LINE) | 1) * LINE

    @property
    def rows_at_once(self) -> int:
        """Rows that pass a panel together: they stay in the second cache while the panels go by."""
        return 10 * self.tile_rows

    @property
    def keys_bytes(self) -> int:
        """Of a head's keys in a block: [columns' worth of positions, channel, column]."""
        return BLOCK * self.config.head_dim * FLOAT

    @property
    def values_bytes(self) -> int:
        """Of a head's values in a block: [columns' worth of channels, position, column]."""
        return BLOCK * self.padded(self.config.head_dim) * FLOAT

    @property
    def block_bytes(self) -> int:
        """All heads' keys, then all heads' values, of one layer."""
        return self.config.num_kv_heads * (self.keys_bytes + self.values_bytes)

    def scratch(self) -> dict[str, int]:
        """Offsets of a thread's own buffers, and its ``size``."""
        panel_row = self.columns * FLOAT
        sizes = {
            "sums": self.rows_at_once * panel_row,
            "more_sums": self.rows_at_once * panel_row,
            "piece": PIECE * panel_row,
            "queries": self.tile_rows * self.row_bytes,
            "scores": self.tile_rows * self.row_bytes,
            "mixed": self.tile_rows * self.padded(self.config.head_dim) * FLOAT,
            "weights": self.tile_rows * FLOAT,
        }
        offsets, end = {}, 0
        for name, size in sizes.items():
            offsets[name] = end
            end += -(-size // LINE) * LINE
        return {**offsets, "size": end}
