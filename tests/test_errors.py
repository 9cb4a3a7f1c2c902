"""What the user can mend: our errors, and the message about an unknown name."""

from __future__ import annotations

import ast
import builtins
import errno
import os
from pathlib import Path

import pytest

import ofa
from ofa.errors import OfaError, UsageError, refusal_message, unknown_name_message

PRIVATE = {"_BrokenError", "_NoBundleError"}  # caught where they are raised


def error_classes() -> list[tuple[str, list[str]]]:
    """Name and bases of every exception class of the package."""
    found = []
    for path in Path(ofa.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef) and node.name.endswith("Error") and node.name not in PRIVATE:
                found.append((node.name, [ast.unparse(base) for base in node.bases]))
    return found


def test_all_errors_are_ours_and_of_a_built_in_class() -> None:
    classes = error_classes()
    ours = {name for name, _ in classes}
    assert len(classes) > 30
    for name, bases in classes:
        if name == "OfaError":
            continue
        own = [base for base in bases if base in ours]
        assert own, f"{name} is no OfaError"
        assert own != ["OfaError"] or any(
            isinstance(built_in := getattr(builtins, base, None), type) and issubclass(built_in, Exception)
            for base in bases
        ), f"{name} is of no built-in class"


def test_a_usage_error_is_a_value_error_with_status_2() -> None:
    assert issubclass(UsageError, ValueError) and issubclass(UsageError, OfaError)
    assert UsageError("x").exit_status == 2


@pytest.mark.parametrize(
    ("number", "remedy"),
    [
        (errno.ENOENT, "check the path"),
        (errno.ENOTDIR, "a file is where a folder should be; give another path"),
        (errno.EISDIR, "a folder is where a file should be; give another path"),
        (errno.EEXIST, "give another path, or move away what is there"),
    ],
)
def test_what_the_system_refuses_has_a_remedy(number: int, remedy: str) -> None:
    error = OSError(number, os.strerror(number), "here/there")
    assert refusal_message(error) == f"here/there: {os.strerror(number)}; {remedy}"


def test_the_nearest_spelling_is_suggested() -> None:
    known = ["mobilenetv3_large_075", "mobilenetv3_large_100", "mobilenetv3_rw"]
    message = unknown_name_message("model", "mobilenetv3_larg_100", known)
    assert message == (
        "unknown model 'mobilenetv3_larg_100'; did you mean 'mobilenetv3_large_100'? known: mobilenetv3_large_075, "
        "mobilenetv3_large_100, mobilenetv3_rw"
    )
    short = unknown_name_message("model", "mobilenetv3_larg_100", known, max_listed=1)
    assert short.endswith("? the nearest of 3: mobilenetv3_large_100")


def test_nothing_is_suggested_that_nobody_can_have_meant() -> None:
    assert unknown_name_message("thing", "xyz", ["resolution"]) == "unknown thing 'xyz'; known: resolution"
    assert unknown_name_message("thing", "x", []) == "unknown thing 'x'; known: none"
