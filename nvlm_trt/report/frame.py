"""A plot's frame: axes, grid, labels, and the way from values to coordinates. One size, which a phone shows whole."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from nvlm_trt.report.markup import Markup, tag
from nvlm_trt.report.scale import Scale, shown

__all__ = ["SHAPES", "Frame", "marker", "with_title"]

SHAPES = ("circle", "square", "triangle", "diamond", "down", "cross")
_POINTS = {
    "square": "M-4,-4h8v8h-8z",
    "triangle": "M0,-5.2L5,3.8H-5z",
    "diamond": "M0,-5.6L5.6,0L0,5.6L-5.6,0z",
    "down": "M0,5.2L5,-3.8H-5z",
    "cross": "M-1.8,-5h3.6v3.2h3.2v3.6h-3.2v3.2h-3.6v-3.2h-3.2v-3.6h3.2z",
}


@dataclass(frozen=True, slots=True)
class Frame:
    """Coordinates are SVG units, about CSS pixels on a phone; ``names`` in place of ticks makes rows of the y axis."""

    title: str
    description: str
    x: Scale
    y: Scale
    x_label: str
    y_label: str
    names: tuple[str, ...] = ()
    height: int = 270
    width: int = 360

    _TOP = 12
    _RIGHT = 12
    _BOTTOM = 40

    @property
    def left(self) -> float:
        """Room for the longest text at the y axis, and for the axis' own label."""
        if self.names:
            return min(170.0, 14 + 6.4 * max(map(len, self.names)))
        return 26 + 6.4 * max((len(shown(value)) for value in self.y.ticks), default=0)

    def px(self, value: float) -> float:
        return self.left + self.x.place(value) * (self.width - self.left - self._RIGHT)

    def py(self, value: float) -> float:
        return self.height - self._BOTTOM - self.y.place(value) * (self.height - self._TOP - self._BOTTOM)

    def svg(self, *content: Markup | Sequence[Markup]) -> Markup:
        return tag(
            "svg",
            tag("title", self.title),
            tag("desc", self.description),
            tag("g", self._grid(), cls="grid", aria_hidden="true"),
            content,
            viewbox=f"0 0 {self.width} {self.height}",
            role="img",
            aria_label=f"{self.title}. {self.description}",
            cls="plot",
        )

    def _grid(self) -> list[Markup]:
        bottom, right = self.height - self._BOTTOM, self.width - self._RIGHT
        parts: list[Markup] = []
        for value in self.x.ticks:
            place = self.px(value)
            parts.append(tag("line", x1=place, x2=place, y1=self._TOP, y2=bottom))
            parts.append(tag("text", shown(value), x=place, y=bottom + 15, text_anchor="middle"))
        if self.names:
            for row, name in enumerate(self.names):
                parts.append(tag("text", _short(name), x=self.left - 8, y=self.py(row) + 4, text_anchor="end"))
        else:
            for value in self.y.ticks:
                place = self.py(value)
                parts.append(tag("line", x1=self.left, x2=right, y1=place, y2=place))
                parts.append(tag("text", shown(value), x=self.left - 6, y=place + 4, text_anchor="end"))
            turned = f"translate(11 {(self._TOP + bottom) / 2:.0f}) rotate(-90)"
            parts.append(tag("text", self.y_label, transform=turned, text_anchor="middle", cls="label"))
        parts.append(tag("line", x1=self.left, x2=right, y1=bottom, y2=bottom, cls="axis"))
        middle = (self.left + right) / 2
        parts.append(tag("text", self.x_label, x=middle, y=self.height - 6, text_anchor="middle", cls="label"))
        return parts


def marker(x: float, y: float, series: int, shape: int, *, chosen: bool = False) -> Markup:
    """A point in a series' colour and a shape; ``chosen`` ones are filled and have a ring."""
    name = SHAPES[shape % len(SHAPES)]
    cls = f"mark s{series % 6}{' best' if chosen else ''}"
    drawn = tag("circle", r=4.6, cls=cls) if name == "circle" else tag("path", d=_POINTS[name], cls=cls)
    ring = tag("circle", r=8.5, cls=f"ring s{series % 6}") if chosen else None
    return tag("g", ring, drawn, transform=f"translate({x:.1f} {y:.1f})")


def with_title(text: str, *content: Markup | None, **attributes: object) -> Markup:
    """A group with ``text`` as its tooltip."""
    return tag("g", tag("title", text), content, **attributes)


def _short(name: str, most: int = 26) -> str:
    return name if len(name) <= most else f"{name[: most - 1]}…"
