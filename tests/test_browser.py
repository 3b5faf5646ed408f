"""The fixtures that look at pages must see what is wrong with one."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

WRONG = {
    "<script>console.error('told')</script>": "console: told",
    "<script>throw new Error('thrown')</script>": "script: thrown",
    "<script>setTimeout(async () => missing())</script>": "script: missing is not defined",
    "<img src='http://127.0.0.1:1/elsewhere.png' alt=''>": "request: http://127.0.0.1:1/elsewhere.png",
    "<img src='https://example.com/far.png' alt=''>": "request: https://example.com/far.png",
    "<script>new WebSocket('ws://127.0.0.1:1/socket')</script>": "request: ws://127.0.0.1:1/socket",
}


def show(page, folder: Path, body: str) -> None:
    file = folder / "page.html"
    file.write_text(f"<!doctype html><link rel=icon href='data:,'><title>A page</title>{body}")
    page.goto(file.as_uri())


def test_a_page_that_needs_nothing_has_no_faults(page, faults, tmp_path: Path):
    picture = "<img src='data:image/gif;base64,R0lGODlhAQABAAAAACw=' alt=''>"
    show(page, tmp_path, picture + "<script>console.log('fine')</script><a href='#part'>on</a>")
    page.click("a")
    assert faults == []


def test_what_goes_wrong_in_a_page_is_seen(page, faults, tmp_path: Path):
    show(page, tmp_path, "".join(WRONG))
    for _ in range(100):
        if set(WRONG.values()) <= {*faults}:
            break
        page.wait_for_timeout(20)
    else:
        pytest.fail(f"only {faults} was seen")
    faults.clear()


def test_between_pages_other_tests_may_run_event_loops_of_their_own(browser):
    async def answer() -> int:
        return 1

    with browser.profile():
        pass
    assert asyncio.run(answer()) == 1
