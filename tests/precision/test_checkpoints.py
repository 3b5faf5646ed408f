"""What is built for a comparison, and what is left out of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from nvlm_trt.checkpoint.registry import open_checkpoint
from nvlm_trt.checkpoint.synthetic import SIZES, write_checkpoint
from nvlm_trt.pipeline.report import SilentReporter
from nvlm_trt.plan.resolve import load_recipe
from nvlm_trt.precision.checkpoints import build_precisions
from nvlm_trt.precision.spec import parse_precisions
from tests.pipeline.test_real_build import changed_recipe


def test_a_cache_that_elsewhere_is_refused_is_built_to_be_measured(tmp_path: Path) -> None:
    """Also where the recipe itself has it: whoever asks what it costs should not be told to force it first."""
    folder = tmp_path / "checkpoint"
    write_checkpoint(folder, SIZES["small"], 0, 1)
    bias = open_checkpoint(folder).info("language_model.model.layers.0.self_attn.k_proj.bias")
    assert bias.place is not None
    with bias.place.file.open("r+b") as file:
        file.seek(bias.place.offset)
        file.write(np.full(bias.shape, 300, np.float32).tobytes())
    (tmp_path / "set.jsonl").write_text('{"prompt": "What is this?"}\n', encoding="utf-8")
    wanted = "[calibration]\nset = 'set.jsonl'\n\n[decoder]\nkv_cache = 'fp8'"
    name = changed_recipe("embedded", tmp_path / "own.toml", "[decoder]", wanted)
    checkpoint = open_checkpoint(folder)
    recipe, precisions = load_recipe(name, checkpoint.config), parse_precisions(["bf16", "fp8+kv"], checkpoint.config)
    built = build_precisions(checkpoint, recipe, name, precisions, False, tmp_path / "out", SilentReporter())
    assert all((built.decoder(precision) / "config.json").is_file() for precision in precisions)
