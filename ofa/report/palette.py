"""Colours by role, each for a light and a dark page.

Against both grounds, text keeps a contrast of at least 4.5 to 1; marks keep 3 to 1 against the page.
"""

from __future__ import annotations

PALETTE: dict[str, tuple[str, str]] = {
    "page": ("#fcfcfa", "#15181c"),
    "raised": ("#f3f3ef", "#1d2126"),
    "ink": ("#1c2126", "#e7e9ec"),
    "muted": ("#5b646d", "#a3adb8"),
    "rule": ("#dcdeda", "#343a42"),
    "random": ("#87919b", "#74808d"),
    "front": ("#1d5fa8", "#74b0f4"),
    "random_front": ("#a86a12", "#dfa94e"),
    "pick": ("#c03b2b", "#ff8674"),
    "good": ("#23703f", "#6fcf8e"),
    "violet": ("#7a4fb3", "#bb9bf0"),
    "teal": ("#0c7480", "#58c4d0"),
}

LIGHT = {role: light for role, (light, _) in PALETTE.items()}

# What tells devices apart where several are drawn together; symbols do so without colour, for the first five.
DEVICE_ROLES = ("front", "random_front", "good", "violet", "teal", "pick")
DEVICE_SYMBOLS = ("circle", "diamond", "square", "triangle", "cross")
