"""Whether a page keeps what report pages promise, judged in a browser: like an audit, without a network."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from tests.report.browser import Browser

MAX_BYTES = 6_000_000
MIN_CONTRAST = 4.5
"""Of text against its ground (WCAG 2.2, 1.4.3, level AA)."""

NARROW_PIXELS, WIDE_PIXELS = 360, 1280
MAX_TABS = 200

Colour = Sequence[float]

# Colour, alpha included, of every piece of text and of the grounds below it, the nearest first. The browser itself
# turns whatever notation a colour has into bytes.
TEXTS = """
(() => {
  const context = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const known = new Map();
  const bytes = (colour) => {
    if (!known.has(colour)) {
      context.clearRect(0, 0, 1, 1);
      context.fillStyle = colour;
      context.fillRect(0, 0, 1, 1);
      known.set(colour, [...context.getImageData(0, 0, 1, 1).data]);
    }
    return known.get(colour);
  };
  const found = new Map();
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const text = walker.currentNode.data.trim(), parent = walker.currentNode.parentElement;
    if (!text || parent.closest("script, style, title")) continue;
    if (!parent.checkVisibility({ visibilityProperty: true })) continue;
    const style = getComputedStyle(parent);
    const grounds = [];
    for (let at = parent; at; at = at.parentElement) grounds.push(getComputedStyle(at).backgroundColor);
    const key = [parent instanceof SVGElement ? style.fill : style.color, ...grounds].join("|");
    if (!found.has(key)) found.set(key, { text: text.slice(0, 40), colours: key.split("|").map(bytes) });
  }
  return [...found.values()];
})()
"""

HEADINGS = "[...document.querySelectorAll('h1,h2,h3,h4,h5,h6')].map((heading) => Number(heading.tagName[1]))"
FOCUSED = """
(() => {
  const at = document.activeElement;
  if (!at || at === document.body) return null;
  // A control that lies invisibly on its label shows its focus there.
  const shows = [at, at.nextElementSibling].some((shown) => {
    const style = shown && getComputedStyle(shown);
    return style && style.outlineStyle !== "none" && parseFloat(style.outlineWidth) >= 2;
  });
  return { what: `${at.tagName.toLowerCase()} ${at.textContent.trim().slice(0, 20)}`, shows };
})()
"""
NAMED_ROLES = {"button", "checkbox", "combobox", "image", "img", "link", "radio", "region", "slider", "spinbutton"}


@dataclass(frozen=True, kw_only=True)
class PageCheck:
    """One line of the verdict."""

    name: str
    ok: bool
    found: str


def check_page(chromium: Any, path: Path) -> list[PageCheck]:
    """Open a page, wide and narrow, light and dark, and look at it.

    Args:
        chromium: That of :func:`tests.report.browser.chromium`.
        path: The HTML file.
    """
    num_bytes = path.stat().st_size
    wide = Browser(chromium, viewport={"width": WIDE_PIXELS, "height": 900})
    narrow = Browser(chromium, viewport={"width": NARROW_PIXELS, "height": 900}, is_mobile=True)
    for browser in (wide, narrow):
        browser.open(path)
        browser.js("document.querySelectorAll('details').forEach((details) => (details.open = true))")
        browser.settle()
    checks = [PageCheck(name="size", ok=num_bytes < MAX_BYTES, found=f"{num_bytes / 1e6:.2f} MB"), *_semantics(wide)]
    for scheme in ("dark", "light"):
        wide.page.emulate_media(color_scheme=scheme)
        wide.settle()
        ratio, text = min(_contrasts(wide.js(TEXTS)), default=(21.0, ""))
        checks.append(
            PageCheck(name=f"contrast, {scheme}", ok=ratio >= MIN_CONTRAST, found=f"{ratio:.2f}, least at {text!r}")
        )
    checks.append(_focus(wide))
    width = narrow.js("document.scrollingElement.scrollWidth")
    checks.append(PageCheck(name=f"fits {NARROW_PIXELS} pixels", ok=width <= NARROW_PIXELS, found=f"{width} pixels"))
    # The page's own address is the first request; all that happened above counts.
    own = path.resolve().as_uri()
    others = [url for url in (*wide.requests, *narrow.requests) if not url.startswith((own, "data:", "blob:"))]
    checks.append(PageCheck(name="network requests", ok=not others, found=_listed(others)))
    messages = [*wide.messages, *narrow.messages]
    checks.append(PageCheck(name="console errors", ok=not messages, found=_listed(messages)))
    return checks


def contrast(text: Colour, grounds: Sequence[Colour]) -> float:
    """Contrast ratio of text and what lies below it, from 1 to 21 (WCAG 2.2, "contrast ratio").

    Args:
        text: Red, green, blue and alpha, each 0 to 255.
        grounds: Likewise, the nearest first; white lies below them all.
    """
    below: Colour = (255, 255, 255)
    for ground in reversed(grounds):
        below = _over(ground, below)
    low, high = sorted(map(_luminance, (below, _over(text, below))))
    return (high + 0.05) / (low + 0.05)


def _over(colour: Colour, below: Colour) -> Colour:
    alpha = colour[3] / 255
    return [alpha * above + (1 - alpha) * under for above, under in zip(colour[:3], below, strict=True)]


def _luminance(colour: Colour) -> float:
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in (byte / 255 for byte in colour)]
    return sum(weight * c for weight, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def _contrasts(texts: Sequence[dict[str, Any]]) -> Iterator[tuple[float, str]]:
    for text in texts:
        colour, *grounds = text["colours"]
        yield contrast(colour, grounds), text["text"]


def _semantics(browser: Browser) -> Iterator[PageCheck]:
    for name, expression in (
        ("language", "document.documentElement.lang"),
        ("title", "document.title"),
        ("viewport", "document.querySelector('meta[name=viewport]')?.content ?? ''"),
    ):
        found = browser.js(expression)
        yield PageCheck(name=name, ok=bool(found), found=found or "none")
    levels = browser.js(HEADINGS)
    is_stepwise = all(after <= before + 1 for before, after in pairwise(levels))
    is_right = levels[:1] == [1] and levels.count(1) == 1 and is_stepwise
    yield PageCheck(name="headings", ok=is_right, found=" ".join(f"h{level}" for level in levels) or "none")
    nameless = [
        f"{role} {node['nodeId']}"
        for node in browser.tree()
        if (role := node.get("role", {}).get("value")) in NAMED_ROLES and not node.get("name", {}).get("value")
    ]
    yield PageCheck(name="names for screen readers", ok=not nameless, found=_listed(nameless, none="all there"))


def _focus(browser: Browser) -> PageCheck:
    """Walk over the page with the Tab key: every stop must be seen."""
    browser.js("document.activeElement?.blur()")
    num_stops, unseen = 0, []
    while num_stops < MAX_TABS:
        browser.page.keyboard.press("Tab")
        stop = browser.js(FOCUSED)
        if stop is None:
            break
        num_stops += 1
        unseen += [] if stop["shows"] else [stop["what"]]
    return PageCheck(
        name="visible focus", ok=not unseen, found=_listed(unseen, none=f"at all {num_stops} stops of the Tab key")
    )


def _listed(findings: Sequence[str], *, none: str = "none") -> str:
    return "; ".join(findings[:3]) + (f" and {len(findings) - 3} more" if len(findings) > 3 else "") or none
