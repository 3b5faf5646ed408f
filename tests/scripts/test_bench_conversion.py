"""The measurement of conversion, on the small checkpoint."""

from __future__ import annotations

import json
from pathlib import Path

from click.testing import CliRunner

from scripts.bench_conversion import main


def test_every_cut_is_measured_beside_the_disk(small_checkpoint: Path, tmp_path: Path) -> None:
    options = ["--ranks", "1x1", "--ranks", "2x2", "--runs", "1", "--against", "disk", "--scratch", str(tmp_path)]
    result = CliRunner().invoke(main, [str(small_checkpoint), *options, "--json"])
    assert result.exit_code == 0, result.output
    one, four = json.loads(result.stdout)["points"]
    assert [(point["tp"], point["pp"], point["layers"]) for point in (one, four)] == [(1, 1, 4), (2, 2, 4)]
    assert one["gb_in"] == four["gb_in"]
    assert one["gb_out"] < four["gb_out"]  # each rank of the first stage has the whole embedding
    assert min(point[what]["gb_per_s"] for point in (one, four) for what in ("convert", "disk")) > 0
    assert not list(tmp_path.iterdir())


def test_a_cut_that_is_none_is_refused(small_checkpoint: Path) -> None:
    result = CliRunner().invoke(main, [str(small_checkpoint), "--ranks", "8"])
    assert result.exit_code == 2
    assert "'8' is not of the form TPxPP" in result.stderr
