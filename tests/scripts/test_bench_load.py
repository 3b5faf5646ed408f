"""What the harness costs, in its smallest form: on the trivial server alone."""

from __future__ import annotations

from click.testing import CliRunner

from scripts.bench_load import main


def test_both_loops_get_the_same_and_a_ratio_is_told() -> None:
    options = ["--clients", "2", "--requests", "20", "--rounds", "1"]
    told = CliRunner().invoke(main, options, catch_exceptions=False).output
    assert [line.split()[1] for line in told.splitlines() if line.startswith("trivial")] == [
        "bare",
        "harness",
        "ratio",
    ]
