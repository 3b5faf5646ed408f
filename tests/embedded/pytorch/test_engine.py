"""The engine over the torch runner, alone and over ranks, on what the exporter wrote."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest

from nvlm_trt.checkpoint.registry import open_checkpoint
from nvlm_trt.decoder.calibration import calibrate
from nvlm_trt.decoder.trtllm_checkpoint import write_trtllm_checkpoint
from nvlm_trt.embedded.engine import EmbeddedEngine
from nvlm_trt.embedded.request import FinishReason, GenerationRequest
from nvlm_trt.errors import ArtefactError
from nvlm_trt.reference.decoder import ReferenceDecoder
from tests.embedded.answers import PATIENCE_S, Listener, answers, decoder_prompts, regrets
from tests.embedded.decoder_folder import CONFIG


def open_engine(folder, **options):
    sizes = {"max_batch_size": 4, "max_seq_len": 256, "max_num_tokens": 68, "chunk": 64, "threads": 1}
    return EmbeddedEngine(folder, **{"runner": "torch", "quantize_activations": False, **sizes, **options})


def test_answers_are_the_references_token_for_token(decoder_folder):
    engine = open_engine(decoder_folder)
    prompts = decoder_prompts(8, 40, CONFIG["vocab_size"], CONFIG["hidden_size"])
    tokens = answers(engine, prompts, 24)
    engine.close()
    reference = ReferenceDecoder(decoder_folder, quantize_activations=False)
    assert max(map(np.max, regrets(reference, prompts, tokens))) == 0


def test_two_ranks_answer_as_one_until_one_dies(small_checkpoint, tmp_path):
    checkpoint = open_checkpoint(small_checkpoint)
    decoder = checkpoint.config.decoder
    rows = np.random.default_rng(0).standard_normal((64, decoder.hidden_size)).astype(np.float32)
    calibration = calibrate(checkpoint, [0.02 * rows, rows])
    prompts = decoder_prompts(6, 60, decoder.vocab_size, decoder.hidden_size)
    tokens = {}
    for tp in (1, 2):
        write_trtllm_checkpoint(checkpoint, calibration, tmp_path / str(tp), tp=tp)
        engine = open_engine(tmp_path / str(tp))
        tokens[tp] = answers(engine, prompts, 12)
        if tp == 1:
            engine.close()
    assert tokens[1] == tokens[2]

    runner = engine._pool.runner
    pids, listener = runner.pids, Listener()
    engine.submit(GenerationRequest("long", prompts[0][0], 150, prompts[0][1]), listener)
    assert listener.first.wait(PATIENCE_S)
    os.kill(pids[1], signal.SIGKILL)
    started = time.monotonic()
    last = listener.wait()
    assert (last.finish, last.error.code) == (FinishReason.ERROR, "E-ENGINE-FAULT")
    assert time.monotonic() - started < 5
    assert not engine.metrics()["healthy"]
    with pytest.raises(ArtefactError):
        engine.submit(GenerationRequest("next", prompts[0][0], 1, prompts[0][1]), Listener())
    engine.close()
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)
