"""The part of the page that shows accuracy against latency, and latency under load."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from nvlm_trt.load.result import Spread
from nvlm_trt.report.figures import FIGURES
from nvlm_trt.report.markup import Markup, join, tag
from nvlm_trt.report.palette import Palette
from nvlm_trt.report.plots import Line, Spot, lines, scatter
from nvlm_trt.report.points import Latency, Point, by_task_and_load, load_order, pareto_sets
from nvlm_trt.report.scale import fitting, shown
from nvlm_trt.report.table import Row, figure_cell, spread_cell, table

__all__ = ["load_section", "tradeoff_sections"]


def tradeoff_sections(points: Sequence[Point], figure: str, palette: Palette) -> list[Markup]:
    """One for each task, with a plot for each load."""
    by_task = groupby(points, key=lambda point: point.accuracy.task)
    return [_task_section(number, task, list(group), figure, palette) for number, (task, group) in enumerate(by_task)]


def _task_section(number: int, task: str, points: Sequence[Point], figure: str, palette: Palette) -> Markup:
    unit = FIGURES[figure]
    y = fitting([end for point in points for end in (point.accuracy.score.low, point.accuracy.score.high)], zero=False)
    best = pareto_sets(points, figure)
    figures = []
    for group in by_task_and_load(points):
        load = group[0].latency.load.shown
        x = fitting([end for point in group for end in _ends(point.latency.summary[figure])], zero=True)
        spots = [_spot(point, point in best, figure, palette, _anchor(number, points.index(point))) for point in group]
        said = (
            f"{len(group)} configurations; {sum(spot.best for spot in spots)} of them are beaten by no other in both."
        )
        plot = scatter(f"{task}, {load}", said, spots, x, y, (unit, f"{task} score"))
        figures.append(tag("figure", tag("figcaption", load), plot))
    return tag(
        "section",
        tag("h2", f"Accuracy against latency: {task}"),
        tag(
            "p",
            "Up and to the left is better. Filled points with a ring are the Pareto set of their load: no other is "
            "both quicker and more accurate. Thin lines are 95 % intervals of the score, and the least and most of "
            "the repetitions of the latency. Scores whose intervals overlap may not differ; the paired differences "
            "below tell more.",
        ),
        palette.key(),
        tag("div", figures, cls="figures"),
        _choices_table(number, points, best, figure),
        tag("p", "To build what was chosen: ", tag("code", "nvlm-trt report DIR --choose POINT --recipe chosen.toml")),
        id=f"task-{number}",
    )


def _choices_table(number: int, points: Sequence[Point], best: Sequence[Point], figure: str) -> Markup:
    head = ["point", "score", FIGURES[figure]]
    others = [other for other in ("ttft_ms_p50", "ttft_ms_p90", "e2e_ms_p90") if other != figure]
    head += [FIGURES[other] for other in others] + ["requests/s"]
    rows = []
    for group in by_task_and_load(points):
        for point in sorted(group, key=lambda point: point.latency.summary[figure].median):
            summary, is_best = point.latency.summary, point in best
            name = join(["★ " if is_best else "", point.name])
            cells: list[object] = [name, figure_cell(point.accuracy.score, ".2f"), _spread(summary[figure])]
            cells += [shown(summary[name].median) if name in summary else "–" for name in (*others, "completed_per_s")]
            rows.append(Row(cells, best=is_best, anchor=_anchor(number, points.index(point))))
    return table("Every point, the quickest of a load first. ★ is in the Pareto set of its load.", head, rows)


def _spot(point: Point, best: bool, figure: str, palette: Palette, anchor: str) -> Spot:
    score, spread, own = point.accuracy.score, point.latency.summary[figure], point.configuration
    said = (
        f"{point.name}: score {score.value:.2f} [{score.low:.2f}, {score.high:.2f}], "
        f"{FIGURES[figure]} {shown(spread.median)}{', in the Pareto set' if best else ''}"
    )
    return Spot(
        x=spread.median,
        y=score.value,
        x_range=_ends(spread),
        y_range=(score.low, score.high),
        series=palette.colour(own.precision),
        shape=palette.shape(own.max_tiles),
        best=best,
        title=said,
        anchor=anchor,
    )


def load_section(latencies: Sequence[Latency], figure: str, palette: Palette) -> Markup:
    """Latency and throughput over the load, a plot for each kind of load and figure; and every measurement."""
    usable = [one for one in latencies if one.configuration is not None and one.summary]
    figures = []
    by_kind = groupby(sorted(usable, key=lambda one: load_order(one.load)), key=lambda one: one.load.kind)
    for kind, group in by_kind:
        held = list(group)
        label = "clients" if kind == "closed" else "requests/s that come"
        for name in (figure, "completed_per_s"):
            drawn = _lines(held, name, palette)
            if drawn:
                title = f"{FIGURES[name]}, {'closed loop' if kind == 'closed' else f'{kind} arrivals'}"
                plot = lines(title, "Medians of the repetitions, by configuration.", drawn, (label, FIGURES[name]))
                figures.append(tag("figure", tag("figcaption", title), plot))
    invalid = [one for one in latencies if not one.summary]
    return tag(
        "section",
        tag("h2", "Latency under load"),
        palette.key() if figures else None,
        tag("div", figures, cls="figures"),
        table(
            "Every load that was measured: medians of the repetitions, and their least and most.",
            ["configuration", "load", *(FIGURES[name] for name in _SHOWN), "door", "file"],
            [_load_row(one) for one in sorted(latencies, key=lambda one: load_order(one.load)) if one.summary],
        ),
        table(
            "Loads without a valid run: they are not shown above.",
            ["configuration", "load", "file", "problems"],
            [Row([_named(one), one.load.shown, one.file, "; ".join(one.problems)]) for one in invalid],
            wrap=(3,),
        )
        if invalid
        else None,
        id="load",
    )


_SHOWN = ("ttft_ms_p50", "ttft_ms_p99", "tbt_ms_p50", "e2e_ms_p50", "e2e_ms_p99", "completed_per_s", "good_per_s")


def _lines(held: Sequence[Latency], name: str, palette: Palette) -> list[Line]:
    drawn = []
    for configuration in sorted({one.configuration for one in held if one.configuration is not None}):
        points = [
            (
                size,
                one.summary[name].median,
                f"{configuration.name}, {one.load.shown}: {shown(one.summary[name].median)}",
            )
            for one in held
            if one.configuration == configuration and name in one.summary
            for size in [one.load.clients or one.load.rate_per_s]
            if size
        ]
        if points:
            series, shape = palette.colour(configuration.precision), palette.shape(configuration.max_tiles)
            drawn.append(Line(tuple(sorted(points)), series, shape))
    return drawn


def _load_row(one: Latency) -> Row:
    figures = [_spread(one.summary.get(name)) for name in _SHOWN]
    return Row([_named(one), one.load.shown, *figures, one.door, one.file])


def _named(one: Latency) -> str:
    return one.configuration.name if one.configuration else "not told"


def _spread(spread: Spread | None) -> object:
    return spread_cell(spread.median, spread.least, spread.most) if spread else "–"


def _ends(spread: Spread) -> tuple[float, float]:
    return spread.least, spread.most


def _anchor(task: int, point: int) -> str:
    return f"point-{task}-{point}"
