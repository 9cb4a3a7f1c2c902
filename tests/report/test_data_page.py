"""The page of a data set: it says what was found, runs nothing, and keeps what pages of runs promise."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ofa import workflow
from tests.report.browser import Browser, chromium, needs_chromium
from tests.report.page_check import check_page
from tests.report.test_page import Page

HOSTILE = "<img src=x onerror=alert(1)>&\"'"


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a data set with one fault of each kind, and names that would be markup."""
    root = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    for name in ("shirt", HOSTILE):
        (root / "photos" / name).mkdir(parents=True)
        for index in range(30):
            size = (int(rng.integers(8, 300)), int(rng.integers(8, 300)), 3)
            picture = Image.fromarray(rng.integers(0, 256, size, dtype=np.uint8))
            picture.save(root / "photos" / name / f"{index:03}.png")
    shirts = root / "photos" / "shirt"
    (shirts / f"{HOSTILE.replace('/', '')}.png").write_bytes(b"no picture")
    (root / "photos" / HOSTILE / "same.png").write_bytes((shirts / "004.png").read_bytes())
    workflow.data_check([str(root / "photos")], out=root / "out")
    return root / "out" / "data.html"


def test_it_says_what_was_found(page: Path) -> None:
    parsed = Page(page)
    assert "no picture" not in parsed.text
    assert HOSTILE in parsed.text  # as text, not as an element
    assert not [tag for tag, attributes in parsed.elements if tag == "script" or "onerror" in attributes]
    pictures = [attributes for tag, attributes in parsed.elements if tag == "img"]
    assert len(pictures) in (2 * 24, 2 * 24 - 1)  # the broken one may be among those that were drawn
    assert all(str(each["src"]).startswith("data:image/webp;base64,") for each in pictures)
    assert all(each["loading"] == "lazy" and each["alt"] for each in pictures)
    for said in ("Cannot be read", "Under two labels", "is truncated or not an image", "same.png"):
        assert said in parsed.text


@pytest.fixture(scope="module")
def opened() -> Iterator[Any]:
    with chromium() as opened:
        yield opened


@needs_chromium
def test_it_keeps_what_pages_promise(page: Path, opened: Any) -> None:
    assert not [check for check in check_page(opened, page) if not check.ok]


@needs_chromium
def test_its_pictures_are_seen(page: Path, opened: Any) -> None:
    browser = Browser(opened)
    browser.open(page)
    browser.js("document.querySelectorAll('img').forEach((each) => (each.loading = 'eager'))")
    browser.settle()
    decoded = "Promise.all([...document.images].map((each) => each.decode())).then(() => document.images.length)"
    assert browser.js(decoded) >= 2 * 24 - 1
