"""From records to figures: a run's percentiles, its faults, and the spread over repetitions."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from nvlm_trt.load.objective import Objective, is_good
from nvlm_trt.load.record import UNFINISHED, Record
from nvlm_trt.load.result import Check, Distribution, Generator, Run, Spread
from nvlm_trt.load.run_log import RunEnd, RunStart

__all__ = ["distribution", "summarize_run", "summarize_runs"]

# How late the generator may be at these percentiles: this many milliseconds, or this share of the time to the first
# token at the same percentile. An occasional pause of a virtual machine shows in the tail; a generator that is usually
# late, or whose pauses make up most of the tail, has measured itself.
_LATENESS = (("p90", 5.0, 0.1), ("p99", 20.0, 0.5))
# What load does to a healthy server. Any other failure means that the server was ill or the request wrong.
_OF_LOAD = ("E-BUSY-", "E-SERVER-TIMEOUT", "HTTP-429", "HTTP-503")
_TIMES = ("ttft_ms", "tbt_ms", "gap_ms", "e2e_ms")
_RATES = ("completed_per_s", "output_tokens_per_s", "good_per_s")


def distribution(values: Iterable[float | None]) -> Distribution | None:
    """The distribution of the values that are not None, or None if there are none."""
    known = np.array([value for value in values if value is not None], np.float64)
    if not known.size:
        return None
    p50, p90, p99 = np.percentile(known, [50, 90, 99])
    figures = {"mean": known.mean(), "p50": p50, "p90": p90, "p99": p99, "max": known.max()}
    return Distribution(n=known.size, **{name: round(float(value), 3) for name, value in figures.items()})


def summarize_run(
    start: RunStart, records: Sequence[Record], end: RunEnd, check: Check | None, objective: Objective
) -> Run:
    """The figures of one run. Times are those of completed requests; failed ones are counted by code."""
    whole = [record for record in records if record.code is None]
    errors = Counter(record.code for record in records if record.code is not None)
    seconds = _seconds(records)
    generator = Generator(
        send_lag_ms=distribution(record.lag_ms for record in records),
        loop_lag_ms=end.loop_lag_ms,
        cpu_share=round(end.cpu_share, 4),
    )
    unsent = start.planned - len(records)
    good = sum(is_good(record, objective) for record in whole) if objective else None
    ttft_ms = distribution(record.ttft_ms for record in whole)
    problems = (
        *_unfinished(unsent, errors, end.interrupted),
        *_lateness(generator, ttft_ms),
        *_failures(len(whole), errors, check),
    )
    return Run(
        repetition=start.repetition,
        valid=not problems,
        interrupted=end.interrupted,
        problems=problems,
        seconds=round(seconds, 3),
        schedule_sha256=start.schedule_sha256,
        planned=start.planned,
        completed=len(whole),
        short=sum((record.output_tokens or 0) < record.answer_tokens for record in whole),
        unsent=unsent,
        errors=dict(sorted(errors.items())),
        good=good,
        completed_per_s=_rate(len(whole), seconds),
        output_tokens_per_s=_rate(sum(record.output_tokens or 0 for record in whole), seconds),
        good_per_s=None if good is None else _rate(good, seconds),
        in_flight_at_last_arrival=_in_flight(records) if start.load.clients is None and records else None,
        ttft_ms=ttft_ms,
        tbt_ms=distribution(record.tbt_ms for record in whole),
        gap_ms=distribution(gap for record in whole for gap in record.gaps_ms),
        e2e_ms=distribution(record.e2e_ms for record in whole),
        input_tokens=distribution(record.input_tokens for record in whole),
        output_tokens=distribution(record.output_tokens for record in whole),
        tiles=distribution(record.tiles for record in whole),
        generator=generator,
        server=end.server,
        check=check,
    )


def summarize_runs(runs: Sequence[Run]) -> dict[str, Spread]:
    """The spread of each figure over the valid runs."""
    figures: dict[str, list[float]] = {}
    for run in runs:
        if run.valid:
            known: dict[str, float | None] = {name: getattr(run, name) for name in _RATES}
            for name in _TIMES:
                times: Distribution | None = getattr(run, name)
                if times is not None:
                    known |= {f"{name}_p50": times.p50, f"{name}_p90": times.p90, f"{name}_p99": times.p99}
            for name, value in known.items():
                if value is not None:
                    figures.setdefault(name, []).append(value)
    return {
        name: Spread(runs=len(values), median=statistics.median(values), least=min(values), most=max(values))
        for name, values in figures.items()
    }


def _unfinished(unsent: int, errors: Counter[str], interrupted: bool) -> Iterator[str]:
    if interrupted:
        yield f"interrupted: {errors[UNFINISHED]} requests were unfinished, {unsent} not sent"


def _lateness(generator: Generator, ttft_ms: Distribution | None) -> Iterator[str]:
    for what, lag_ms in (("sent after due", generator.send_lag_ms), ("its timer's lag", generator.loop_lag_ms)):
        for percentile, floor_ms, share in _LATENESS if lag_ms is not None else ():
            limit_ms = max(floor_ms, share * getattr(ttft_ms, percentile, 0.0))
            late_ms = getattr(lag_ms, percentile)
            if late_ms > limit_ms:
                yield (
                    f"the load generator did not keep up: {percentile} of {what} is {late_ms:.1f} ms, "
                    f"over {limit_ms:.1f}"
                )


def _failures(whole: int, errors: Counter[str], check: Check | None) -> Iterator[str]:
    other = {code: count for code, count in sorted(errors.items()) if not code.startswith((*_OF_LOAD, UNFINISHED))}
    if other:
        told = ", ".join(f"{count} {code}" for code, count in other.items())
        yield f"requests failed of something else than load: {told}"
    elif not whole and errors:
        yield "no request was answered"
    if check is not None and check.different:
        yield f"{check.different} answers differ from the same requests' answers alone"


def _seconds(records: Sequence[Record]) -> float:
    if not records:
        return 0.0
    return (max(record.end_ms for record in records) - min(record.due_ms for record in records)) / 1e3


def _rate(count: int, seconds: float) -> float:
    return round(count / seconds, 4) if seconds else 0.0


def _in_flight(records: Sequence[Record]) -> int:
    last_ms = max(record.due_ms for record in records)
    return sum(record.due_ms <= last_ms < record.end_ms for record in records)
