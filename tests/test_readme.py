"""What the README shows works as it is written."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

import ofa.cli
from ofa.hardware import load_device
from ofa.training import list_recipes, load_recipe

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
TRAINING = (ROOT / "docs" / "training.md").read_text(encoding="utf-8")
DEVICES = (ROOT / "docs" / "devices.md").read_text(encoding="utf-8")
SEARCH = (ROOT / "docs" / "search.md").read_text(encoding="utf-8")


def blocks(language: str, text: str = README) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", text, flags=re.DOTALL)


def test_python_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    (code,) = blocks("python")
    names: dict[str, Any] = {}
    exec(compile(code, "README.md", "exec"), names)
    assert names["logits"].shape == (1, 1000)
    assert names["latency_ms"].shape == (100_000,)
    assert names["latency_ms"].min() > 0


def test_the_python_of_the_search_runs() -> None:
    (code,) = blocks("python", SEARCH)
    names: dict[str, Any] = {}
    exec(compile(code, "search.md", "exec"), names)
    assert len(names["found"]) == 60 and names["found"]["is_front"].any()


def test_commands_are_spelt_right() -> None:
    """Every command of the README parses, with the options that it gives."""
    lines = (
        "".join(block for text in (README, TRAINING, DEVICES, SEARCH) for block in blocks("bash", text))
        .replace("\\\n", " ")
        .splitlines()
    )
    commands = [shlex.split(line, comments=True)[1:] for line in lines if line.startswith("ofa ")]
    assert len(commands) >= 6
    group: Any = get_command(ofa.cli.app)
    for name, *words in commands:
        group.commands[name].make_context(name, words)


def test_files_that_they_name_exist() -> None:
    for folder, text in ((ROOT, README), (ROOT / "docs", TRAINING), (ROOT / "docs", DEVICES), (ROOT / "docs", SEARCH)):
        for target in re.findall(r"\]\(([^)h#][^)]*)\)", text):
            assert (folder / target).exists(), target


def test_devices_of_the_docs_load(tmp_path: Path) -> None:
    texts = blocks("yaml", DEVICES)
    assert len(texts) >= 3
    for text in texts:
        path = tmp_path / "board.yaml"
        path.write_text(text, encoding="utf-8")
        load_device(path)


def test_recipes_of_the_docs_load_and_are_all_there() -> None:
    lines = [line.partition("ofa train ")[2] for line in "".join(blocks("bash", TRAINING)).splitlines()]
    for recipe, *words in map(shlex.split, filter(None, lines)):
        load_recipe(recipe, [word for word in words[: words.index("--out")] if "=" in word])
    table = re.findall(r"^\| `(\w+)` \| `(\w+)` \| `(\w+)` \| `(\w+)`", TRAINING, flags=re.MULTILINE)
    assert {row[0] for row in table} == set(list_recipes()) - {"demo"}
    for name, *parts in table:
        strategy = load_recipe(name).strategy
        assert [strategy.schedule.name, strategy.sampler.name, strategy.loss.name] == parts
