"""``predict.py``: a program that needs nothing of this package, and how a receiver knows that it is still ours."""

from __future__ import annotations

import inspect
import re
from functools import partial
from hashlib import sha256
from types import ModuleType

from ofa.data import picture
from ofa.tasks import Task, predict_loaders

EARLIER_SHA256 = frozenset({"45ccf70d5dae0f2ac44156bf5075acc68303f80143451f771c370e6ba5fead84"})
"""What bundles of older formats hold; the program of the present one joins them when it changes after a release."""
PARTS = (picture, predict_loaders)
"""Modules that are put in place of what programs import of them."""


def predict_script(task: Task) -> bytes:
    """The program of a task, with what it imports of :data:`PARTS` put in place of the import.

    It has those modules' own imports.
    """
    program = task.predict_script.read_text(encoding="utf-8")
    for part in PARTS:
        imports = re.compile(rf"^from {re.escape(part.__name__)} import [\w, ]+\n", re.MULTILINE)
        program = imports.sub(partial(_without_imports, part), program)
    return program.encode()


def _without_imports(part: ModuleType, match: re.Match[str]) -> str:
    return inspect.getsource(part).partition("import numpy as np\n")[2]


def is_ours(program: bytes, task: Task) -> bool:
    """Whether a bundle's ``predict.py`` is what this version writes for the task, or an earlier one wrote."""
    return program == predict_script(task) or sha256(program).hexdigest() in EARLIER_SHA256
