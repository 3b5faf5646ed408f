"""What the harness costs, in its smallest form: on the trivial server alone."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from nvlm_trt.load.drive import Driven, drive
from nvlm_trt.load.mix import Mix, RequestKind
from nvlm_trt.load.schedule import ClosedLoad
from scripts import bench_load
from scripts.bench_load import harness, main, started_trivial_server


def test_both_loops_get_the_same_and_a_ratio_is_told() -> None:
    options = ["--clients", "2", "--requests", "20", "--rounds", "1"]
    told = CliRunner().invoke(main, options, catch_exceptions=False).output
    assert [line.split()[1] for line in told.splitlines() if line.startswith("trivial")] == [
        "bare",
        "harness",
        "ratio",
    ]


def test_the_harness_s_processor_time_is_all_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs: list[Driven] = []

    async def noted(*arguments: Any) -> Driven:
        runs.append(await drive(*arguments))
        return runs[0]

    monkeypatch.setattr(bench_load, "drive", noted)
    kind = RequestKind(prompt_tokens=(4, 4), answer_tokens=(64, 64))
    planned = ClosedLoad(Mix(name="test", folder=Path(), request=(kind,)), 2).plan(0, "test", 10)
    with started_trivial_server() as url:
        told = asyncio.run(harness(url, planned, 2, tmp_path / "requests.jsonl"))
    assert told.cores / told.per_s * len(planned) == pytest.approx(runs[0].cpu_s)
