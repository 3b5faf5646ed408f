"""The load script against a real server of its own, in its smallest form; and its arithmetic."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from calibration.latency import main, quantile, spread


@given(st.lists(st.integers(-99, 99), min_size=1), st.sampled_from([0.01, 0.5, 0.9, 0.99, 1.0]))
def test_a_quantile_is_the_least_value_that_enough_do_not_exceed(values: list[int], share: float) -> None:
    found = quantile(values, share)
    assert found in values
    assert sum(value <= found for value in values) >= share * len(values)
    assert sum(value < found for value in values) < share * len(values)


def test_a_spread_is_least_median_most() -> None:
    assert spread([3, 1, 2, 9]) == (1, 2.5, 9)


def test_a_deployment_is_measured(deployment: Path, tmp_path: Path) -> None:
    figures = tmp_path / "figures.json"
    options = ["--concurrency", "2", "--per-client", "2", "--max-tokens", "4", "--repeats", "1"]
    command = [str(deployment), *options, "--overhead-requests", "10", "--json", str(figures)]
    result = CliRunner().invoke(main, command)
    assert result.exit_code == 0, result.output
    report = json.loads(figures.read_text())
    assert [load["concurrency"] for load in report["loads"]] == [2]
    assert report["loads"][0]["requests"] == 4
    assert [overhead["door"] for overhead in report["overheads"]] == ["grpc", "http"]
    assert all(overhead["p99"] >= overhead["p50"] for overhead in report["overheads"])
    assert "ensemble overhead over http" in result.stdout


def test_what_is_no_deployment_is_refused(tmp_path: Path) -> None:
    result = CliRunner().invoke(main, [str(tmp_path)])
    assert result.exit_code != 0
    with pytest.raises(Exception, match="E-ARTEFACT-DEPLOYMENT"):
        raise result.exception or AssertionError
