"""The measuring of the torch runner, at a size that a CPU can do: the same code, other figures."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
import torch
from click.testing import CliRunner

from scripts.bench_decoder_gpu import main
from tests.torch_threads import one_torch_thread

TINY = ["--device", "cpu", "--preset", "tiny", "--runs", "1"]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    with one_torch_thread():
        yield


def test_every_point_stands_beside_its_limit_and_the_loop() -> None:
    told = CliRunner().invoke(main, [*TINY, "--json"])
    assert told.exit_code == 0, told.output
    report = json.loads(told.stdout)
    assert [point["name"] for point in report["points"]] == ["decode, batch 1", "decode, batch 3", "prefill, 48 tokens"]
    assert 0 < report["disagreement"] < 0.3
    for point in report["points"]:
        least, middle, most = point["tokens_per_s"]
        assert 0 < least <= middle <= most
        assert point["of_limit"] == pytest.approx(point["limit_ms"] / point["step_ms"])
        assert point["loop_tokens_per_s"] > 0
    assert {"torch", "date", "command", "device", "copy_gb_per_s", "fp8_tflop_per_s"} <= set(report)


def test_the_table_ends_with_the_kernels_of_a_step() -> None:
    told = CliRunner().invoke(main, TINY)
    assert told.exit_code == 0, told.output
    assert told.stdout.index("decode, batch 3") < told.stdout.index("aten::_scaled_mm")


def test_a_wrong_runner_is_not_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    true_product = torch._scaled_mm
    monkeypatch.setattr(torch, "_scaled_mm", lambda *given, **options: true_product(*given, **options) * 0.7)
    result = CliRunner().invoke(main, TINY)
    assert result.exit_code == 1
    assert "nothing was measured" in result.output


def test_without_a_gpu_it_says_what_can_be_done() -> None:
    result = CliRunner().invoke(main, [])
    assert result.exit_code == 1
    assert "--device cpu --preset tiny" in result.output
