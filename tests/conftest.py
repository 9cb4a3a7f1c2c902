"""Settings for all tests."""

from __future__ import annotations

import torch
from hypothesis import settings

# One thread: tests run beside each other, and sums come out in the same order everywhere.
torch.set_num_threads(1)

# A first example may import, compile or warm something up; no test is judged by its duration.
settings.register_profile("ofa", deadline=None)
settings.load_profile("ofa")
