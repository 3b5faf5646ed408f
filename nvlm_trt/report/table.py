"""Tables: a head, rows of cells, and a box that scrolls sideways on a phone."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from nvlm_trt.precision.result import Figure
from nvlm_trt.report.markup import Markup, join, tag
from nvlm_trt.report.scale import shown

__all__ = ["Row", "figure_cell", "spread_cell", "table"]


@dataclass(frozen=True, slots=True)
class Row:
    """The first cell is the row's head. ``anchor`` is what links lead to."""

    cells: Sequence[object]
    best: bool = False
    anchor: str | None = None


def table(caption: str, head: Sequence[str], rows: Iterable[Row], *, wrap: Sequence[int] = ()) -> Markup:
    """Cells are escaped unless they are markup; columns in ``wrap`` hold long text."""
    body = [
        tag(
            "tr",
            [
                tag("th" if number == 0 else "td", cell, scope="row" if number == 0 else None, cls=_class(number, wrap))
                for number, cell in enumerate(row.cells)
            ],
            cls="best" if row.best else None,
            id=row.anchor,
        )
        for row in rows
    ]
    titles = [tag("th", title, scope="col", cls=_class(number, wrap)) for number, title in enumerate(head)]
    inner = tag("table", tag("thead", tag("tr", titles)), tag("tbody", body), aria_label=caption)
    # A box that scrolls must be reachable without a mouse. The caption stands outside: it stays when the table moves.
    box = tag("div", inner, cls="scroll", tabindex="0", role="region", aria_label=caption)
    return join([tag("p", caption, cls="caption quiet"), box])


def figure_cell(figure: Figure, form: str = "") -> Markup:
    value, low, high = ((f"{one:{form}}" if form else shown(one)) for one in (figure.value, figure.low, figure.high))
    return join([value, " ", tag("small", f"[{low}, {high}]")])


def spread_cell(median: float, least: float, most: float) -> Markup:
    spread = () if least == most else (" ", tag("small", f"{shown(least)} to {shown(most)}"))
    return join([shown(median), spread])


def _class(number: int, wrap: Sequence[int]) -> str | None:
    return "wrap" if number in wrap else None
