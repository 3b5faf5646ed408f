from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from nvlm_trt.cli.output import shown_bytes
from nvlm_trt.cli.progress import _Lines, build_reporter
from nvlm_trt.pipeline.report import StepReport

ROOT = Path(__file__).parents[2]


def run_as_on_a_terminal(*arguments: str) -> str:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TERM": "xterm", "COLUMNS": "120", "TTY_COMPATIBLE": "1"}
    command = [sys.executable, "-m", "nvlm_trt", *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stderr


def test_a_terminal_shows_a_live_line_and_keeps_one_line_a_step(small_checkpoint: Path, tmp_path: Path) -> None:
    seen = run_as_on_a_terminal("build", str(small_checkpoint), "--recipe", "embedded", "-o", str(tmp_path / "out"))
    assert "memory " in seen
    assert "\x1b[" in seen
    plain = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", seen)
    for number, step in enumerate(("inspect", "vision.onnx", "decoder.calibration"), start=1):
        assert re.search(rf"\[{number}/5\] {re.escape(step)} +built", plain)


def test_a_line_tells_the_rate_where_it_says_something(capsys: pytest.CaptureFixture[str]) -> None:
    reports = [
        StepReport("slow", "built", seconds=2.0, output_bytes=4_000_000_000, peak_rss_bytes=1_500_000),
        StepReport("small", "built", seconds=2.0, output_bytes=10),
        StepReport("old", "kept", seconds=2.0, output_bytes=4_000_000_000),
        StepReport("gone", "left", reason="no hammer"),
        StepReport("odd", "built", notes=tuple(f"[{number}]: rounded." for number in range(6))),
    ]
    with build_reporter(quiet=False) as reporter:
        for number, report in enumerate(reports, start=1):
            reporter.started(report.step, number, len(reports))
            reporter.advanced(1, 2, "B")
            reporter.ended(report)
    assert [line.rstrip() for line in capsys.readouterr().err.splitlines()] == [
        "[1/5] slow                 built  2.0 s, 4.0 GB, 2.0 GB/s, peak 1.5 MB",
        "[2/5] small                built  2.0 s, 10 B, peak 0 B",
        "[3/5] old                  kept   2.0 s, 4.0 GB, peak 0 B",
        "[4/5] gone                 left   no hammer",
        "[5/5] odd                  built  0.0 s, 0 B, peak 0 B",
        *(f"  [{number}]: rounded." for number in range(4)),
        "  and 2 more like these; --json has them all",
    ]


def test_a_log_hears_of_a_long_step_once_a_minute(capsys: pytest.CaptureFixture[str]) -> None:
    times = iter([0.0, 30.0, 61.0, 90.0, 130.0, 600.0])
    reporter = _Lines(Console(stderr=True, soft_wrap=True), lambda: next(times))
    reporter.started("decoder.calibration", 4, 7)
    for done, total, unit in (
        (1, 80, "layers"),
        (2, 80, "layers"),
        (3, 80, "layers"),
        (10**9, 10**10, "B"),
        (80, 80, ""),
    ):
        reporter.advanced(done, total, unit)
    assert capsys.readouterr().err.splitlines() == [
        "[4/7] decoder.calibration  2 of 80 layers after 1 min",
        "[4/7] decoder.calibration  1.0 GB of 10.0 GB after 2 min",
    ]


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (75_200_000_000, "75.2 GB"), (2e12, "2.0 TB")]
)
def test_bytes_are_shown_in_decimal_units(count: float, text: str) -> None:
    assert shown_bytes(count) == text
