"""Following a given answer: the logits are the engine's own, whoever goes along."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from nvlm_trt.embedded.engine import EmbeddedEngine, open_decoder
from nvlm_trt.embedded.forced import forced_logits
from nvlm_trt.embedded.request import GenerationRequest
from nvlm_trt.embedded.scheduler import Limits
from nvlm_trt.reference.decoder import ReferenceDecoder
from tests.embedded.answers import answers, decoder_prompts
from tests.embedded.decoder_folder import write_decoder_folder

LIMITS = Limits(max_batch_size=3, max_num_tokens=64, chunk=32)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_decoder_folder(tmp_path_factory.mktemp("forced"))


@pytest.fixture(scope="module")
def prompts():
    return decoder_prompts(5, 40, 512, 64)


def followed(folder, prompts, tokens, runner, limits=LIMITS):
    pool = open_decoder(folder, limits, runner=runner, max_seq_len=256, threads=1)
    asked = [
        (GenerationRequest("", ids, 16, table), given) for (ids, table), given in zip(prompts, tokens, strict=True)
    ]
    return list(forced_logits(pool, limits, asked))


@pytest.mark.parametrize("runner", ["compiled", "onnxruntime", "torch"])
def test_an_engines_own_answer_meets_the_logits_it_was_taken_from(folder, prompts, runner):
    engine = EmbeddedEngine(
        folder, runner=runner, max_batch_size=3, max_seq_len=256, max_num_tokens=64, chunk=32, threads=1
    )
    tokens = answers(engine, prompts, 7)
    engine.close()
    found = followed(folder, prompts, tokens, runner)
    assert [rows.shape for rows in found] == [(8, 512)] * len(prompts)
    assert [rows[:-1].argmax(axis=1).tolist() for rows in found] == tokens


@pytest.mark.parametrize("runner", ["compiled", "onnxruntime"])
def test_a_strangers_answer_is_followed_as_the_reference_follows_it_and_company_does_not_show(folder, prompts, runner):
    rng = np.random.default_rng(0)
    tokens = [rng.integers(0, 512, length).tolist() for length in (0, 1, 5, 9, 2)]
    together = followed(folder, prompts, tokens, runner)
    alone = followed(folder, prompts, tokens, runner, Limits(1, 64, chunk=32))
    assert all(np.array_equal(one, other) for one, other in zip(together, alone, strict=True))
    reference = ReferenceDecoder(folder)
    for (ids, table), given, rows in zip(prompts, tokens, together, strict=True):
        wanted = reference.logits([*ids.tolist(), *given], None if table is None else torch.from_numpy(table))
        error = np.abs(rows - wanted[len(ids) - 1 :].numpy()).max() / wanted.std().item()
        assert error < 0.3  # an activation at the border of two e4m3 numbers; without one it is 1e-5
