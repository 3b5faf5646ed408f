"""A real Chromium, and what a page does there that no test may overlook.

Playwright's own browsers come from its makers' server. Debian's Chromium comes from Debian, with its security updates;
Playwright drives that one over the same protocol.
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from urllib.parse import urlsplit

from playwright.sync_api import Browser, BrowserContext, Page, Request, WebError, sync_playwright

__all__ = ["Chromium", "chromium", "watch"]

# The same as in scripts/bootstrap.sh.
_PROGRAMS = ("chromium", "google-chrome")
# No name is looked up, so that nothing beyond this machine is reached, whatever a page or Chromium itself tries.
_OPTIONS = ["--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"]


@dataclass(frozen=True, slots=True)
class Chromium:
    """One running browser. Playwright's event loop counts as running on this thread while a profile is open and only
    then: otherwise no other test of the process could call ``asyncio.run``."""

    browser: Browser
    loop: asyncio.AbstractEventLoop

    @contextmanager
    def profile(self) -> Iterator[BrowserContext]:
        """A fresh one, that nothing remains of."""
        asyncio._set_running_loop(self.loop)
        try:
            context = self.browser.new_context()
            yield context
            context.close()
        finally:
            asyncio._set_running_loop(None)


@contextmanager
def chromium() -> Iterator[Chromium]:
    """Headless."""
    program = next(filter(None, map(shutil.which, _PROGRAMS)), None)
    assert program, "There is no Chromium. On Debian: apt-get install -y --no-install-recommends chromium"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=_OPTIONS)
        loop = asyncio.get_running_loop()
        asyncio._set_running_loop(None)
        yield Chromium(browser, loop)
        asyncio._set_running_loop(loop)
        browser.close()


def watch(context: BrowserContext) -> list[str]:
    """Grows by what goes wrong in any page of ``context``: errors in the console, errors of scripts, and requests to
    another place than that of the first request (its server; for a file, that file)."""
    faults: list[str] = []
    homes: list[str] = []

    def requested(request: Request) -> None:
        place = _place(request.url)
        if not homes:
            homes.append(place)
        if place not in homes and not _own(request.url):
            faults.append(f"request: {request.url}")

    def opened(page: Page) -> None:
        page.on("websocket", lambda socket: faults.append(f"request: {socket.url}"))
        page.on(
            "console", lambda message: faults.append(f"console: {message.text}") if message.type == "error" else None
        )

    def failed(error: WebError) -> None:
        faults.append(f"script: {error.error}")

    context.on("request", requested)
    context.on("page", opened)
    context.on("weberror", failed)
    return faults


def _own(url: str) -> bool:
    """Whether a page holds it itself."""
    return url.startswith(("data:", "blob:", "about:"))


def _place(url: str) -> str:
    parts = urlsplit(url)
    return url.partition("#")[0] if parts.scheme == "file" else f"{parts.scheme}://{parts.netloc}"
