from __future__ import annotations

from html.parser import HTMLParser

from hypothesis import given
from hypothesis import strategies as st

from nvlm_trt.report.markup import join, tag, trusted


class Read(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data: str) -> None:
        self.text += data


# A parser turns carriage returns into line ends, and NUL into a replacement, as the standard has it.
TEXT = st.text(st.characters(exclude_characters="\r\0", exclude_categories=["Cs"]))


@given(TEXT, TEXT)
def test_text_stays_text_wherever_it_is_put(inside: str, attribute: str) -> None:
    read = Read()
    read.feed(tag("p", inside, [tag("b", inside)], title=attribute, data_name=attribute))
    read.close()
    assert read.tags == ["p", "b"]
    assert read.text == inside * 2
    assert read.attributes == [("title", attribute), ("data-name", attribute)]


def test_markup_is_not_escaped_twice_and_nothing_is_nothing() -> None:
    assert tag("p", trusted("<b>x</b>"), None, ["&", tag("i")]) == "<p><b>x</b>&amp;<i></i></p>"
    assert tag("line", x1=1.0, x2=2.345678, cls="s0", id=None, hidden=False) == '<line x1="1" x2="2.35" class="s0"/>'
    assert tag("meta", charset="utf-8") == '<meta charset="utf-8">'
    assert join(["a<", 2, None]) == "a&lt;2"
