"""The engine over what the decoder exporter wrote: the two must mean the same by every tensor."""

from __future__ import annotations

from typing import Any

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


FORMS: dict[str, dict[str, Any]] = {
    "fp8": {},
    "some linears kept": {"exclude": ["*.layers.0.attention.qkv", "*.layers.1.mlp.fc", "*.layers.1.mlp.gate", "*.3.*"]},
    "nothing quantised": {"quantization": "none"},
    "fp8 cache": {"kv_cache": "fp8"},
    "fp8 cache alone": {"quantization": "none", "kv_cache": "fp8"},
}


# Each form, and in ONNX Runtime's graph those that change it.
CASES = [*(("compiled", form) for form in FORMS), ("onnxruntime", "fp8 cache"), ("onnxruntime", "some linears kept")]


@pytest.mark.parametrize("quantize", [False, True])
@pytest.mark.parametrize(("runner", "form"), CASES)
def test_the_exporters_checkpoint_gives_the_references_answers(
    checkpoint, calibration, tmp_path, runner, form, quantize
):
    write_trtllm_checkpoint(checkpoint, calibration, tmp_path, **FORMS[form])
    decoder = checkpoint.config.decoder
    prompts = decoder_prompts(6, 60, decoder.vocab_size, decoder.hidden_size)
    engine = EmbeddedEngine(
        tmp_path,
        runner=runner,
        max_batch_size=4,
        max_seq_len=512,
        max_num_tokens=260,
        quantize_activations=quantize,
        threads=1,
    )
    tokens = answers(engine, prompts, 12)
    engine.close()
    if quantize and form != "nothing quantised":
        assert_decided_alike(ReferenceDecoder(tmp_path, dtype=torch.float64), prompts, tokens)
    else:
        assert max(map(np.max, regrets(ReferenceDecoder(tmp_path, quantize), prompts, tokens))) == 0


def test_keeping_more_linears_brings_the_logits_nearer_to_the_unquantised_ones(checkpoint, calibration, tmp_path):
    logits = {}
    for form, options in FORMS.items():
        write_trtllm_checkpoint(checkpoint, calibration, tmp_path / form, **options)
        logits[form] = ReferenceDecoder(tmp_path / form).logits(list(range(40)))
    exact = logits["nothing quantised"]
    errors = [float((logits[form] - exact).norm() / exact.norm()) for form in FORMS]
    assert errors[0] > errors[1] > errors[2] == 0
    assert errors[0] < 0.2


def test_a_checkpoint_for_two_gpus_is_refused(checkpoint, calibration, tmp_path):
    write_trtllm_checkpoint(checkpoint, calibration, tmp_path, tp=2)
    with pytest.raises(ArtefactError) as caught:
        EmbeddedEngine(tmp_path, max_batch_size=1, max_seq_len=64, max_num_tokens=64)
    assert caught.value.code == "E-ARTEFACT-RANKS"
