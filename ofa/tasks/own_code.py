"""What may be a class in a file of the user's: ``path/file.py:Class``. The file is executed, if they vouched for it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from ofa.config import ConfigError, Named
from ofa.errors import unknown_name_message
from ofa.trust import check_trusted, trust
from ofa.user_code import module_of


class OfCode(Named):
    """Base of configurations that are chosen by the name of one of ours, or of a class in a file."""

    code_name: ClassVar[str] = ""
    """What a class of a file was asked for by."""

    @property
    def name(self) -> str:
        return type(self).code_name or super().name

    @classmethod
    def kind(cls, name: str) -> type[Named] | None:
        """The class of a name.

        Raises:
            ConfigError: If the file has no such class.
            ModelCodeError: If the file raises an error.
            UntrustedCodeError: If it is not on the user's list, or not there.
        """
        place = place_of(name)
        if place is None:
            return super().kind(name)
        path, class_name = place
        what = next(base.__name__.lower() for base in cls.__mro__ if OfCode in base.__bases__)
        check_trusted(path, recorded=None, where=f"{what} {name!r}", remedy="add --trust-code")
        module = module_of(path)
        known = {
            each: found for each, found in vars(module).items() if isinstance(found, type) and issubclass(found, cls)
        }
        if class_name not in known:
            raise ConfigError(unknown_name_message(f"{what} in {path}", class_name, known))
        found = known[class_name]
        found.code_name = name
        return found


def place_of(name: object) -> tuple[Path, str] | None:
    """File and class of ``path/file.py:Class``, the path relative to the current folder; ``None`` for other names."""
    path, _, class_name = str(name).rpartition(":")
    return (Path(path).expanduser(), class_name) if path.endswith(".py") and class_name.isidentifier() else None


def files_of_classes(recipe: Mapping[str, Any]) -> list[Path]:
    """Files that a recipe, as plain data, names for task and loss, whether they are there or not."""
    strategy = recipe.get("strategy")
    named = [recipe.get("task"), strategy.get("loss") if isinstance(strategy, Mapping) else None]
    for value, heads in zip(named[:], ("tasks", "losses"), strict=True):
        each = value.get(heads) if isinstance(value, Mapping) else None
        named += each.values() if isinstance(each, Mapping) else []
    places = (place_of(value.get("name") if isinstance(value, Mapping) else value) for value in named)
    return [place[0] for place in places if place is not None]


def trust_classes_of(recipe: Mapping[str, Any]) -> None:
    """Put these files on the user's list, as they are now."""
    for path in files_of_classes(recipe):
        if path.is_file():
            trust(path)
