"""The plots of a page, each a function from values to one SVG. Every mark shows its figures in a tooltip, and every
figure is in a table as well."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from nvlm_trt.precision.result import Figure, Layers
from nvlm_trt.report.frame import Frame, marker, with_title
from nvlm_trt.report.markup import Markup, tag
from nvlm_trt.report.scale import Scale, fitting, shown

__all__ = ["Line", "Spot", "Whisker", "layer_bars", "lines", "scatter", "whiskers"]


@dataclass(frozen=True, slots=True)
class Spot:
    """A point with its intervals; ``anchor`` is the place on the page that it links to."""

    x: float
    y: float
    x_range: tuple[float, float]
    y_range: tuple[float, float]
    series: int
    shape: int
    best: bool
    title: str
    anchor: str


@dataclass(frozen=True, slots=True)
class Line:
    """``points`` are x, y and what to say of it, by rising x."""

    points: tuple[tuple[float, float, str], ...]
    series: int
    shape: int


@dataclass(frozen=True, slots=True)
class Whisker:
    name: str
    figure: Figure
    series: int


def scatter(title: str, description: str, spots: Sequence[Spot], x: Scale, y: Scale, labels: tuple[str, str]) -> Markup:
    """Better is up and to the left; the best are joined by a stair."""
    frame = Frame(title, description, x, y, *labels)
    stair = sorted((spot for spot in spots if spot.best), key=lambda spot: spot.x)
    steps = [f"M{frame.px(stair[0].x):.1f},{frame.py(stair[0].y):.1f}"] if stair else []
    steps += [f"H{frame.px(spot.x):.1f}V{frame.py(spot.y):.1f}" for spot in stair[1:]]
    drawn = sorted(spots, key=lambda spot: spot.best)  # the best lie on top
    return frame.svg(
        tag("path", d="".join(steps), cls="stair") if len(stair) > 1 else (), [_spot(frame, s) for s in drawn]
    )


def _spot(frame: Frame, spot: Spot) -> Markup:
    x, y = frame.px(spot.x), frame.py(spot.y)
    low, high = (frame.py(end) for end in spot.y_range)
    left, right = (frame.px(end) for end in spot.x_range)
    cls = f"range s{spot.series % 6}"
    return with_title(
        spot.title,
        tag("line", x1=x, x2=x, y1=low, y2=high, cls=cls),
        tag("line", x1=left, x2=right, y1=y, y2=y, cls=cls),
        tag("a", marker(x, y, spot.series, spot.shape, chosen=spot.best), href=f"#{spot.anchor}", tabindex="-1"),
        cls="spot",
    )


def lines(title: str, description: str, drawn: Sequence[Line], labels: tuple[str, str]) -> Markup:
    """Figures over a load."""
    points = [point for line in drawn for point in line.points]
    x = _loads(sorted({point[0] for point in points}))
    y = fitting([point[1] for point in points], zero=True)
    frame = Frame(title, description, x, y, *labels)
    content = []
    for line in drawn:
        places = [(frame.px(x), frame.py(y), said) for x, y, said in line.points]
        way = " ".join(f"{x:.1f},{y:.1f}" for x, y, _ in places)
        content.append(tag("polyline", points=way, cls=f"line s{line.series % 6}"))
        content += [with_title(said, marker(x, y, line.series, line.shape)) for x, y, said in places]
    return frame.svg(content)


def _loads(values: Sequence[float]) -> Scale:
    """Loads that were measured are the ticks: nothing is known between them."""
    low, high = values[0], values[-1]
    if low > 0 and high / low >= 4:
        return Scale(low / 1.15, high * 1.15, tuple(values), logarithmic=True)
    room = 0.06 * (high - low) or 1.0
    return Scale(low - room, high + room, tuple(values))


def whiskers(title: str, description: str, rows: Sequence[Whisker], label: str, *, zero: bool = False) -> Markup:
    """A dot and its interval for each row, from the top down."""
    ends = [end for row in rows for end in (row.figure.low, row.figure.high, row.figure.value)]
    x = fitting([*ends, 0.0] if zero else ends, ticks=4)
    names = tuple(row.name for row in reversed(rows))
    height = 58 + 26 * len(rows)
    frame = Frame(title, description, x, Scale(-0.5, len(rows) - 0.5, ()), label, "", names, height)
    content = []
    if zero and x.low < 0 < x.high:
        content.append(tag("line", x1=frame.px(0), x2=frame.px(0), y1=12, y2=height - 40, cls="axis"))
    for place, row in enumerate(reversed(rows)):
        y, figure = frame.py(place), row.figure
        said = f"{row.name}: {shown(figure.value)} [{shown(figure.low)}, {shown(figure.high)}]"
        ends_at = {"x1": frame.px(figure.low), "x2": frame.px(figure.high), "y1": y, "y2": y}
        content.append(
            with_title(
                said,
                tag("line", **ends_at, cls=f"range wide s{row.series % 6}"),
                marker(frame.px(figure.value), y, row.series, 0),
            )
        )
    return frame.svg(content)


def layer_bars(title: str, description: str, layers: Layers) -> Markup:
    """Two bars a layer: what it does alone, and what is gained by leaving it out."""
    gained = [max(0.0, layers.everything.value - layer.without.value) for layer in layers.layers]
    alone = [layer.alone.value for layer in layers.layers]
    count = len(layers.layers)
    step = max(1, -(-count // 10))
    x = Scale(-0.5, count - 0.5, tuple(float(number) for number in range(0, count, step)))
    frame = Frame(title, description, x, fitting([0.0, *alone, *gained], zero=True), "layer", "nats a token")
    width = (frame.px(1) - frame.px(0)) * 0.38
    content = []
    for number, heights in enumerate(zip(alone, gained, strict=True)):
        for series, height in enumerate(heights):
            left = frame.px(number) + (series - 1) * width
            top = frame.py(height)
            what = "alone in FP8" if series == 0 else "gained by keeping it"
            bar = tag("rect", x=left, y=top, width=max(0.8, width - 1), height=frame.py(0) - top, cls=f"bar s{series}")
            content.append(with_title(f"layer {number}: {what}, {shown(height)} nats", bar))
    return frame.svg(content)
