"""Which colour and shape stands for what in all plots of a page, and the legend."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from nvlm_trt.report.frame import marker
from nvlm_trt.report.markup import Markup, tag

__all__ = ["Palette", "palette_for", "shown_tiles"]


@dataclass(frozen=True, slots=True)
class Palette:
    """Colours by precision, shapes by tile limit: both can be told apart without the other."""

    precisions: tuple[str, ...]
    tiles: tuple[int, ...]

    def colour(self, precision: str) -> int:
        return self.precisions.index(precision)

    def shape(self, tiles: int) -> int:
        return self.tiles.index(tiles)

    def key(self, *, shapes: bool = True) -> Markup:
        """A legend."""
        entries = [(name, marker(9, 9, self.colour(name), 0)) for name in self.precisions]
        if shapes and len(self.tiles) > 1:
            entries += [(shown_tiles(count), marker(9, 9, 5, self.shape(count))) for count in self.tiles]
        return tag(
            "ul",
            [
                tag("li", tag("svg", drawn, viewbox="0 0 18 18", aria_hidden="true", cls="swatch"), tag("span", name))
                for name, drawn in entries
            ],
            cls="key",
        )


def palette_for(configurations: Iterable[tuple[str, int]]) -> Palette:
    """Of all (precision, tile limit) of a page; the plainest precision first."""
    pairs = set(configurations)
    precisions = sorted({name for name, _ in pairs}, key=lambda name: (not name.startswith("bf16"), len(name), name))
    return Palette(tuple(precisions), tuple(sorted({tiles for _, tiles in pairs})))


def shown_tiles(count: int) -> str:
    return f"{count} tile{'' if count == 1 else 's'}"
