"""The requests file as it may be found."""

from __future__ import annotations

from pathlib import Path

import pytest

from nvlm_trt.errors import BuildError, UsageError
from nvlm_trt.load.journal import Journal, read_journal
from nvlm_trt.load.result import Check, PointLoad, load_measurement
from nvlm_trt.load.run_log import RunEnd, RunStart
from tests.load.test_result import EXAMPLE
from tests.load.test_summary import record

HEAD = load_measurement(EXAMPLE).model_copy(update={"points": ()})


def write(file: Path) -> Journal:
    with Journal(HEAD, file) as journal:
        for repetition in range(2):
            load = PointLoad(kind="closed", clients=2)
            journal.run(RunStart(point=0, repetition=repetition, load=load, planned=2, schedule_sha256="0" * 64))
            journal.request(record())
            journal.request(record(1, code="HTTP-503", pieces=()))
            journal.run_end(RunEnd(interrupted=False, cpu_share=0.2))
            journal.check(repetition, Check(asked_alone=1, equal=1, different=0, unanswered=0))
        return journal


def test_the_file_holds_all_that_the_result_does(tmp_path: Path) -> None:
    measurement = write(tmp_path / "new" / "a.jsonl").measurement()
    assert read_journal(tmp_path / "new" / "a.jsonl") == measurement
    assert [run.completed for run in measurement.points[0].runs] == [1, 1]
    assert measurement.points[0].summary["ttft_ms_p50"].runs == 2


def test_any_beginning_of_it_is_a_result_that_says_so(tmp_path: Path) -> None:
    """Cut at every byte from the first run on: never an error, never more than was written."""
    write(tmp_path / "a.jsonl")
    data = (tmp_path / "a.jsonl").read_bytes()
    for end in range(data.index(b"\n") + 1, len(data), 97):
        (tmp_path / "cut.jsonl").write_bytes(data[:end])
        runs = [run for point in read_journal(tmp_path / "cut.jsonl").points for run in point.runs]
        ends = data[:end].count(b'{"run_end"') - (data[:end].rfind(b'{"run_end"') > data[:end].rfind(b"\n"))
        assert sum(not run.interrupted for run in runs) == ends
        assert sum(run.completed for run in runs) <= 2


@pytest.mark.parametrize(
    ("line", "named"),
    [
        (b"no json", "line 2 is none"),
        (b"{}", "line 2 is none"),
        (b'{"other": {}}', "line 2 is none"),
        (b'{"request": {}}', "line 2 is none"),
        (b'{"run": {}}', "line 2: point"),
        (b'{"run_end": {}}', "line 2 is none"),
        (b"\xff", "line 2 is none"),
    ],
)
def test_a_line_that_is_no_event_is_named(line: bytes, named: str, tmp_path: Path) -> None:
    with Journal(HEAD, tmp_path / "a.jsonl"):
        pass
    with (tmp_path / "a.jsonl").open("ab") as file:
        file.write(line + b"\n")
    with pytest.raises(UsageError, match=f"E-LOAD-RESULT: a.jsonl .*{named}"):
        read_journal(tmp_path / "a.jsonl")


@pytest.mark.parametrize("content", [None, b"", b'{"run": {}}'])
def test_what_has_no_first_line_is_refused(content: bytes | None, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "a.jsonl").write_bytes(content)
    with pytest.raises(UsageError, match="E-LOAD-RESULT"):
        read_journal(tmp_path / "a.jsonl")


def test_a_place_that_cannot_be_written_is_said_at_once(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(BuildError, match="E-BUILD-WRITE"):
        Journal(HEAD, tmp_path / "file" / "a.jsonl")
