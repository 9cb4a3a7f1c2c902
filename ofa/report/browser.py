"""A headless Chromium, driven over its DevTools pipe: what the page looks like and does, not what it should."""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

from ofa.errors import OfaError

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
OPTIONS = (
    "--headless=new",
    "--remote-debugging-pipe",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-default-apps",
    "--disable-extensions",
    "--disable-sync",
    "--hide-scrollbars",
)
# Chromium reads commands from descriptor 3 and answers on 4, which a fresh interpreter puts in place: doing so between
# fork and exec of this process is not safe where it has threads.
LAUNCH = (
    "import fcntl, os, sys; "
    "r, w = (fcntl.fcntl(int(fd), fcntl.F_DUPFD, 10) for fd in sys.argv[1:3]); "
    "os.dup2(r, 3); os.dup2(w, 4); os.close(r); os.close(w); os.execv(sys.argv[3], sys.argv[3:])"
)


class BrowserError(OfaError, RuntimeError):
    """The browser is missing, does not answer, or refuses a command."""


def find_chromium() -> str | None:
    """Path of the first Chromium on this machine, or ``None``."""
    return next(filter(None, map(shutil.which, NAMES)), None)


class Browser:
    """One page of one browser, which a ``with`` block opens and closes.

    Args:
        timeout_seconds: How long an answer is waited for.

    Attributes:
        messages: Errors and warnings of the console, and uncaught exceptions, since the page was opened.
        requests: Addresses that the page asked for, itself the first.

    Raises:
        BrowserError: If there is no Chromium.
    """

    def __init__(self, *, timeout_seconds: float = 30) -> None:
        path = find_chromium()
        if path is None:
            raise BrowserError(f"no Chromium found (looked for {', '.join(NAMES)}); install one to look at pages")
        self.path, self.timeout_seconds = path, timeout_seconds
        self.messages: list[str] = []
        self.requests: list[str] = []
        self._answers: dict[int, dict[str, Any]] = {}
        self._is_loaded = False
        self._buffer = b""
        self._number = 0
        self._session: str | None = None

    def __enter__(self) -> Browser:
        self._profile = tempfile.TemporaryDirectory(prefix="ofa-browser-", ignore_cleanup_errors=True)
        for_browser_in, self._to_browser = os.pipe()
        self._from_browser, for_browser_out = os.pipe()
        ends = [for_browser_in, for_browser_out]
        words = [sys.executable, "-ISc", LAUNCH, *map(str, ends), self.path, *OPTIONS]
        self._process = subprocess.Popen(
            [*words, f"--user-data-dir={self._profile.name}", "about:blank"],
            pass_fds=ends,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for end in ends:
            os.close(end)
        try:
            pages = [t for t in self.call("Target.getTargets")["targetInfos"] if t["type"] == "page"]
            target = pages[0]["targetId"] if pages else self.call("Target.createTarget", url="about:blank")["targetId"]
            self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
            for domain in ("Page", "Runtime", "Log", "Network"):
                self.call(f"{domain}.enable")
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._to_browser)  # a Chromium whose pipe is closed ends
        os.close(self._from_browser)
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._profile.cleanup()

    # -- talking ------------------------------------------------------------------------------------------------------

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """Send a command of the DevTools protocol and wait for its result."""
        self._number += 1
        number = self._number
        message = {"id": number, "method": method, "params": params}
        if self._session is not None:
            message["sessionId"] = self._session
        try:
            os.write(self._to_browser, json.dumps(message).encode() + b"\0")
        except BrokenPipeError:
            raise BrowserError(f"{self.path} has ended before {method}; run it by hand to see why") from None
        self._wait(lambda: number in self._answers, what=f"an answer to {method}")
        answer = self._answers.pop(number)
        if "error" in answer:
            raise BrowserError(f"{method} failed: {answer['error'].get('message')}")
        result: dict[str, Any] = answer["result"]
        return result

    def _wait(self, is_done: Callable[[], bool], *, what: str) -> None:
        deadline = time.monotonic() + self.timeout_seconds
        while not is_done():
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([self._from_browser], [], [], left)[0]:
                raise BrowserError(f"{self.path} gave no {what} within {self.timeout_seconds:g} s")
            data = os.read(self._from_browser, 1 << 20)
            if not data:
                raise BrowserError(f"{self.path} has ended without {what}; run it by hand to see why")
            *messages, self._buffer = (self._buffer + data).split(b"\0")
            for message in map(json.loads, messages):
                if "id" in message:
                    self._answers[message["id"]] = message
                else:
                    self._note(message)

    def _note(self, event: dict[str, Any]) -> None:
        """Keep what an event says of the page."""
        method, params = event["method"], event.get("params", {})
        if method == "Page.loadEventFired":
            self._is_loaded = True
        elif method == "Runtime.exceptionThrown":
            details = params["exceptionDetails"]
            self.messages.append(details.get("exception", {}).get("description") or details["text"])
        elif method == "Runtime.consoleAPICalled" and params["type"] in ("error", "warning", "assert"):
            self.messages.append(" ".join(str(arg.get("value", arg.get("description"))) for arg in params["args"]))
        elif method == "Log.entryAdded" and params["entry"]["level"] in ("error", "warning"):
            self.messages.append(params["entry"]["text"])
        elif method == "Network.requestWillBeSent":
            self.requests.append(params["request"]["url"])

    # -- the page -----------------------------------------------------------------------------------------------------

    def open(self, page: Path | str, fragment: str = "") -> None:
        """Load a file, and wait until its scripts say that it is ready (``data-ready``), where it has any."""
        self.load("about:blank")  # the same address with another fragment would not load again
        self.messages.clear()
        self.requests.clear()
        self.load(Path(page).resolve().as_uri() + (f"#{fragment}" if fragment else ""))
        deadline = time.monotonic() + self.timeout_seconds
        while not self.js("!document.scripts.length || 'ready' in document.documentElement.dataset"):
            if self.messages or time.monotonic() > deadline:
                return  # whoever looks at the page will see why
            time.sleep(0.02)
        self.settle()

    def load(self, url: str) -> None:
        """Go to an address and wait for its load event, not for its scripts."""
        self._is_loaded = False
        self.call("Page.navigate", url=url)
        self._wait(lambda: self._is_loaded, what=f"load event of {url[:80]}")

    def js(self, expression: str) -> Any:
        """The value of a JavaScript expression, awaited."""
        result = self.call("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in result:
            details = result["exceptionDetails"]
            raise BrowserError(f"{expression[:80]!r} threw {details.get('exception', {}).get('description')}")
        return result["result"].get("value")

    def settle(self) -> None:
        """Wait for two frames: observers and transitions without duration are done then."""
        self.js("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(() => done())))")

    def size(self, width: int, height: int = 900) -> None:
        """The size of the window, in CSS pixels."""
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 700
        )
        self.settle()

    def scheme(self, name: str) -> None:
        """``light`` or ``dark``; motion is reduced in both."""
        features = {"prefers-color-scheme": name, "prefers-reduced-motion": "reduce"}
        self.call("Emulation.setEmulatedMedia", features=[{"name": k, "value": v} for k, v in features.items()])
        self.settle()

    def key(self, name: str) -> None:
        """Press and release a key, such as ``Tab`` or ``ArrowRight``."""
        codes = {"Tab": 9, "Enter": 13, "Escape": 27, "End": 35, "Home": 36}
        codes |= {"ArrowLeft": 37, "ArrowUp": 38, "ArrowRight": 39, "ArrowDown": 40}
        text = {"text": "\r"} if name == "Enter" else {}  # without its text, Enter presses no button
        for kind in ("keyDown", "keyUp"):
            self.call(
                "Input.dispatchKeyEvent", type=kind, key=name, code=name, windowsVirtualKeyCode=codes[name], **text
            )
            text = {}

    def screenshot(self, path: Path | str, *, whole: bool = True) -> None:
        """The page as PNG; all of it, or what the window shows."""
        shot = self.call("Page.captureScreenshot", captureBeyondViewport=whole)
        Path(path).write_bytes(base64.b64decode(shot["data"]))

    def pdf(self, path: Path | str) -> None:
        """The page as it is printed, on A4."""
        paper = self.call("Page.printToPDF", paperWidth=8.27, paperHeight=11.69, printBackground=True)
        Path(path).write_bytes(base64.b64decode(paper["data"]))
