"""A measurement in a terminal."""

from __future__ import annotations

from collections.abc import Iterator

from nvlm_trt.load.result import Measurement, Point, Run, Spread

__all__ = ["measurement_text"]

_COLUMNS = (
    ("requests/s", "completed_per_s"),
    ("good/s", "good_per_s"),
    ("tokens/s", "output_tokens_per_s"),
    ("first p50, ms", "ttft_ms_p50"),
    ("first p99, ms", "ttft_ms_p99"),
    ("between p50, ms", "tbt_ms_p50"),
    ("whole p50, ms", "e2e_ms_p50"),
    ("whole p99, ms", "e2e_ms_p99"),
)


def measurement_text(measurement: Measurement) -> str:
    points = measurement.points
    columns = [(head, key) for head, key in _COLUMNS if any(key in point.summary for point in points)]
    rows = [["load", "runs", "samples", *(head for head, _ in columns)]]
    rows += [_row(point, [key for _, key in columns]) for point in points]
    widths = [max(map(len, cells)) for cells in zip(*rows, strict=True)]
    lines = ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
    lines.append("Median of the valid runs (least-most); times count from when a request was due.")
    for point in points:
        lines += [f"{point.load.shown}: {line}" for run in point.runs for line in _notes(run)]
        lines += [f"{point.load.shown}: {line}" for line in _server(point)]
    return "\n".join(lines)


def _row(point: Point, keys: list[str]) -> list[str]:
    valid = [run for run in point.runs if run.valid]
    samples = "/".join(str(run.completed) for run in point.runs)
    return [
        point.load.shown,
        f"{len(valid)} of {len(point.runs)}",
        samples,
        *(_spread(point.summary.get(key)) for key in keys),
    ]


def _spread(spread: Spread | None) -> str:
    if spread is None:
        return "-"
    if spread.runs == 1:
        return f"{spread.median:.4g}"
    return f"{spread.median:.4g} ({spread.least:.4g}-{spread.most:.4g})"


def _notes(run: Run) -> Iterator[str]:
    head = f"run {run.repetition + 1}"
    if not run.valid:
        yield f"{head} NOT VALID: {'; '.join(run.problems)}"
    if run.errors:
        failed = ", ".join(f"{count} {code}" for code, count in run.errors.items())
        yield f"{head}: of {run.planned} requests failed {failed}"
    if run.short:
        yield f"{head}: {run.short} answers are shorter than was asked for"
    if run.check:
        check = run.check
        yield (
            f"{head}: {check.equal} of {check.equal + check.different} answers equal those of the same requests alone"
            + (f"; {check.unanswered} were not answered alone" if check.unanswered else "")
        )
        yield from check.examples


def _server(point: Point) -> Iterator[str]:
    """Of the first valid run: what the server says of itself."""
    run = next((run for run in point.runs if run.valid), None)
    if run is None:
        return
    for name, times in (run.server.models or {}).items():
        if times.requests:
            yield (
                f"{name}: {times.requests} requests, a mean of {times.queue_ms:.2f} ms in its queue, "
                f"{times.input_ms + times.compute_ms + times.output_ms:.2f} ms in its calls"
            )
    decoder = run.server.decoder
    if decoder and decoder.queue_ms is not None and decoder.total_ms is not None:
        yield (
            f"decoder: a mean of {decoder.queue_ms:.2f} ms waiting, {decoder.total_ms:.2f} ms in all; "
            f"{decoder.reused_tokens:,} of {decoder.prompt_tokens:,} prompt tokens reused"
        )
    if run.server.tiles:
        tiles = run.server.tiles
        yield f"tiles: {tiles.computed} computed in {tiles.calls} calls, {tiles.cached} from the cache"
    if run.tiles:
        yield f"tiles per request: mean {run.tiles.mean:.1f}, most {run.tiles.max:.0f}"
    lag = run.generator.send_lag_ms
    if lag:
        yield (f"load generator: {run.generator.cpu_share:.0%} of a core, p99 of sent after due {lag.p99:.1f} ms")
