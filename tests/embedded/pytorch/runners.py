"""Runners over a decoder folder, and how they are driven: blocks anywhere in the pool, never in order."""

from __future__ import annotations

import numpy as np
import torch

from nvlm_trt.embedded.checkpoint import DecoderCheckpoint
from nvlm_trt.embedded.pytorch.arithmetic import Arithmetic
from nvlm_trt.embedded.pytorch.runner import TorchRunner
from nvlm_trt.embedded.pytorch.sizes import RunnerSizes
from nvlm_trt.embedded.pytorch.weights import CheckpointWeights

CPU = torch.device("cpu")
BLOCK_SIZE = 16
SIZES = RunnerSizes(max_seq_len=160, max_batch_size=5, max_rows=160, block_size=BLOCK_SIZE)


def make_runner(folder, make_ops=None, **arithmetic):
    checkpoint = DecoderCheckpoint(folder)
    source = CheckpointWeights(checkpoint, CPU)
    return TorchRunner(
        checkpoint.config, source, SIZES, device=CPU, arithmetic=Arithmetic(**arithmetic), make_ops=make_ops
    )


def scattered_tables(runner, count, seed=0):
    """Blocks for ``count`` sequences of full length, [count, width]: no two alike, none where one would guess."""
    blocks = np.random.default_rng(seed).permutation(runner.num_blocks).astype(np.int32)
    return blocks[: count * SIZES.width].reshape(count, SIZES.width)


def prefill(runner, blocks, ids, table, chunk=16):
    for start in range(0, len(ids), chunk):
        used = blocks[: -(-min(start + chunk, len(ids)) // runner.block_size)]
        logits = runner.prefill(used, start, ids[start : start + chunk], table)
    return logits.copy()


def continued(runner, prompts, length, tables=None):
    """Logits of the prompts' ends and of ``length`` greedy tokens after each, generated together: [prompt, step]."""
    tables = scattered_tables(runner, len(prompts)) if tables is None else tables
    rows = [np.stack([prefill(runner, blocks, *prompt) for blocks, prompt in zip(tables, prompts, strict=True)])]
    lengths = np.array([len(ids) for ids, _ in prompts], np.int32)
    for _ in range(length):
        width = -(-(int(lengths.max()) + 1) // runner.block_size)
        tokens = rows[-1].argmax(axis=1).astype(np.int32)
        rows.append(runner.decode(tables[:, :width], lengths, tokens).copy())
        lengths += 1
    return np.stack(rows, axis=1)
