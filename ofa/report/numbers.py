"""Numbers as people read them on the page."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from decimal import Decimal

SUPERSCRIPTS = str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹")


def pretty_count(number: int) -> str:
    """``1,204`` or, from a million on, ``2.2 × 10¹⁹``."""
    if number < 1e6:
        return f"{number:,}"
    mantissa, exponent = f"{Decimal(number):.1e}".split("e+")  # it may be beyond what a float holds
    return f"{mantissa} × 10{str(int(exponent)).translate(SUPERSCRIPTS)}"


def si(number: float) -> str:
    """Three digits and a magnitude: ``23.5 M``."""
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:#.3g} {unit}".replace(". ", " ")
    return f"{number:g}"


def ms(value: float | None) -> str:
    """Milliseconds, three digits at least; a dash where there is none."""
    return "–" if value is None else f"{value:.2f}" if value >= 1 else f"{value:#.3g}"


def fixed(value: float | None, digits: int = 1) -> str:
    """So many digits after the point; a dash where there is no value."""
    return "–" if value is None else f"{value:.{digits}f}"


def fixed_range(values: Sequence[float], number: Callable[[float], str] = fixed) -> str:
    """The least and the greatest: ``98.0–98.9``; one number where they look alike."""
    return "–".join(dict.fromkeys(number(value) for value in (min(values), max(values))))
