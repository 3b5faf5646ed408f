"""Figures from records, by hand."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nvlm_trt.errors import UsageError
from nvlm_trt.load.objective import is_good, read_objective
from nvlm_trt.load.record import Record
from nvlm_trt.load.result import Check, Distribution, PointLoad, Run
from nvlm_trt.load.run_log import RunEnd, RunStart
from nvlm_trt.load.summary import distribution, summarize_run, summarize_runs


def record(number: int = 0, **changes: Any) -> Record:
    """Due at 100 ms, sent at once, four tokens at 150, 160, 160 and 180 ms, in three pieces."""
    values: dict[str, Any] = {
        "number": number,
        "kind": 0,
        "prompt_tokens": 5,
        "answer_tokens": 4,
        "pictures": ("64x48",),
        "tiles": 3,
        "due_ms": 100.0,
        "sent_ms": 100.0,
        "end_ms": 181.0,
        "pieces": ((150.0, 1), (160.0, 2), (180.0, 1)),
        "input_tokens": 20,
        "output_tokens": 4,
        "code": None,
        "text_sha256": "0" * 64,
    }
    return Record(**(values | changes))


def run_of(records: list[Record], planned: int | None = None, **changes: Any) -> Run:
    open_loop = PointLoad(kind="poisson", rate_per_s=1.0)
    start = RunStart(point=0, repetition=0, load=open_loop, planned=planned or len(records), schedule_sha256="0" * 64)
    end = RunEnd(**({"interrupted": False, "cpu_share": 0.1} | changes))
    return summarize_run(start, records, end, None, {"ttft": 60.0, "e2e": 100.0})


def test_a_request_s_times_count_from_when_it_was_due() -> None:
    late = record(sent_ms=120.0)
    assert (late.lag_ms, late.ttft_ms, late.e2e_ms) == (20.0, 50.0, 81.0)
    assert late.tbt_ms == pytest.approx(30 / 3)
    assert late.gaps_ms == [10.0, 20.0]


def test_a_record_survives_its_line() -> None:
    assert Record.from_json(record().to_json()) == record()


@pytest.mark.parametrize(
    ("values", "p50", "p90", "p99"), [([3.0], 3, 3, 3), ([5, 1, 4, 2, 3], 3, 4.6, 4.96), ([0, 10], 5, 9, 9.9)]
)
def test_percentiles_by_hand(values: list[float], p50: float, p90: float, p99: float) -> None:
    found = distribution(values)
    assert found is not None
    assert (found.p50, found.p90, found.p99) == (p50, p90, p99)
    assert (found.n, found.mean, found.max) == (len(values), sum(values) / len(values), max(values))


@given(st.lists(st.floats(0, 1e5), min_size=1, max_size=50))
def test_a_percentile_lies_between_its_two_neighbours(values: list[float]) -> None:
    """The definition of linear interpolation: rank p (n - 1), counted from 0."""
    found = distribution(values)
    assert found is not None
    ordered = sorted(values)
    for name, share in (("p50", 0.5), ("p90", 0.9), ("p99", 0.99)):
        rank = share * (len(values) - 1)
        low, high = ordered[math.floor(rank)], ordered[math.ceil(rank)]
        wanted = low + (high - low) * (rank - math.floor(rank))
        assert getattr(found, name) == pytest.approx(wanted, abs=0.001)


def test_nothing_has_no_distribution() -> None:
    assert distribution([]) is None
    assert distribution([None, None]) is None


def test_a_run_s_figures() -> None:
    second = record(1, due_ms=200.0, sent_ms=201.0, end_ms=1100.0, pieces=((300.0, 4),))
    failed = record(2, due_ms=150.0, end_ms=600.0, code="E-BUSY-QUEUE", pieces=(), output_tokens=0)
    run = run_of([record(), second, failed])
    assert run.valid
    assert (run.planned, run.completed, run.unsent, run.errors) == (3, 2, 0, {"E-BUSY-QUEUE": 1})
    assert run.seconds == 1.0
    assert (run.completed_per_s, run.output_tokens_per_s) == (2.0, 8.0)
    assert (run.good, run.good_per_s) == (1, 1.0)
    assert run.ttft_ms == Distribution(n=2, mean=75.0, p50=75.0, p90=95.0, p99=99.5, max=100.0)
    assert run.gap_ms is not None
    assert run.gap_ms.n == 2
    assert run.in_flight_at_last_arrival == 2
    assert run.tiles is not None
    assert run.tiles.mean == 3


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"records": [record(sent_ms=130.0)]}, "did not keep up: p90 of sent after due is 30.0 ms, over 5.0"),
        ({"loop_lag_ms": distribution([6.0] * 50)}, "did not keep up: p90 of its timer's lag is 6.0 ms"),
        ({"loop_lag_ms": distribution([1.0] * 95 + [30.0] * 5)}, "p99 of its timer's lag is 30.0 ms, over 25.0"),
        ({"interrupted": True}, "interrupted"),
        ({"records": [record(), record(1, code="E-SERVER-LOST")]}, "something else than load: 1 E-SERVER-LOST"),
        ({"records": [record(code="E-BUSY-QUEUE")]}, "no request was answered"),
    ],
)
def test_what_makes_a_run_worthless_is_said(changes: dict[str, Any], problem: str) -> None:
    run = run_of(changes.pop("records", [record()]), **changes)
    assert not run.valid
    assert problem in " ".join(run.problems)
    assert summarize_runs([run]) == {}


def test_a_late_generator_is_no_matter_where_all_takes_long() -> None:
    """30 ms in 400 are less than a tenth."""
    slow = record(sent_ms=130.0, pieces=((500.0, 4),), end_ms=500.0)
    assert run_of([slow]).valid


def test_refusals_and_timeouts_alone_leave_a_run_valid() -> None:
    run = run_of([record(), record(1, code="HTTP-429"), record(2, code="E-SERVER-TIMEOUT")])
    assert run.valid
    assert run.errors == {"E-SERVER-TIMEOUT": 1, "HTTP-429": 1}


def test_nothing_is_no_figure_and_no_division() -> None:
    run = run_of([], planned=3, interrupted=True)
    assert (run.unsent, run.completed_per_s, run.ttft_ms) == (3, 0.0, None)


def test_only_valid_runs_are_summarised() -> None:
    fast, slow = run_of([record()]), run_of([record(pieces=((160.0, 4),))])
    broken = run_of([record(code="E-SERVER-LOST"), record(1, pieces=((999.0, 4),))])
    spread = summarize_runs([fast, slow, broken])["ttft_ms_p50"]
    assert (spread.runs, spread.least, spread.median, spread.most) == (2, 50.0, 55.0, 60.0)


def test_an_objective_in_words() -> None:
    assert read_objective("ttft=500ms,tbt=50ms, e2e=5s") == {"ttft": 500.0, "tbt": 50.0, "e2e": 5000.0}
    assert read_objective("e2e=1.5s") == {"e2e": 1500.0}
    assert read_objective("") == {}


@pytest.mark.parametrize("text", ["ttft", "ttft=5", "ttft=0ms", "first=5ms", "ttft=1s,ttft=2s", "ttft=-1s", ","])
def test_an_objective_that_cannot_be_meant(text: str) -> None:
    with pytest.raises(UsageError, match="E-LOAD-OBJECTIVE"):
        read_objective(text)


def test_good_is_whole_and_within_every_limit() -> None:
    assert is_good(record(), {"ttft": 50.0, "tbt": 10.0, "e2e": 81.0})
    assert not is_good(record(), {"ttft": 49.9})
    assert not is_good(record(), {"tbt": 9.9})
    assert not is_good(record(), {"e2e": 80.9})
    assert not is_good(record(code="E-BUSY-QUEUE"), {"e2e": 1000.0})
    assert is_good(record(pieces=((150.0, 1),), output_tokens=1), {"tbt": 0.1})


def test_answers_that_differ_make_a_run_worthless() -> None:
    start = RunStart(
        point=0, repetition=0, load=PointLoad(kind="closed", clients=1), planned=1, schedule_sha256="0" * 64
    )
    check = Check(asked_alone=1, equal=0, different=1, unanswered=0)
    run = summarize_run(start, [record()], RunEnd(interrupted=False), check, {})
    assert run.problems == ("1 answers differ from the same requests' answers alone",)
    assert (run.good, run.in_flight_at_last_arrival) == (None, None)
