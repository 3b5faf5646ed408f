from __future__ import annotations

import numpy as np
import pytest
import torch

from nvlm_trt.embedded.checkpoint import DecoderCheckpoint
from nvlm_trt.embedded.onnxruntime_runner import OnnxRuntimeRunner
from nvlm_trt.reference.decoder import ReferenceDecoder
from tests.embedded.decoder_folder import CONFIG, picture_prompt, with_raised_scales, write_decoder_folder

VOCAB, HIDDEN = CONFIG["vocab_size"], CONFIG["hidden_size"]
NUM_SLOTS, MAX_SEQ_LEN = 8, 160


def make_runner(folder, **options):
    options = {"num_slots": NUM_SLOTS, "max_seq_len": MAX_SEQ_LEN, "max_rows": MAX_SEQ_LEN, "threads": 1, **options}
    return OnnxRuntimeRunner(DecoderCheckpoint(folder), **options)


@pytest.fixture(scope="module")
def runner(decoder_folder):
    return make_runner(decoder_folder)


def prompt(seed, num_text=14, num_rows=25):
    return picture_prompt(seed, num_text, num_rows, VOCAB, HIDDEN)


def prefill(runner, slot, ids, table, chunk=16):
    for start in range(0, len(ids), chunk):
        logits = runner.prefill(slot, start, ids[start : start + chunk], table)
    return logits.copy()


def continued(runner, slot, ids, table, length):
    """Logits of a slot's prompt and of ``length`` greedy tokens after it, alone in slot 0."""
    assert slot == 0
    rows = [prefill(runner, slot, ids, table)]
    for position in range(len(ids), len(ids) + length):
        token = rows[-1].argmax()
        rows.append(runner.decode(np.array([position], np.int32), np.array([token], np.int32))[0].copy())
    return np.stack(rows)


@pytest.mark.parametrize("quantize", [False, True])
@pytest.mark.parametrize("model_dtype", ["bfloat16", "float16"])
def test_logits_are_the_references(tmp_path, quantize, model_dtype):
    folder = write_decoder_folder(tmp_path, dtype=model_dtype)
    runner = make_runner(folder, quantize_activations=quantize)
    reference = ReferenceDecoder(folder, quantize, torch.float64)
    errors = []
    for seed in range(4):
        ids, table = prompt(seed)
        rows = continued(runner, 0, ids, table, 6)
        ids = [*ids.tolist(), *rows[:-1].argmax(axis=1).tolist()]
        expected = reference.logits(ids, torch.from_numpy(table))[-7:].numpy()
        errors.append(np.abs(rows - expected).max(axis=1) / expected.std())
    errors = np.concatenate(errors)
    # Quantised, an activation on the border of two e4m3 numbers may round to the other: seldom, and then visibly.
    assert (errors < 1e-5).mean() >= (0.9 if quantize else 1.0)
    assert errors.max() < 0.2


def test_fc_and_gate_share_the_larger_scale(tmp_path, decoder_folder):
    """As the engine's builder fuses them: raising one of the two is raising both."""
    raised = [with_raised_scales(tmp_path / "one", "gate"), with_raised_scales(tmp_path / "both", "gate", "fc")]
    one, both, neither = (prefill(make_runner(folder), 0, *prompt(0)) for folder in (*raised, decoder_folder))
    assert np.array_equal(one, both)
    assert not np.array_equal(one, neither)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("quantize", [False, True])
def test_a_row_has_the_same_bits_alone_and_in_company(decoder_folder, threads, quantize):
    runner = make_runner(decoder_folder, threads=threads, quantize_activations=quantize)
    prompts = [prompt(seed, 6 + 7 * seed, 3 * seed) for seed in range(NUM_SLOTS)]
    alone = [continued(runner, 0, ids, table, 12) for ids, table in prompts]
    for size in (2, 3, NUM_SLOTS):
        latest = [prefill(runner, slot, *prompts[slot]) for slot in range(size)]
        lengths = np.array([len(ids) for ids, _ in prompts[:size]], np.int32)
        for step in range(13):
            assert all(np.array_equal(latest[slot], alone[slot][step]) for slot in range(size))
            tokens = np.array([row.argmax() for row in latest], np.int32)
            latest = list(runner.decode(lengths, tokens).copy())
            lengths += 1


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("quantize", [False, True])
def test_a_row_has_the_same_bits_in_pieces_of_any_size_but_one(decoder_folder, threads, quantize):
    """Why reuse may begin anywhere, so long as it leaves no row alone that was not alone."""
    runner = make_runner(decoder_folder, threads=threads, quantize_activations=quantize)
    ids, table = prompt(3, 60, 90)
    whole = prefill(runner, 0, ids, table, chunk=150)
    expected = runner._cache[:, :, 0, :, :150].copy()
    for chunk in (2, 3, 5, 14, 32, 46, 148):
        assert np.array_equal(prefill(runner, 1, ids, table, chunk), whole)
        assert np.array_equal(runner._cache[:, :, 1, :, :150], expected)


def test_what_a_slot_held_before_does_not_show(runner):
    ids, table = prompt(1)
    fresh = continued(runner, 0, ids, table, 3)
    runner._cache[:] = np.nan
    assert np.array_equal(continued(runner, 0, ids, table, 3), fresh)


def test_a_moved_sequence_goes_on_as_if_it_had_not_been(runner):
    ids, table = prompt(2)
    expected = continued(runner, 0, ids, table, 1)
    runner._cache[:] = np.nan
    first = prefill(runner, 5, ids, table)
    runner.move(5, 0, len(ids))
    runner._cache[:, :, 5] = np.nan
    second = runner.decode(np.array([len(ids)], np.int32), np.array([first.argmax()], np.int32))[0]
    assert np.array_equal(np.stack([first, second]), expected)


def test_a_sequence_may_fill_its_slot(runner):
    ids = np.arange(MAX_SEQ_LEN, dtype=np.int32)
    whole = prefill(runner, NUM_SLOTS - 1, ids, None)
    prefill(runner, 0, ids[:-1], None)
    last = runner.decode(np.array([MAX_SEQ_LEN - 1], np.int32), ids[-1:])[0]
    assert np.abs(last - whole).max() < 0.2 * whole.std()
