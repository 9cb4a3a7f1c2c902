"""Fixtures of the data tests."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture
def real_data() -> Path:
    """The folder of real data sets; the test is skipped where there is none."""
    default = Path(__file__).parents[2].parent / "shared" / "data"
    root = Path(os.environ.get("OFA_TEST_DATA", default))
    if not root.is_dir():
        pytest.skip(f"no real data in {root}; set OFA_TEST_DATA to a folder that has it")
    return root
