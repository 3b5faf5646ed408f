"""The benchmark of single steps in its smallest form."""

from __future__ import annotations

from pathlib import Path

from click.testing import CliRunner

from scripts.bench_steps import main
from tests.embedded.decoder_folder import write_decoder_folder


def test_steps_are_measured_beside_their_limits(tmp_path: Path) -> None:
    options = ["--rows", "1", "--rows", "3", "--positions", "5", "--seconds", "0.01"]
    result = CliRunner().invoke(main, [str(write_decoder_folder(tmp_path)), *options])
    assert result.exit_code == 0, result.output
    rows = [line.split() for line in result.stdout.splitlines()[-2:]]
    assert [row[0] for row in rows] == ["1", "3"]
    assert all(float(row[1]) <= float(row[2]) for row in rows)
