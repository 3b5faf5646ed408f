"""What the field's tools are given. That they run is not tested here: they come from the network."""

from __future__ import annotations

import json
import random
from pathlib import Path

from tokenizers import Tokenizer

from calibration.load_tools import figures, write_tokenizer
from nvlm_trt.load.request import write_prompt
from nvlm_trt.model.tokenizer import NvlmTokenizer


def test_the_tokenizer_for_aiperf_counts_as_ours_does(deployment: Path, tmp_path: Path) -> None:
    write_tokenizer(deployment / "model", tmp_path / "tokenizer")
    prompt = write_prompt(40, random.Random(0))
    ours = NvlmTokenizer.from_folder(deployment / "model").encode_text(prompt)
    assert Tokenizer.from_file(str(tmp_path / "tokenizer" / "tokenizer.json")).encode(prompt).ids == ours
    assert json.loads((tmp_path / "tokenizer" / "config.json").read_text())["model_type"]


def test_figures_are_a_rate_and_two_medians() -> None:
    told = figures(2.0, [10.0, 30.0, 20.0, 80.0], [1.0, 2.0, 3.0, 100.0], 0.5)
    assert (told.requests, told.per_s, told.e2e_ms, told.ttft_ms, told.cpu_s) == (4, 2.0, 25.0, 2.5, 0.5)
