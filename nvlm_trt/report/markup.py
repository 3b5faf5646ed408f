"""HTML and SVG as calls: text is escaped unless it was made here, so nothing read from a file can become markup."""

from __future__ import annotations

import html

__all__ = ["Markup", "join", "tag", "trusted"]

_VOID = frozenset({"meta", "br", "line", "rect", "circle", "path", "use", "polyline", "link"})
_ATTRIBUTES = {"cls": "class", "for_": "for", "viewbox": "viewBox"}


class Markup(str):
    """Text that is markup already."""

    __slots__ = ()


def trusted(text: str) -> Markup:
    """For constants of this program alone."""
    return Markup(text)


def tag(name: str, /, *content: object, **attributes: object) -> Markup:
    """An element. ``cls`` is its class, ``_`` in a name stands for ``-``; what is None or False is left out.

    Everything else is turned to text and escaped, quotes included.
    """
    told = "".join(
        f' {_ATTRIBUTES.get(key, key.replace("_", "-"))}="{html.escape(_plain(value))}"'
        for key, value in attributes.items()
        if value is not None and value is not False
    )
    inner = join(content)
    if name in _VOID and not inner:
        return Markup(f"<{name}{told}>" if name in ("meta", "br", "link") else f"<{name}{told}/>")
    return Markup(f"<{name}{told}>{inner}</{name}>")


def join(content: object) -> Markup:
    """One after another; tuples, lists and generators are looked into, None is nothing."""
    if content is None:
        return Markup("")
    if isinstance(content, Markup):
        return content
    if isinstance(content, (str, int, float)):
        return Markup(html.escape(_plain(content)))
    return Markup("".join(join(part) for part in content))  # type: ignore[attr-defined]


def _plain(value: object) -> str:
    """Numbers short: a coordinate needs no more than a hundredth."""
    if value is True:
        return ""
    return f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)
