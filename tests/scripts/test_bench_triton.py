"""Serving beside the engine alone, in its smallest form, on a real server."""

from __future__ import annotations

from pathlib import Path

from click.testing import CliRunner

from scripts.bench_triton import main


def test_serving_is_measured_beside_the_engine(deployment: Path) -> None:
    options = ["--streams", "3", "--turns", "2", "--max-tokens", "6", "--repeats", "1"]
    result = CliRunner().invoke(main, [str(deployment), *options])
    assert result.exit_code == 0, result.output
    assert "6 new, all answers equal" in result.stdout
    assert "triton / engine" in result.stdout
    assert "postprocessing, cores" in result.stdout
