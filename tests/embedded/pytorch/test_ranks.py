"""What a checkpoint may split between ranks: the ranks as threads here, as processes in ``test_parallel_runner``."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from nvlm_trt.embedded.checkpoint import DecoderCheckpoint
from nvlm_trt.embedded.pytorch.runner import TorchRunner
from nvlm_trt.embedded.pytorch.weights import CheckpointWeights
from tests.embedded.decoder_folder import picture_prompt, write_decoder_folder
from tests.embedded.pytorch.rank_folder import write_rank_folder
from tests.embedded.pytorch.runners import CPU, SIZES, continued, make_runner


class ThreadRanks:
    def __init__(self, rank, parts, barrier):
        self.rank, self._parts, self._barrier = rank, parts, barrier

    def sum(self, part):
        return torch.stack(self._gathered(part)).sum(0)

    def concat(self, part):
        return torch.cat(self._gathered(part), dim=-1)

    def least(self, number):
        return number

    def _gathered(self, part):
        self._parts[self.rank] = part.clone()
        self._barrier.wait(30)
        gathered = list(self._parts)
        self._barrier.wait(30)
        return gathered


@pytest.mark.parametrize("embedding_dim", [None, 0, 1])
@pytest.mark.parametrize("tp", [2, 4])
def test_every_split_gives_the_logits_of_one_rank(tmp_path, tp, embedding_dim):
    shape = {"num_attention_heads": 8, "num_key_value_heads": 4, "intermediate_size": 96, "vocab_size": 509}
    whole = write_decoder_folder(tmp_path / "whole", **shape)
    folder = write_rank_folder(whole, tmp_path / "ranks", tp, embedding_dim)
    prompts = [picture_prompt(seed, 9, 5, 509, 64) for seed in range(2)]
    expected = continued(make_runner(whole), prompts, 3)
    parts, barrier = [torch.empty(0)] * tp, threading.Barrier(tp)

    def run(rank):
        checkpoint, ranks = DecoderCheckpoint(folder, rank), ThreadRanks(rank, parts, barrier)
        runner = TorchRunner(checkpoint.config, CheckpointWeights(checkpoint, CPU), SIZES, device=CPU, ranks=ranks)
        return continued(runner, prompts, 3)

    with ThreadPoolExecutor(tp) as pool:
        rows = list(pool.map(run, range(tp)))
    assert all(np.array_equal(other, rows[0]) for other in rows)
    errors = np.abs(rows[0] - expected).max(axis=2) / expected.std()
    assert np.median(errors) < 1e-5  # with quantised activations a few values may tip over a border
    assert errors.max() < 0.2
