"""How runners over blocks are driven: blocks anywhere in the pool, never in order."""

from __future__ import annotations

import numpy as np

MAX_SEQ_LEN, MAX_BATCH_SIZE = 160, 5  # of the runners that are driven here


def scattered_tables(runner, count, seed=0):
    """Blocks for ``count`` sequences of full length, [count, width]: no two alike, none where one would guess."""
    width = -(-MAX_SEQ_LEN // runner.block_size)
    blocks = np.random.default_rng(seed).permutation(runner.num_blocks).astype(np.int32)
    return blocks[: count * width].reshape(count, width)


def prefill(runner, blocks, ids, table, chunk=16):
    for start in range(0, len(ids), chunk):
        used = blocks[: -(-min(start + chunk, len(ids)) // runner.block_size)]
        logits = runner.prefill(used, start, ids[start : start + chunk], table)
    return logits.copy()


def continued(runner, prompts, length, tables=None, tokens=None):
    """Logits of the prompts' ends and of ``length`` tokens after each, generated together: [prompt, step].

    Greedy ones, or those of ``tokens`` [prompt, step].
    """
    tables = scattered_tables(runner, len(prompts)) if tables is None else tables
    rows = [np.stack([prefill(runner, blocks, *prompt) for blocks, prompt in zip(tables, prompts, strict=True)])]
    lengths = np.array([len(ids) for ids, _ in prompts], np.int32)
    for step in range(length):
        width = -(-(int(lengths.max()) + 1) // runner.block_size)
        next_ids = rows[-1].argmax(axis=1) if tokens is None else tokens[:, step]
        rows.append(runner.decode(tables[:, :width], lengths, next_ids.astype(np.int32)).copy())
        lengths += 1
    return np.stack(rows, axis=1)
