"""Checkpoints of several ranks, in real processes; some of which really die."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest

from nvlm_trt.embedded.pytorch.arithmetic import Arithmetic
from nvlm_trt.embedded.pytorch.parallel_runner import ParallelRunner
from nvlm_trt.errors import ArtefactError
from tests.embedded.decoder_folder import picture_prompt, write_decoder_folder
from tests.embedded.pytorch.rank_folder import write_rank_folder
from tests.embedded.pytorch.runners import SIZES, continued, make_runner, prefill, scattered_tables

VOCAB, HIDDEN = 510, 64  # four ranks do not divide this vocabulary: theirs is padded
DEADLINE_S = 2.0


@pytest.fixture(scope="module")
def whole_folder(tmp_path_factory):
    shape = {"num_attention_heads": 8, "num_key_value_heads": 4, "intermediate_size": 256, "vocab_size": VOCAB}
    return write_decoder_folder(tmp_path_factory.mktemp("whole"), **shape)


def open_ranks(folder):
    arithmetic = Arithmetic(quantize_activations=False)
    return ParallelRunner(folder, SIZES, device="cpu", arithmetic=arithmetic, step_deadline_s=DEADLINE_S)


def gone(pids):
    return not any(Path(f"/proc/{pid}").exists() for pid in pids)


def test_four_ranks_answer_as_one_until_one_is_silent(whole_folder, tmp_path):
    prompts = [picture_prompt(seed, 9 + 8 * seed, 6 * (seed % 2), VOCAB, HIDDEN) for seed in range(3)]
    expected = continued(make_runner(whole_folder, quantize_activations=False), prompts, 12)
    runner = open_ranks(write_rank_folder(whole_folder, tmp_path / "ranks", 4))
    rows = continued(runner, prompts, 12)
    assert np.array_equal(rows.argmax(axis=2), expected.argmax(axis=2))
    assert np.abs(rows - expected).max() < 1e-5 * expected.std()
    # The order of every sum is fixed: not the last bit depends on which rank came first.
    assert np.array_equal(continued(runner, prompts, 12), rows)

    pids = runner.pids
    assert len(pids) == 4
    assert runner.alive
    os.kill(pids[1], signal.SIGSTOP)
    started = time.monotonic()
    for _ in range(2):
        with pytest.raises(ArtefactError) as caught:
            prefill(runner, scattered_tables(runner, 1)[0], *prompts[0])
        assert caught.value.code == "E-ENGINE-RANK"
    assert time.monotonic() - started < DEADLINE_S + 2
    assert not runner.alive
    assert gone(pids)
    runner.close()


def test_closing_leaves_no_process_and_no_file(whole_folder, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    runner = open_ranks(whole_folder)
    pids = runner.pids
    assert len(list(tmp_path.iterdir())) == len(pids) == 1
    runner.close()
    runner.close()
    assert gone(pids)
    assert not list(tmp_path.iterdir())


def test_every_ranks_file_is_looked_at_first(whole_folder, tmp_path):
    folder = write_rank_folder(whole_folder, tmp_path / "ranks", 2)
    (folder / "rank1.safetensors").unlink()
    with pytest.raises(ArtefactError) as caught:
        open_ranks(folder)
    assert caught.value.code == "E-ARTEFACT-DECODER"
    assert "rank1.safetensors is missing" in caught.value.what
