"""A headless Chromium for tests of pages, and a record of all that a page does.

    from browser import chromium, open_page  # noqa: F401

    def test_it(open_page):
        visit = open_page("http://127.0.0.1:8000/", width=400)
        visit.page.click("text=next")
        visit.check()

The browser lives as long as the test module: Playwright's synchronous interface keeps an event
loop in this thread, under which no other test could run its own.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
"""Chromium's program by distribution; the first one on PATH is used."""

ARGUMENTS = (
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",  # nothing leaves this machine
)

TIMEOUT = 5000
"""Milliseconds until an element that a test waits for is missing."""


@dataclass
class Visit:
    """A page in the browser, and what it did since it was opened."""

    page: Any  # playwright's Page
    requests: list[str] = field(default_factory=list)  # addresses, data: ones left out
    dialogs: list[str] = field(default_factory=list)  # messages of alert() and the like
    errors: list[str] = field(default_factory=list)  # of scripts, and of the console

    def check(self, *origins: str) -> None:
        """Assert that no script failed, no dialog opened, and only `origins` were asked."""
        assert self.errors == []
        assert self.dialogs == []
        others = [address for address in self.requests if not address.startswith(origins)]
        assert others == []


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    """Yield the machine's Chromium; skip where there is none."""
    program = next((path for name in NAMES if (path := shutil.which(name))), None)
    if program is None:
        pytest.skip(f"no Chromium on PATH ({', '.join(NAMES)})")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=list(ARGUMENTS))
        yield browser
        browser.close()


@pytest.fixture
def open_page(chromium: Any) -> Iterator[Callable[..., Visit]]:
    """Return a function that opens an address in a context of its own; all are closed at the end.

    `width` and `height` are the window's in CSS pixels; further keywords go to Playwright's
    new_context, such as color_scheme="dark".
    """
    contexts = []

    def open_(address: str, width: int = 1400, height: int = 900, **options: Any) -> Visit:
        context = chromium.new_context(viewport={"width": width, "height": height}, **options)
        contexts.append(context)
        context.set_default_timeout(TIMEOUT)
        visit = Visit(context.new_page())
        page = visit.page
        page.on("request", lambda request: _note(visit.requests, request.url))
        page.on("pageerror", lambda error: visit.errors.append(str(error)))
        page.on("console", lambda message: _console(visit.errors, message))
        page.on("dialog", lambda dialog: (visit.dialogs.append(dialog.message), dialog.dismiss()))
        page.goto(address)
        return visit

    yield open_
    for context in contexts:
        context.close()


def _note(requests: list[str], address: str) -> None:
    if not address.startswith("data:"):
        requests.append(address)


def _console(errors: list[str], message: Any) -> None:
    if message.type == "error":
        errors.append(message.text)
