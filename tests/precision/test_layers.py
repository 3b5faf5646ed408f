"""The part of each layer, against checkpoints that were really written so and run by the oracle."""

from __future__ import annotations

from contextlib import closing

import numpy as np
import pytest
import torch

from nvlm_trt.checkpoint.registry import open_checkpoint
from nvlm_trt.decoder.calibration import calibrate
from nvlm_trt.decoder.linear_groups import all_groups, exclude_modules
from nvlm_trt.decoder.trtllm_checkpoint import write_trtllm_checkpoint
from nvlm_trt.precision import layers
from nvlm_trt.precision.answer_samples import AnswerSamples
from nvlm_trt.precision.divergence import divergence
from nvlm_trt.precision.forcing import ForcedAnswer
from nvlm_trt.precision.layers import layer_divergences
from nvlm_trt.precision.prompts import Prompts, StoredPrompt
from nvlm_trt.reference.decoder import ReferenceDecoder

# Of the second the end was not said: its last token predicts nothing that is known.
ANSWERS = [ForcedAnswer(0, "a", (5, 6, 7), 4), ForcedAnswer(1, "b", (9, 8), 2), ForcedAnswer(2, "c", (), 1)]


@pytest.fixture(scope="module")
def checkpoint(small_checkpoint):
    return open_checkpoint(small_checkpoint)


@pytest.fixture(scope="module")
def samples(checkpoint, tmp_path_factory):
    decoder, rng = checkpoint.config.decoder, np.random.default_rng(1)
    with closing(Prompts(tmp_path_factory.mktemp("prompts"), decoder.hidden_size)) as prompts:
        for number, length in enumerate((20, 30, 9)):
            ids = rng.integers(0, decoder.vocab_size, length).astype(np.int32)
            ids[4:8] = decoder.vocab_size + np.arange(4)
            rows = 0.02 * rng.standard_normal((4, decoder.hidden_size)).astype(np.float32)
            prompts.append(StoredPrompt(number, ids, rows, 1))
        yield AnswerSamples(checkpoint, prompts, ANSWERS)


@pytest.fixture(scope="module")
def calibration(checkpoint, samples):
    return calibrate(checkpoint, samples)


@pytest.fixture(scope="module")
def found(checkpoint, samples, calibration):
    return layer_divergences(checkpoint, samples, calibration)


def written(checkpoint, calibration, samples, folder, rounded):
    """Logits along each answer, of a checkpoint that has only the layers ``rounded`` in FP8."""
    kept = [group for group in all_groups(checkpoint.config.decoder.num_layers) if group.layer not in rounded]
    plain = {"quantization": "none"} if not rounded else {"exclude": exclude_modules(kept)}
    write_trtllm_checkpoint(checkpoint, calibration, folder, **plain)
    reference = ReferenceDecoder(folder, dtype=torch.float64)
    logits = []
    for index, answer in enumerate(ANSWERS):
        rows = torch.from_numpy(samples[index])
        ids = [reference.vocab_size + row for row in range(len(rows))]
        logits.append(reference.logits(ids, rows)[-answer.positions :].numpy().astype(np.float32))
    return logits


def test_samples_are_prompts_and_what_was_said_as_rows(samples, checkpoint):
    assert samples.lengths == [23, 31, 9]
    assert [len(samples[index]) for index in range(3)] == [23, 31, 9]
    embedding = checkpoint.read("language_model.model.embed_tokens.weight").astype(np.float32)
    assert np.array_equal(samples[0][-3:], embedding[[5, 6, 7]])
    assert np.array_equal(samples[1][-1], embedding[9])


def test_each_variant_is_what_a_checkpoint_written_so_gives(checkpoint, calibration, samples, found, tmp_path):
    count = checkpoint.config.decoder.num_layers
    every = set(range(count))
    exact = written(checkpoint, calibration, samples, tmp_path, set())
    variants = [(found.everything, every), (found.alone[0], {0}), (found.without[count - 1], every - {count - 1})]
    for sums, rounded in variants:
        other = written(checkpoint, calibration, samples, tmp_path, rounded)
        wanted = [divergence(one, two).sum() for one, two in zip(exact, other, strict=True)]
        # An activation at the border of two e4m3 numbers may fall to either side.
        assert sums == pytest.approx(wanted, rel=0.3)
        assert sum(sums) == pytest.approx(sum(wanted), rel=0.1)


def test_it_does_not_matter_how_many_variants_go_together(
    checkpoint, calibration, samples, found, monkeypatch, tmp_path
):
    """Passes of three variants, hidden states on disk; batches then begin and end elsewhere."""
    told = []
    monkeypatch.setattr(
        layers, "_SCRATCH_BYTES", 4 * 2 * 4 * checkpoint.config.decoder.hidden_size * sum(samples.lengths)
    )
    again = layer_divergences(
        checkpoint, samples, calibration, scratch=tmp_path, progress=lambda done, total: told.append((done, total))
    )
    count = checkpoint.config.decoder.num_layers
    passes = -(-(2 * count + 1) // 3)
    assert told[-1] == (passes * count, passes * count)
    assert np.array(again.alone) == pytest.approx(np.array(found.alone), rel=0.05)
    assert np.array(again.without) == pytest.approx(np.array(found.without), rel=0.05)
    assert not list(tmp_path.iterdir())
