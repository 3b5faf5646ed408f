"""The torch runner on the CPU: the code that CUDA runs, but for the kernels and the capture."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from nvlm_trt.embedded.checkpoint import DecoderCheckpoint
from nvlm_trt.embedded.onnxruntime_runner import OnnxRuntimeRunner
from nvlm_trt.embedded.pytorch import weights
from nvlm_trt.embedded.pytorch.sizes import RunnerSizes
from nvlm_trt.errors import UsageError
from nvlm_trt.reference.decoder import ReferenceDecoder
from tests.embedded.decoder_folder import CONFIG, picture_prompt
from tests.embedded.pytorch.runners import continued, make_runner, prefill, scattered_tables

VOCAB, HIDDEN = CONFIG["vocab_size"], CONFIG["hidden_size"]


def ragged_prompts(count=5):
    return [picture_prompt(seed, 5 + 9 * seed, 7 * (seed % 3), VOCAB, HIDDEN) for seed in range(count)]


def onnxruntime_rows(folder, prompts, tokens):
    """What ONNX Runtime's runner says after each prompt and each of ``tokens`` [prompt, step], one by one."""
    runner = OnnxRuntimeRunner(
        DecoderCheckpoint(folder), num_slots=1, max_seq_len=160, max_rows=160, quantize_activations=False, threads=1
    )
    for (ids, table), answer in zip(prompts, tokens, strict=True):
        rows = [runner.prefill(0, 0, ids, table).copy()]
        for position, token in enumerate(answer, len(ids)):
            rows.append(runner.decode(np.array([position], np.int32), np.array([token], np.int32))[0].copy())
        yield np.stack(rows)


def test_tokens_and_logits_are_those_of_onnxruntime(decoder_folder):
    prompts = ragged_prompts()
    rows = continued(make_runner(decoder_folder, quantize_activations=False), prompts, 20)
    expected = np.stack(list(onnxruntime_rows(decoder_folder, prompts, rows[:, :-1].argmax(axis=2))))
    assert np.array_equal(rows.argmax(axis=2), expected.argmax(axis=2))
    assert np.abs(rows - expected).max() < 1e-5 * expected.std()


@pytest.mark.parametrize("fp8", ["emulated", "hardware"])
def test_quantised_logits_are_the_references(decoder_folder, fp8):
    """ "hardware" on a CPU is torch's own product of e4m3 matrices: the call that Hopper gets."""
    prompts = ragged_prompts()
    rows = continued(make_runner(decoder_folder, fp8=fp8), prompts, 6)
    reference = ReferenceDecoder(decoder_folder, dtype=torch.float64)
    errors = []
    for (ids, table), row in zip(prompts, rows, strict=True):
        expected = reference.logits([*ids.tolist(), *row[:-1].argmax(axis=1).tolist()], torch.from_numpy(table))
        errors.append(np.abs(row - expected[-7:].numpy()).max(axis=1) / expected.std().item())
    # An activation on the border of two e4m3 numbers may round to the other: seldom, and then visibly.
    assert (np.concatenate(errors) < 1e-5).mean() >= 0.9
    assert np.concatenate(errors).max() < 0.2


@pytest.mark.parametrize(("dtype", "tolerance"), [("bfloat16", 0.2), ("float16", 0.02)])
def test_narrow_dtypes_come_close(decoder_folder, dtype, tolerance):
    prompts = ragged_prompts(2)
    narrow, wide = (
        continued(make_runner(decoder_folder, dtype=one, quantize_activations=False), prompts, 0)
        for one in (dtype, "float32")
    )
    assert 0 < np.abs(narrow - wide).max() < tolerance * wide.std()


def test_chunks_are_as_good_as_one_shot(decoder_folder):
    runner = make_runner(decoder_folder, quantize_activations=False)
    (ids, table), (blocks,) = picture_prompt(1, 30, 41, VOCAB, HIDDEN), scattered_tables(runner, 1)
    whole = prefill(runner, blocks, ids, table, len(ids))
    for chunk in (1, 7, 16, 50):
        assert np.abs(prefill(runner, blocks, ids, table, chunk) - whole).max() < 1e-5 * whole.std()


def test_company_and_place_do_not_show(decoder_folder):
    runner, prompts = make_runner(decoder_folder, quantize_activations=False), ragged_prompts()
    together = continued(runner, prompts, 4)
    for seed, prompt in enumerate(prompts, 1):
        (alone,) = continued(runner, [prompt], 4, scattered_tables(runner, 1, seed))
        assert np.abs(together[seed - 1] - alone).max() < 1e-5 * alone.std()


def test_what_a_block_held_before_does_not_show(decoder_folder):
    runner, prompts = make_runner(decoder_folder), ragged_prompts(3)
    fresh = continued(runner, prompts, 3)
    with torch.inference_mode():
        runner._cache.fill_(torch.nan)
    assert np.array_equal(continued(runner, prompts, 3), fresh)


def test_a_sequence_may_fill_its_blocks(decoder_folder):
    runner, ids = make_runner(decoder_folder, quantize_activations=False), np.arange(160, dtype=np.int32)
    one, other = scattered_tables(runner, 2)
    whole = prefill(runner, one, ids, None)
    prefill(runner, other, ids[:-1], None)
    (last,) = runner.decode(other[None], np.array([159], np.int32), ids[-1:])
    assert np.abs(last - whole).max() < 1e-5 * whole.std()


def changed(folder: Path, target: Path, change):
    shutil.copytree(folder, target)
    tensors = load_file(target / "rank0.safetensors")
    change(tensors)
    save_file(tensors, target / "rank0.safetensors")
    return target


@pytest.mark.parametrize("fp8", ["emulated", "hardware"])
def test_fc_and_gate_share_the_larger_scale(tmp_path, decoder_folder, fp8):
    """As the engine's builder fuses them: raising one of the two is raising both."""

    def raised(*names):
        def change(tensors):
            for name in names:
                tensors[f"transformer.layers.0.mlp.{name}.activation_scaling_factor"] *= 3

        return changed(decoder_folder, tmp_path / "".join(names), change)

    prompts = ragged_prompts(1)
    one, both, neither = (
        continued(make_runner(folder, fp8=fp8), prompts, 0)
        for folder in (raised("gate"), raised("fc", "gate"), decoder_folder)
    )
    assert np.array_equal(one, both)
    assert not np.array_equal(one, neither)


def test_large_tensors_pass_through_the_buffer_in_pieces(decoder_folder, monkeypatch):
    prompts = ragged_prompts(1)
    whole = continued(make_runner(decoder_folder), prompts, 0)
    monkeypatch.setattr(weights, "_STAGING_BYTES", 1000)
    assert np.array_equal(continued(make_runner(decoder_folder), prompts, 0), whole)


def test_rows_of_a_prompt_table_are_taken_by_id(decoder_folder):
    """In any order, and more than once."""
    runner = make_runner(decoder_folder, quantize_activations=False)
    (blocks,) = scattered_tables(runner, 1)
    table = np.random.default_rng(0).standard_normal((9, HIDDEN)).astype(np.float32)
    ids = np.array([3, VOCAB + 8, 5, VOCAB, VOCAB + 8], np.int32)
    reference = ReferenceDecoder(decoder_folder, quantize_activations=False)
    expected = reference.logits(ids.tolist(), torch.from_numpy(table))[-1].numpy()
    logits = prefill(runner, blocks, ids, table)
    assert np.abs(logits - expected).max() < 1e-5 * logits.std()


def test_sizes_below_one_are_refused():
    with pytest.raises(UsageError) as caught:
        RunnerSizes(max_seq_len=16, max_batch_size=0, max_rows=16)
    assert caught.value.code == "E-USAGE-LIMITS"
