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
from ofa.cli.printing import print_json, say
from ofa.progress import progress_bar

TYPES: dict[str, Any] = {
    **{"str": str, "int": int, "float": float, "bool": bool, "str | None": str | None, "int | None": int | None},
    **{"Path | str": Path, "Path | str | None": Path | None, "Recipe | Path | str": str},
    **{"Sequence[str]": list[str], "Sequence[int]": list[int], "Sequence[float]": list[float]},
    **{"Sequence[Path]": list[Path], "float | None": float | None},
}
"""What annotations of calls are on the command line; parameters of other types are for Python only."""

OPTIONS = {
    "devices": "device",
    "budgets_ms": "budget-ms",
    "resolutions": "resolution",
    "limits": "max",
    "min_metric": "min-metric --min-top1",
    "search_dir": "search",
    "file_format": "format",
    "public": "public/--private",
}
"""Parameters whose options are called otherwise: one that may be given several times is in the singular; some have two
names."""

METAVARS = {"run": "RUN", "device": "NAME", "devices": "NAME …", "budgets_ms": "MS …", "min_metric": "X …"}
METAVARS |= {"limits": "COST=LIMIT"}
ARGUMENTS = {name: name.upper() for name in ("bundle", "folder", "model", "project", "recipe", "source")}
ARGUMENTS |= {"models": "MODEL…", "overrides": "key=value", "what": "ROOT", "sources": "URL…", "repo": "OWNER/NAME"}
"""Parameters that are no options but arguments, with what stands for them in the help."""

JSON = Annotated[bool, typer.Option("--json", help="Print the result as JSON on standard output.")]


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


def command(app: typer.Typer, call: Callable[..., Any]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Make a call a command of its name, printed by the function that this decorates.

    That function takes the result, and by name the parameters and ``as_json``; it gives ``False`` for exit status 1.
    ``--json`` prints the result's ``to_json()`` besides.
    """
    about, helps = explained(call)
    parameters = inspect.signature(call).parameters

    def decorate(show: Callable[..., Any]) -> Callable[..., Any]:
        def run(*, as_json: bool = False, **given: Any) -> None:
            try:
                with progress_bar() if os.environ.get("RANK", "0") == "0" else nullcontext() as progress:
                    reports = {"progress": progress} if "progress" in parameters else {}
                    result = call(**given, **reports)
            except KeyboardInterrupt as stop:  # typer says nothing of it
                say(f"interrupted; {str(stop) or 'what was finished is kept'}")
                raise
            holds = show(result, as_json=as_json, **given)
            if as_json:
                print_json(result)
            if holds is False:
                raise typer.Exit(1)

        options = [_option(each, helps) for each in parameters.values() if each.annotation in TYPES]
        options.append(inspect.Parameter("as_json", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=JSON))
        run.__signature__ = inspect.Signature(options)  # type: ignore[attr-defined]
        run.__annotations__ = {each.name: each.annotation for each in options}
        app.command(call.__name__.removeprefix(f"{app.info.name}_").rstrip("_"), help=about, cls=ManyValues)(run)
        return run

    return decorate


def _option(parameter: inspect.Parameter, helps: dict[str, str]) -> inspect.Parameter:
    name, kind = parameter.name, TYPES[parameter.annotation]
    text = helps.get(name) or SHARED_HELPS[name]
    if name in ARGUMENTS:
        info = typer.Argument(help=text, metavar=ARGUMENTS[name])
    else:
        words = f"--{OPTIONS.get(name, name.replace('_', '-'))}".split()
        info = typer.Option(*words, help=text, metavar=METAVARS.get(name))
    default = [] if parameter.default == () else parameter.default
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[kind, info])


def explained(call: object) -> tuple[str, dict[str, str]]:
    """What a call's docstring says before its arguments, and of each of them, without line breaks."""
    about, _, rest = (inspect.getdoc(call) or "").partition("\nArgs:\n")
    arguments = re.split(r"\n(?=\S)", rest)[0]
    helps = {}
    for entry in re.split(r"\n(?=    \S)", arguments):
        name, _, text = entry.strip().partition(": ")
        helps[name] = " ".join(text.split())
    return "\n\n".join(" ".join(part.split()) for part in about.split("\n\n")), helps


SHARED_HELPS = explained(workflow)[1]
