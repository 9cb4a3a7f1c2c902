from __future__ import annotations

import itertools

import pytest

from ofa.report.palette import PALETTE

TEXT, MARKS = ("ink", "muted", "front", "pick", "good"), ("random", "random_front", "violet", "teal")


def luminance(colour: str) -> float:
    """WCAG 2.2, relative luminance."""
    channels = [int(colour[start : start + 2], 16) / 255 for start in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return sum(weight * c for weight, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


@pytest.mark.parametrize(("role", "scheme"), list(itertools.product(TEXT + MARKS, (0, 1))))
def test_contrast(role: str, scheme: int) -> None:
    for ground in ("page", "raised") if role in TEXT else ("page",):
        low, high = sorted(luminance(PALETTE[name][scheme]) for name in (role, ground))
        assert (high + 0.05) / (low + 0.05) >= (4.5 if role in TEXT else 3), ground


def test_recolouring_one_role_never_touches_another() -> None:
    light, dark = zip(*PALETTE.values(), strict=True)
    assert len(set(light + dark)) == 2 * len(PALETTE)
