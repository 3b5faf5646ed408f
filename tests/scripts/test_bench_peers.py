"""The benchmark against peers in its smallest form, ours alone: the peers' environment is only made by hand."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from nvlm_trt.embedded.checkpoint import DecoderCheckpoint
from scripts.bench_peers import equal_share, main
from scripts.machine_limits import FP8, WIDENED, Limits, decode_step_s, prefill_s
from scripts.plain_checkpoint import write_plain_checkpoint
from tests.embedded.decoder_folder import write_decoder_folder


def test_tokens_are_equal_up_to_the_first_difference() -> None:
    assert equal_share([[1, 2, 3, 4], [5, 6, 7, 8]], [[1, 2, 9, 4], [5, 6, 7, 8]]) == 6 / 8


def test_a_step_takes_its_bytes_or_its_arithmetic_whichever_is_longer(tmp_path: Path) -> None:
    decoder = DecoderCheckpoint(write_decoder_folder(tmp_path)).config.decoder
    weights = 3 * (128 * 64 + 64 * 64 + 3 * 160 * 64) + 512 * 64
    cached = 2 * 3 * 32 * 20
    assert decode_step_s(decoder, Limits(4e9, 1e30), 1, 0, WIDENED) == pytest.approx(weights / 1e9)
    assert decode_step_s(decoder, Limits(1e9, 1e30), 1, 0, FP8) == pytest.approx((weights + 512 * 64) / 1e9)
    assert decode_step_s(decoder, Limits(1e30, 2e9), 5, 0, FP8) == pytest.approx(5 * weights / 1e9)
    assert decode_step_s(decoder, Limits(4e9, 1e30), 2, 10, WIDENED) == pytest.approx((weights + cached) / 1e9)
    assert decode_step_s(decoder, Limits(1e9, 1e30), 2, 10, FP8) == pytest.approx(
        (weights + 512 * 64 + 4 * cached) / 1e9
    )
    assert prefill_s(decoder, Limits(1e30, 2e9), 1) == pytest.approx((weights - 512 * 64 + 3 * 64) / 1e9)


def test_the_plain_checkpoint_gives_transformers_the_engines_answers(tmp_path: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    from nvlm_trt.embedded.onnxruntime_runner import OnnxRuntimeRunner

    checkpoint = DecoderCheckpoint(write_decoder_folder(tmp_path / "ours"))
    write_plain_checkpoint(checkpoint, tmp_path / "plain")
    ids = np.arange(5, 25, dtype=np.int32)
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "plain", dtype=torch.float32)
    with torch.inference_mode():
        expected = model(torch.from_numpy(ids)[None].long()).logits[0, -1].numpy()
    runner = OnnxRuntimeRunner(checkpoint, num_slots=1, max_seq_len=32, max_rows=32, quantize_activations=False)
    assert np.allclose(runner.prefill(0, 0, ids, None), expected, atol=2e-5 * float(np.abs(expected).max()))


def test_ours_is_measured_and_held_against_itself(tmp_path: Path) -> None:
    figures = tmp_path / "figures.json"
    options = ["--preset", "small", "--no-peers", "--concurrency", "2", "--prompt-tokens", "8", "--new-tokens", "4"]
    result = CliRunner().invoke(main, [str(tmp_path / "cache"), *options, "--repeats", "1", "--json", str(figures)])
    assert result.exit_code == 0, result.output
    points = json.loads(figures.read_text())["reports"][0]["points"]
    assert points.keys() == {"2 at once", "one prompt of 1024"}
    assert points["2 at once"].keys() == {"ours float", "ours w8a8", "ours onnxruntime"}
    assert points["2 at once"]["ours float"]["equal_tokens"] == 1
    assert all(row["tokens_per_s"][1] > 0 for rows in points.values() for row in rows.values())
    assert not (tmp_path / "cache" / "peers").exists()
