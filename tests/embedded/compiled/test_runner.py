"""The compiled runner against float64, against ONNX Runtime's, and against itself in other company."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from nvlm_trt.embedded.checkpoint import DecoderCheckpoint
from nvlm_trt.embedded.onnxruntime_runner import OnnxRuntimeRunner
from nvlm_trt.errors import ArtefactError
from nvlm_trt.reference.decoder import ReferenceDecoder
from tests.embedded.block_runners import continued, prefill, scattered_tables
from tests.embedded.compiled.runners import PROCESSORS, make_runner
from tests.embedded.decoder_folder import CONFIG, picture_prompt, with_raised_scales, write_decoder_folder

VOCAB, HIDDEN = CONFIG["vocab_size"], CONFIG["hidden_size"]
# No width is a whole number of panels, three query heads share a key head, and what rounds to a cache line is odd.
ODD = {
    "vocab_size": 501, "hidden_size": 72, "intermediate_size": 100, "head_size": 24, "num_attention_heads": 6,
    "num_hidden_layers": 2,
}  # fmt: skip
# More queries than a tile has rows share a key head.
MANY_HEADS = {"num_attention_heads": 13, "num_key_value_heads": 1, "head_size": 8, "num_hidden_layers": 1}


def ragged_prompts(count=5, vocab=VOCAB, hidden=HIDDEN):
    return [picture_prompt(seed, 5 + 9 * seed, 7 * (seed % 3), vocab, hidden) for seed in range(count)]


def errors_against_float64(folder, quantize, prompts, rows):
    """How far each step's logits are from the reference's after the same tokens, in deviations of those."""
    reference = ReferenceDecoder(folder, quantize, torch.float64)
    for (ids, table), row in zip(prompts, rows, strict=True):
        ids = [*ids.tolist(), *row[:-1].argmax(axis=1).tolist()]
        expected = reference.logits(ids, torch.from_numpy(table))[-len(row) :].numpy()
        yield np.abs(row - expected).max(axis=1) / expected.std()


@pytest.mark.parametrize("quantize", [False, True])
@pytest.mark.parametrize("processor", PROCESSORS)
def test_logits_are_the_references_on_every_kind_of_processor(decoder_folder, quantize, processor):
    runner = make_runner(decoder_folder, quantize_activations=quantize, without=PROCESSORS[processor])
    prompts = ragged_prompts()
    errors = np.concatenate(
        list(errors_against_float64(decoder_folder, quantize, prompts, continued(runner, prompts, 6)))
    )
    # Quantised, an activation on the border of two e4m3 numbers may round to the other: seldom, and then visibly.
    assert (errors < 1e-5).mean() >= (0.9 if quantize else 1.0)
    assert errors.max() < 0.2


@pytest.mark.parametrize("changes", [ODD, MANY_HEADS, {"dtype": "float16"}], ids=["odd", "many heads", "float16"])
def test_logits_are_the_references_for_widths_that_fill_no_panel(tmp_path, changes):
    folder = write_decoder_folder(tmp_path, **changes)
    config = {**CONFIG, **changes}
    prompts = ragged_prompts(3, config["vocab_size"], config["hidden_size"])
    rows = continued(make_runner(folder, quantize_activations=False), prompts, 4)
    assert max(map(np.max, errors_against_float64(folder, False, prompts, rows))) < 1e-5


def test_linears_that_are_not_quantised_are_read_as_they_are(tmp_path):
    folder = write_decoder_folder(tmp_path)
    tensors = load_file(folder / "rank0.safetensors")
    excluded = [name for name in tensors if ".mlp." in name or name.startswith("transformer.layers.1.attention.dense")]
    for name in excluded:
        if name.endswith(".weight"):
            scale = tensors[name.replace(".weight", ".weights_scaling_factor")]
            tensors[name] = (tensors[name].float() * scale).bfloat16()
    kept = {name: tensor for name, tensor in tensors.items() if name not in excluded or name.endswith(".weight")}
    save_file(kept, folder / "rank0.safetensors")
    patterns = ["lm_head", "*.mlp.*", "transformer.layers.1.attention.dense"]
    write_config(folder, quantization={**CONFIG["quantization"], "exclude_modules": patterns})
    prompts = ragged_prompts(2)
    for quantize in (False, True):
        rows = continued(make_runner(folder, quantize_activations=quantize), prompts, 3)
        assert max(map(np.max, errors_against_float64(folder, quantize, prompts, rows))) < (0.2 if quantize else 1e-5)


def write_config(folder, **changes):
    import json

    (folder / "config.json").write_text(json.dumps({**CONFIG, **changes}))


def test_tokens_and_logits_are_those_of_onnxruntime(decoder_folder):
    prompts = ragged_prompts()
    rows = continued(make_runner(decoder_folder, quantize_activations=False), prompts, 20)
    theirs = OnnxRuntimeRunner(
        DecoderCheckpoint(decoder_folder), num_slots=1, max_seq_len=160, max_rows=160, quantize_activations=False,
        threads=1,
    )  # fmt: skip
    for (ids, table), ours in zip(prompts, rows, strict=True):
        expected = [theirs.prefill(0, 0, ids, table).copy()]
        for position, row in enumerate(ours[:-1], len(ids)):
            token = np.array([row.argmax()], np.int32)
            expected.append(theirs.decode(np.array([position], np.int32), token)[0].copy())
        assert np.array_equal(ours.argmax(axis=1), np.argmax(expected, axis=1))
        assert np.abs(ours - expected).max() < 1e-5 * np.std(expected)


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("quantize", [False, True])
def test_company_place_and_pieces_do_not_show_in_any_bit(decoder_folder, threads, quantize):
    runner = make_runner(decoder_folder, threads=threads, quantize_activations=quantize)
    prompts = [*ragged_prompts(4), picture_prompt(9, 60, 90, VOCAB, HIDDEN)]
    together = continued(runner, prompts, 4)
    for seed, prompt in enumerate(prompts, 1):
        (alone,) = continued(runner, [prompt], 4, scattered_tables(runner, 1, seed))
        assert np.array_equal(together[seed - 1], alone)
    (blocks,) = scattered_tables(runner, 1)
    ids, table = prompts[-1]
    for chunk in (1, 7, 13, 32, 75, 150):
        assert np.array_equal(prefill(runner, blocks, ids, table, chunk), together[-1, 0])
    runner.close()


def test_what_a_block_held_before_does_not_show(decoder_folder):
    runner, prompts = make_runner(decoder_folder), ragged_prompts(3)
    fresh = continued(runner, prompts, 3)
    runner._cache[:] = np.nan
    assert np.array_equal(continued(runner, prompts, 3), fresh)


def test_a_sequence_may_fill_its_blocks(decoder_folder):
    runner, ids = make_runner(decoder_folder), np.arange(160, dtype=np.int32)
    one, other = scattered_tables(runner, 2)
    whole = prefill(runner, one, ids, None, chunk=160)
    prefill(runner, other, ids[:-1], None)
    (last,) = runner.decode(other[None], np.array([159], np.int32), ids[-1:])
    assert np.array_equal(last, whole)


def test_fc_and_gate_share_the_larger_scale(tmp_path, decoder_folder):
    """As the engine's builder fuses them: raising one of the two is raising both."""
    raised = [with_raised_scales(tmp_path / "one", "gate"), with_raised_scales(tmp_path / "both", "gate", "fc")]
    one, both, neither = (continued(make_runner(folder), ragged_prompts(1), 0) for folder in (*raised, decoder_folder))
    assert np.array_equal(one, both)
    assert not np.array_equal(one, neither)


def test_weights_that_are_no_numbers_are_refused(tmp_path):
    folder = write_decoder_folder(tmp_path)
    tensors = load_file(folder / "rank0.safetensors")
    tensors["transformer.layers.1.mlp.proj.weight"].view(torch.uint8)[3, 5] = 0xFF
    save_file(tensors, folder / "rank0.safetensors")
    with pytest.raises(ArtefactError) as caught:
        make_runner(folder)
    assert caught.value.code == "E-ARTEFACT-DECODER"
    assert "transformer.layers.1.mlp.proj.weight holds NaN" in caught.value.what


def test_ranks_are_refused(tmp_path):
    folder = write_decoder_folder(tmp_path)
    write_config(folder, mapping={"world_size": 2, "tp_size": 2, "pp_size": 1})
    with pytest.raises(ArtefactError) as caught:
        make_runner(folder)
    assert caught.value.code in ("E-ARTEFACT-RANKS", "E-ARTEFACT-DECODER")
