"""A command out of a call of :mod:`ofa.workflow`: its parameters are the options, its docstring is the help."""

from __future__ import annotations

import inspect
import os
import re
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from ofa import workflow
from ofa.cli.printing import print_json
from ofa.progress import progress_bar

TYPES: dict[str, Any] = {
    **{"str": str, "int": int, "float": float, "bool": bool, "str | None": str | None, "int | None": int | None},
    **{"Path | str": Path, "Path | str | None": Path | None, "Recipe | Path | str": str},
    **{"Sequence[str]": list[str], "Sequence[int]": list[int], "Sequence[float]": list[float]},
    **{"Sequence[Path]": list[Path]},
}
"""What annotations of calls are on the command line; parameters of other types are for Python only."""

OPTIONS = {
    "devices": "device",
    "budgets_ms": "budget-ms",
    "resolutions": "resolution",
    "limits": "max",
    "search_dir": "search",
    "file_format": "format",
}
"""Parameters whose options are called otherwise: one that may be given several times is in the singular."""

METAVARS = {"run": "RUN", "device": "NAME", "devices": "NAME …", "budgets_ms": "MS …", "limits": "COST=LIMIT"}


class ManyValues(TyperCommand):
    """A command whose options that may be repeated also take several values in a row: ``--budget-ms 1 2 4``."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        repeatable = {name for option in self.params if getattr(option, "multiple", False) for name in option.opts}
        words: list[str] = []
        option: str | None = None
        for word in args:
            if option is not None and not word.startswith("-") and words[-1] != option:
                words.append(option)
            elif word.startswith("-"):
                option = word if word in repeatable else None
            words.append(word)
        return super().parse_args(ctx, words)


def command(
    app: typer.Typer,
    call: Callable[..., Any],
    *,
    arguments: dict[str, str] | None = None,
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Make a call a command of its name, printed by the function that this decorates.

    That function takes the result, and by name the parameters and ``as_json``; it gives ``False`` for exit status 1.
    ``--json`` prints the result's ``to_json()`` besides.

    Args:
        arguments: Parameters that are no options but arguments, with what stands for them in the help.
    """
    about, own_helps = explained(call)
    helps = explained(workflow)[1] | own_helps
    own = [p for p in inspect.signature(call).parameters.values() if p.annotation in TYPES]

    def decorate(show: Callable[..., Any]) -> Callable[..., Any]:
        def run(**given: Any) -> None:
            as_json = given.pop("as_json")
            with progress_bar() if os.environ.get("RANK", "0") == "0" else nullcontext() as progress:
                reports = {"progress": progress} if "progress" in inspect.signature(call).parameters else {}
                result = call(**given, **reports)
            holds = show(result, as_json=as_json, **given)
            if as_json:
                print_json([each.to_json() for each in result] if isinstance(result, list) else result.to_json())
            if holds is False:
                raise typer.Exit(1)

        parameters = [_parameter(each, helps, arguments or {}) for each in own]
        json_help = typer.Option("--json", help="Print the result as JSON on standard output.")
        keyword = inspect.Parameter.KEYWORD_ONLY
        parameters.append(inspect.Parameter("as_json", keyword, default=False, annotation=Annotated[bool, json_help]))
        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {each.name: each.annotation for each in parameters}
        app.command(call.__name__, help=about, cls=ManyValues)(run)
        return run

    return decorate


def _parameter(own: inspect.Parameter, helps: dict[str, str], arguments: dict[str, str]) -> inspect.Parameter:
    if own.name in arguments:
        info = typer.Argument(help=helps[own.name], metavar=arguments[own.name])
    else:
        option = OPTIONS.get(own.name, own.name.replace("_", "-"))
        info = typer.Option(f"--{option}", help=helps[own.name], metavar=METAVARS.get(own.name))
    default = [] if own.default == () else own.default
    kind: Any = TYPES[own.annotation]
    return inspect.Parameter(
        own.name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[kind, info]
    )


def explained(call: object) -> tuple[str, dict[str, str]]:
    """What a call's docstring says before its sections, and of each argument, as people read it."""
    text = inspect.getdoc(call) or ""
    about, _, rest = text.partition("\nArgs:\n")
    about = about.partition("\nRaises:\n")[0].partition("\nReturns:\n")[0]
    section = re.split(r"\n(?=\S)", rest)[0]
    found = {}
    for entry in re.split(r"\n(?=    \S)", section):
        names, _, what = entry.strip().partition(": ")
        for name in names.split(", "):
            found[name] = _plain(what)
    return "\n\n".join(map(_plain, about.strip().split("\n\n"))), found


def _plain(text: str) -> str:
    """Without line breaks and the marks of docstrings."""
    text = re.sub(r":\w+:`~?(?:\w+\.)*(\w+)`", r"\1", " ".join(text.split()))
    return text.replace("``", "`")
