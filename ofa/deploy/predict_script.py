"""``predict.py``: a program that needs nothing of this package, and how a receiver knows that it is still ours."""

from __future__ import annotations

import re
from hashlib import sha256
from pathlib import Path

from ofa.data import picture
from ofa.tasks import Task

EARLIER_SHA256 = frozenset({"45ccf70d5dae0f2ac44156bf5075acc68303f80143451f771c370e6ba5fead84"})
"""What bundles of older formats hold; the program of the present one joins them when it changes after a release."""
IMPORT = re.compile(rf"^from {re.escape(picture.__name__)} import [\w, ]+\n", re.MULTILINE)


def predict_script(task: Task) -> bytes:
    """The program of a task, with what it imports of :mod:`ofa.data.picture` put in place of the import.

    It has that module's own imports.
    """
    program = task.predict_script.read_text(encoding="utf-8")
    own = Path(picture.__file__).read_text(encoding="utf-8").partition("import numpy as np\n")[2]
    return IMPORT.sub(lambda match: own, program).encode()


def is_ours(program: bytes, task: Task) -> bool:
    """Whether a bundle's ``predict.py`` is what this version writes for the task, or an earlier one wrote."""
    return program == predict_script(task) or sha256(program).hexdigest() in EARLIER_SHA256
