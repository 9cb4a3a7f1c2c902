"""The system's Chromium, driven by Playwright: what the page looks like and does, not what it should."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

playwright = pytest.importorskip("playwright.sync_api", reason="no playwright to look at pages with")

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
OPTIONS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-default-apps",
    "--disable-extensions",
    "--disable-sync",
)
PATH = next(filter(None, map(shutil.which, NAMES)), None)
IS_READY = "!document.scripts.length || 'ready' in document.documentElement.dataset"

needs_chromium = pytest.mark.skipif(
    PATH is None, reason=f"no Chromium to look at pages with (looked for {', '.join(NAMES)})"
)


@contextmanager
def chromium() -> Iterator[Any]:
    """The browser itself, without a page."""
    with playwright.sync_playwright() as running:
        launched = running.chromium.launch(executable_path=PATH, args=OPTIONS)
        yield launched
        launched.close()


class Browser:
    """One page of a browser; motion is reduced.

    Args:
        settings: As :meth:`playwright.sync_api.Browser.new_context` takes them, such as ``is_mobile``.

    Attributes:
        page: Playwright's.
        messages: Errors and warnings of the console, and uncaught exceptions, since the page was opened.
        requests: Addresses that the page asked for, itself the first.
    """

    def __init__(self, chromium: Any, **settings: Any) -> None:
        self.messages: list[str] = []
        self.requests: list[str] = []
        self.page = chromium.new_context(**{"reduced_motion": "reduce", **settings}).new_page()
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("pageerror", lambda error: self.messages.append(str(error)))
        self.page.on("console", self._note)

    def _note(self, message: Any) -> None:
        if message.type in ("error", "warning", "assert"):
            self.messages.append(message.text)

    def open(self, page: Path | str, fragment: str = "") -> None:
        """Load a file, and wait until its scripts say that it is ready (``data-ready``), where it has any."""
        self.page.goto("about:blank")  # the same address with another fragment would not load again
        self.messages.clear()
        self.requests.clear()
        self.page.goto(Path(page).resolve().as_uri() + (f"#{fragment}" if fragment else ""))
        self.page.wait_for_function(IS_READY)
        self.settle()

    def js(self, expression: str) -> Any:
        """The value of a JavaScript expression, awaited."""
        return self.page.evaluate(expression)

    def settle(self) -> None:
        """Wait for two frames: observers and transitions without duration are done then."""
        self.js("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(() => done())))")

    def tree(self) -> list[dict[str, Any]]:
        """What a screen reader is told of."""
        nodes = self.page.context.new_cdp_session(self.page).send("Accessibility.getFullAXTree")["nodes"]
        return [node for node in nodes if not node["ignored"]]
