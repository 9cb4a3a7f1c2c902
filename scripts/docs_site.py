"""What the site has beyond docs/, as hooks of MkDocs: the files that the docs link to, and the options of all commands.

In the repository a link such as ``../devices/cpu-1t.yaml`` leads to the file; on the site to a page that shows it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer.main
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

import ofa.cli

ROOT = Path(__file__).parents[1]
LINK = re.compile(r"(?<=\]\()(\.\./[^)#\s]+)")
OPTIONS = "<!-- the site lists all options here -->"


def on_files(files: Files, config: MkDocsConfig) -> Files:
    for page in list(files.documentation_pages()):
        for link in LINK.findall(page.content_string):
            target = outside_docs(page.src_uri, link)
            if target is not None and files.get_file_from_path(page_of(target)) is None:
                files.append(File.generated(config, page_of(target), content=shown(target)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    here = page.file.src_uri

    def replace(link: re.Match[str]) -> str:
        target = outside_docs(here, link[0])
        return link[0] if target is None else os.path.relpath(page_of(target), Path(here).parent)

    if OPTIONS in markdown:
        markdown = markdown.replace(OPTIONS, "\n".join(options_of_all_commands()))
    return LINK.sub(replace, markdown)


def outside_docs(page: str, link: str) -> Path | None:
    """The file of the repository that a link leads to, from its root; ``None`` if it is one of the docs."""
    target = (ROOT / "docs" / page).parent.joinpath(link).resolve().relative_to(ROOT)
    return None if target.parts[0] == "docs" else target


def page_of(target: Path) -> str:
    return f"source/{target}" if target.suffix == ".md" else f"source/{target}.md"


def shown(target: Path) -> str:
    text = (ROOT / target).read_text(encoding="utf-8")
    language = target.suffix.removeprefix(".")
    return text if language == "md" else f"# {target}\n\n````{language}\n{text}````\n"


def options_of_all_commands() -> Iterator[str]:
    """Markdown: for each command a heading, what it does, and a table of its options."""
    group: Any = typer.main.get_command(ofa.cli.app)
    for name, command in group.commands.items():
        yield f"\n## ofa {name}\n\n{command.help}\n\n| option | does | unless told |\n|---|---|---|"
        for parameter in command.params:
            label = ", ".join(parameter.opts) if parameter.param_type_name == "option" else ""
            label = f"{label} {parameter.metavar or ''}".strip()
            # A bar would end the box, a bracket begin a link.
            does = (parameter.help or "").replace("|", "\\|").replace("[", "\\[")
            default = parameter.default if parameter.default not in (None, False) else ""
            yield f"| `{label}` | {does} | {'required' if parameter.required else default} |"
