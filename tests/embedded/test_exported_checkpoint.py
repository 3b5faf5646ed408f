"""The engine over what the decoder exporter wrote: the two must mean the same by every tensor."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from nvlm_trt.checkpoint.registry import open_checkpoint
from nvlm_trt.decoder.calibration import calibrate
from nvlm_trt.decoder.trtllm_checkpoint import write_trtllm_checkpoint
from nvlm_trt.embedded.engine import EmbeddedEngine
from nvlm_trt.errors import ArtefactError
from nvlm_trt.reference.decoder import ReferenceDecoder
from tests.embedded.answers import answers, assert_decided_alike, decoder_prompts, regrets


@pytest.fixture(scope="module")
def checkpoint(small_checkpoint):
    return open_checkpoint(small_checkpoint)


@pytest.fixture(scope="module")
def calibration(checkpoint):
    rows = np.random.default_rng(0).standard_normal((64, checkpoint.config.decoder.hidden_size)).astype(np.float32)
    return calibrate(checkpoint, [0.02 * rows, rows])


@pytest.fixture(scope="module")
def exported(checkpoint, calibration, tmp_path_factory):
    folder = tmp_path_factory.mktemp("exported") / "checkpoint"
    write_trtllm_checkpoint(checkpoint, calibration, folder)
    return folder


@pytest.mark.parametrize("quantize", [False, True])
def test_the_exporters_checkpoint_gives_the_references_answers(checkpoint, exported, quantize):
    decoder = checkpoint.config.decoder
    prompts = decoder_prompts(6, 60, decoder.vocab_size, decoder.hidden_size)
    engine = EmbeddedEngine(
        exported, max_batch_size=4, max_seq_len=512, max_num_tokens=260, quantize_activations=quantize, threads=1
    )
    tokens = answers(engine, prompts, 12)
    engine.close()
    if quantize:
        assert_decided_alike(ReferenceDecoder(exported, dtype=torch.float64), prompts, tokens)
    else:
        assert max(map(np.max, regrets(ReferenceDecoder(exported, False), prompts, tokens))) == 0


def test_a_checkpoint_for_two_gpus_is_refused(checkpoint, calibration, tmp_path):
    write_trtllm_checkpoint(checkpoint, calibration, tmp_path, tp=2)
    with pytest.raises(ArtefactError) as caught:
        EmbeddedEngine(tmp_path, max_batch_size=1, max_seq_len=64, max_num_tokens=64)
    assert caught.value.code == "E-ARTEFACT-RANKS"
