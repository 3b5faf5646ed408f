"""The error tree, and its page: every code of the package is in docs/errors.md, and nothing else is."""

from __future__ import annotations

import ast
import functools
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from nvlm_trt.errors import NvlmError, RequestError, from_message

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "errors.md").read_text(encoding="utf-8")
SOURCES = [file.read_text(encoding="utf-8") for file in sorted((ROOT / "nvlm_trt").rglob("*.py"))]
CODE = re.compile(r"E(-[A-Z0-9]+){2,}")
ROWS = re.findall(r"^\| `(E-[A-Z0-9-]+)` \| (.+) \| (.+) \|$", PAGE, re.MULTILINE)
HEADS = re.findall(r"^## E-([A-Z]+): `(\w+)`, exit (\d+), HTTP (\d+)$", PAGE, re.MULTILINE)


@functools.cache
def nodes() -> list[ast.AST]:
    """Of all sources; walking them takes a second."""
    return [node for source in SOURCES for node in ast.walk(ast.parse(source))]


def codes() -> Iterator[str]:
    """Whole string constants that are codes. One that is built has its pieces in ``pieces``."""
    for node in nodes():
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and CODE.fullmatch(node.value):
            yield node.value


def pieces() -> Iterator[tuple[str, ...]]:
    """The constant parts of each f-string that builds a code."""
    for node in nodes():
        if isinstance(node, ast.JoinedStr) and ast.unparse(node)[1:].strip("'\"").startswith("E-"):
            yield tuple(str(part.value) for part in node.values if isinstance(part, ast.Constant))


def families_read() -> Iterator[str]:
    """The family that each call of ``read_json_object`` names."""
    for node in nodes():
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "read_json_object":
            family = node.args[1]
            assert isinstance(family, ast.Constant)
            yield str(family.value)


@pytest.fixture(scope="module")
def package_codes() -> set[str]:
    built = set(pieces())
    # One place builds codes; another would need another way to find them.
    assert {first for first, *_ in built} == {"E-"}
    assert all(len(parts) == 2 for parts in built)
    return set(codes()) | {f"E-{family}{end}" for family in families_read() for _, end in built}


def test_the_page_has_every_code_once_and_no_other(package_codes):
    listed = [code for code, _, _ in ROWS]
    assert set(listed) - package_codes == set(), "on the page and not in the package"
    assert package_codes - set(listed) == set(), "in the package and not on the page"
    assert [code for code, count in Counter(listed).items() if count > 1] == []


def test_every_family_stands_under_its_class_in_order():
    """Each head tells class, exit code and status; its rows follow, sorted."""
    sections = re.split(r"^## ", PAGE, flags=re.MULTILINE)[1:]
    assert len(sections) == len(HEADS)
    for (family, class_name, exit_code, http_status), section in zip(HEADS, sections, strict=True):
        codes = re.findall(r"^\| `(E-[A-Z0-9-]+)`", section, re.MULTILINE)
        assert codes == sorted(codes)
        assert codes
        for code in codes:
            error = from_message(f"{code}: what")
            assert error is not None
            assert code.startswith(f"E-{family}-")
            assert type(error).__name__ == class_name
            assert (error.exit_code, error.http_status) == (int(exit_code), int(http_status))


def test_every_row_says_what_it_means_and_what_to_do():
    for code, meaning, remedy in ROWS:
        assert meaning.strip(), code
        assert remedy.strip(), code


def test_docstrings_promise_no_code_that_does_not_exist(package_codes):
    promised = {match[0] for source in SOURCES for match in re.finditer(r"\bE(-[A-Z0-9]+){2,}\b(?!-?\*|-\{)", source)}
    # The tree's own docstring shows the form of a code.
    assert promised - package_codes == {"E-FAMILY-WHAT"}


def test_an_error_finds_its_way_back_out_of_a_servers_message():
    error = RequestError("E-IMAGE-FORMAT", "Picture 1 is none.", "Send one.")
    assert str(error) == "E-IMAGE-FORMAT: Picture 1 is none. Send one."
    again = from_message(f"in ensemble 'ensemble', {error}")
    assert type(again) is RequestError
    assert str(again) == str(error)


@pytest.mark.parametrize("text", ["", "no code", "E-IMAGE: too short", "E-NOBODY-KNOWS: this family", "XE-IMAGE-A: b"])
def test_other_messages_hold_no_error(text):
    assert from_message(text) is None


@pytest.mark.parametrize("code", ["", "E-IMAGE", "e-image-format", "E-IMAGE-", "E-IMAGE-FORMAT: x"])
def test_a_malformed_code_is_a_bug(code):
    with pytest.raises(ValueError, match="malformed"):
        NvlmError(code, "what")
