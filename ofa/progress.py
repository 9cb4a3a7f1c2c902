"""How far something is that takes a while."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[int, int, str], None]
"""Called with the number of steps that are done, that of all, and what is being done."""
