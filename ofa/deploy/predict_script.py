"""``predict.py``: a program that needs nothing of this package, and how a receiver knows that it is still ours."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Sequence
from hashlib import sha256
from types import ModuleType

from ofa.data import picture, sound
from ofa.tasks import Task, predict_loaders, predict_pictures, predict_recordings

EARLIER_SHA256 = frozenset({"45ccf70d5dae0f2ac44156bf5075acc68303f80143451f771c370e6ba5fead84"})
"""What bundles of older formats hold; the program of the present one joins them when it changes after a release."""
MODULES = (predict_pictures, predict_recordings, predict_loaders, picture, sound)
"""What programs may import: each can be put in place of the import, those it imports itself coming later."""


def predict_script(task: Task) -> bytes:
    """The program of a task, with what it imports of :data:`MODULES` put in place of the import."""
    program = task.predict_script.read_text(encoding="utf-8")
    for module in MODULES:
        head, *others = re.split(rf"^from {re.escape(module.__name__)} import .*\n", program, flags=re.MULTILINE)
        if others:
            program = head + _body(module, known=head.splitlines()) + "".join(others)
    return program.encode()


def _body(module: ModuleType, *, known: Sequence[str]) -> str:
    """A module without its docstring and the imports that are known already."""
    text = inspect.getsource(module)
    lines = text.splitlines()[ast.parse(text).body[0].end_lineno :]
    is_import = re.compile("(import|from) ").match
    return "\n".join(line for line in lines if not (is_import(line) and line in known)).strip("\n") + "\n"


def is_ours(program: bytes, task: Task) -> bool:
    """Whether a bundle's ``predict.py`` is what this version writes for the task, or an earlier one wrote."""
    return program == predict_script(task) or sha256(program).hexdigest() in EARLIER_SHA256
