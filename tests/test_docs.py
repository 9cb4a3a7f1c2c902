"""What the README and the docs show works as it is written, and their tables name all that there is.

Blocks of Python run, a page's one after another, those under ``<!-- slow -->`` in the slow tests. Commands are parsed,
files loaded.
"""

from __future__ import annotations

import copy
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, fields
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
import timm.models._registry as timm_registry
import yaml
from typer.main import get_command

import ofa.cli
from ofa.config import apply_overrides
from ofa.data import READERS, SPLITS, DataConfig, load_data
from ofa.deploy import TARGETS, Latency, export_bundle
from ofa.deploy.bundle import BundleInfo
from ofa.deploy.parity import TOLERANCES
from ofa.hardware import Device, load_device
from ofa.hardware.runtimes import RUNTIMES
from ofa.hardware.transports import HOSTS
from ofa.metrics import TOP1
from ofa.search.methods import METHODS
from ofa.search.predictors import PREDICTORS
from ofa.setting import Setting
from ofa.supernet import PRESETS, create_supernet
from ofa.supernet.dims import DIM_KINDS
from ofa.supernet.elasticize import check_choices
from ofa.training import SubnetEvaluator, list_recipes, load_recipe

ROOT = Path(__file__).parents[1]
PAGES = {
    path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8")
    for path in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md")))
}
COMMANDS: dict[str, Any] = get_command(ofa.cli.app).commands  # type: ignore[attr-defined]
BLOCK = re.compile(
    r"^(?P<slow><!-- slow -->\n)?```(?P<language>\w*)\n(?P<code>.*?)^```$", flags=re.DOTALL | re.MULTILINE
)
LINK = re.compile(r"\]\((?!https?:|#)([^)#\s]+)")
# Of others, taken as they are.
PROGRAMS = {"cd", "for", "pip", "printf", "sha256sum", "source", "tensorboard"}


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    page: str
    line: int
    language: str
    code: str
    is_slow: bool

    def run(self, names: dict[str, Any]) -> None:
        """Execute it; tracebacks name the page and its line."""
        exec(compile("\n" * self.line + self.code, self.page, "exec"), names)


BLOCKS = [
    Block(page, text.count("\n", 0, found.start("code")), found["language"], found["code"], found["slow"] is not None)
    for page, text in PAGES.items()
    for found in BLOCK.finditer(text)
]


def blocks(language: str) -> list[Block]:
    return [block for block in BLOCKS if block.language == language]


def test_every_block_of_the_docs_says_what_it_is() -> None:
    assert sum(text.count("\n```") for text in PAGES.values()) == 2 * len(BLOCKS)
    for block in BLOCKS:
        assert block.language in ("python", "bash", "yaml", "json") or not block.page.startswith("docs/"), block


# -- Python ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder as a user's is: shipped tables and devices, and nothing that is changed stays."""
    (tmp_path / "latency_tables").mkdir()
    for folder in (ROOT / "latency_tables").iterdir():
        (tmp_path / "latency_tables" / folder.name).symlink_to(folder)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    modules = set(sys.modules)
    for name, value in vars(timm_registry).items():
        if isinstance(value, (dict, set)) and not name.startswith("__"):
            monkeypatch.setattr(timm_registry, name, copy.copy(value))
    yield tmp_path
    if "predict" not in modules:
        sys.modules.pop("predict", None)


@pytest.mark.parametrize("page", dict.fromkeys(block.page for block in blocks("python") if not block.is_slow))
def test_python_runs(page: str, workplace: Path) -> None:
    names: dict[str, Any] = {"__name__": "__main__"}
    write_files(page, workplace)
    for block in blocks("python"):
        if block.page == page and not block.is_slow:
            block.run(names)
    if page == "README.md":
        assert names["logits"].shape == (1, 1000)
        assert names["latency_ms"].shape == (100_000,) and names["latency_ms"].min() > 0
    if page == "docs/search.md":
        assert len(names["found"]) == 60 and names["found"]["is_front"].any()


def write_files(page: str, folder: Path) -> None:
    """What a page says is the reader's own."""
    for file, code in re.findall(
        r"this is `(\w+\.py)`:\n\n```python\n(.*?)^```$", PAGES[page], re.DOTALL | re.MULTILINE
    ):
        (folder / file).write_text(code)


@pytest.mark.slow
@pytest.mark.parametrize("page", dict.fromkeys(block.page for block in blocks("python") if block.is_slow))
def test_slow_python_runs(page: str, workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if page == "docs/deploy.md":
        write_bundle(workplace / "bundles" / "photos-8ms")
    names: dict[str, Any] = {"__name__": "__main__"}
    for block in blocks("python"):
        if block.page == page:
            block.run(names)
    if page == "docs/deploy.md":
        assert capsys.readouterr().out.splitlines()[0] in map(str, range(10))
    if page == "docs/devices.md":
        assert (workplace / "latency_tables" / "mine" / "ofa_mobilenetv3_tiny.csv").is_file()


def write_bundle(path: Path) -> None:
    """A bundle of an untrained subnet on digits, whose latency was not measured."""
    supernet = create_supernet("ofa_mobilenetv3_tiny", num_classes=10).eval()
    evaluator = SubnetEvaluator(supernet, load_data(DataConfig(name="digits"), image_size=32))
    export_bundle(
        evaluator,
        [{"arch": dict(supernet.space.smallest()), "latency_ms": 1.0}],
        out=path,
        device=Device(name="cpu-1t", setting=Setting(runtime="onnxruntime")),
        budget_ms=8,
        measure=lambda files, speed: [Latency(p10=1.0, p50=1.0, p90=1.0) for _ in files],
        run_info={
            "model": {"name": "ofa_mobilenetv3_tiny"},
            "recipe": {"data": {"name": "digits"}},
            "data": {"name": "digits", "num_train": 1000},
            "weights_sha256": "0" * 64,
        },
    )


# -- commands and files ----------------------------------------------------------------------------------------------


def commands() -> list[tuple[str, list[str]]]:
    """Page and words of every command that a block of bash holds."""
    found = []
    for block in blocks("bash"):
        for line in block.code.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            while words:
                end = words.index("&&") if "&&" in words else len(words)
                found.append((block.page, words[:end]))
                words = words[end + 1 :]
    return found


def arguments(words: list[str]) -> list[str] | None:
    """Those of ``ofa``, in whatever way it is called; ``None`` if it is not."""
    if words[0] == "ofa":
        return words[1:]
    if words[0] in ("python", "torchrun") and "ofa" in words:  # python -m ofa
        return words[words.index("ofa") + 1 :]
    if words[:2] == ["python", "-c"] and "ofa.cli.main()" in words[2]:
        return words[3:]
    return None


def test_commands_are_spelt_right(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for page in PAGES:
        write_files(page, tmp_path)
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for page, words in commands():
        given = arguments(words)
        if given is not None:
            check_command(given[0], given[1:])
        elif words[0] == "make":
            assert re.search(rf"^{words[1]}:", makefile, flags=re.MULTILINE), (page, words)
        elif words[0] == "python":
            assert words[1] == "predict.py" or (ROOT / words[1]).is_file(), (page, words)
        else:
            assert words[0] in PROGRAMS, (page, words)


def check_command(name: str, words: list[str]) -> None:
    """Options and arguments parse; recipes, choices and devices exist and are valid."""
    given = COMMANDS[name].make_context(name, list(words)).params
    if name == "train":
        load_recipe(given["recipe"], given["overrides"] or [])
    if name == "inspect":
        check_choices(apply_overrides({}, given["overrides"] or []))
    if name == "search":
        assert given["method"] in (*METHODS, "auto") and given["predictor"] in (*PREDICTORS, "auto")
    if name != "fit":  # which names a new one
        devices = given.get("device") or given.get("devices") or []
        for device in [devices] if isinstance(devices, str) else devices:
            if "*" not in device:  # a pattern of files that a reader has
                load_device(device)


def test_devices_and_recipes_load(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    for block in blocks("yaml"):
        path.write_text(block.code, encoding="utf-8")
        if "runtime" in yaml.safe_load(block.code):
            load_device(path)
        else:
            load_recipe(path)
    assert len(blocks("yaml")) >= 4


def test_links_lead_somewhere() -> None:
    for page, text in PAGES.items():
        for target in LINK.findall(text):
            assert (ROOT / page).parent.joinpath(target).exists(), f"{page}: {target}"


# -- tables ----------------------------------------------------------------------------------------------------------


def rows(page: str, first: str) -> list[list[str]]:
    """The cells below the header of the table of a page whose first column is called so."""
    text = PAGES[f"docs/{page}"]
    (table,) = re.findall(rf"^\| {re.escape(first)} \|.*\n\|[-|]+\n((?:\|.*\n)+)", text, flags=re.MULTILINE)
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in table.splitlines()]


def names(cell: str) -> list[str]:
    """What stands in a cell as code."""
    return re.findall(r"`([^`]+)`", cell)


def listed(page: str, first: str) -> list[str]:
    """All names in the first column."""
    return [name for cell, *_ in rows(page, first) for name in names(cell)]


def test_every_command_is_there() -> None:
    assert {name.split()[1] for name in listed("commands.md", "command")} == set(COMMANDS)


def test_every_recipe_is_there() -> None:
    (table, deviations) = re.findall(
        r"^\| recipe \|.*\n\|[-|]+\n((?:\|.*\n)+)", PAGES["docs/training.md"], flags=re.MULTILINE
    )
    parts = {names(line)[0]: names(line)[1:4] for line in table.splitlines()}
    assert set(parts) == set(list_recipes())
    for name, expected in parts.items():
        strategy = load_recipe(name).strategy
        assert [strategy.schedule.name, strategy.sampler.name, strategy.loss.name] == expected
    assert {match for match in re.findall(r"^\| `(\w+)`", deviations, flags=re.MULTILINE)} <= set(parts)


def test_every_device_is_there() -> None:
    assert sorted(listed("devices.md", "device file")) == sorted(path.stem for path in (ROOT / "devices").iterdir())


def test_every_runtime_is_there_with_its_precisions() -> None:
    found = {names(cells[0])[0]: tuple(cells[1].split(", ")) for cells in rows("devices.md", "runtime")}
    assert found == {name: tuple(make().precisions) for name, make in RUNTIMES.items()}


def test_every_transport_is_there() -> None:
    assert all(f"`{name}`" in PAGES["docs/devices.md"] for name in HOSTS)


def test_every_target_is_there_with_what_it_makes() -> None:
    found = {
        names(target)[0]: (names(runtimes), precisions.split(", "), names(files), free)
        for target, runtimes, precisions, files, free in rows("deploy.md", "target")
    }
    assert found == {
        name: (list(target.runtimes), list(target.precisions), list(target.files), "yes" if target.free_batch else "no")
        for name, target in TARGETS.items()
    }


def test_tolerances_are_those_that_are_used() -> None:
    found = {precision: float(share.partition(":")[0]) for precision, _, share in rows("deploy.md", "precision")}
    assert found == TOLERANCES


def test_every_search_method_and_predictor_is_there() -> None:
    methods = [names(cell)[0] for cell, *_ in rows("search.md", "`--method`")]
    assert sorted(methods) == sorted(METHODS)
    assert all(f"`{name}`" in PAGES["docs/search.md"] for name in PREDICTORS)


def test_every_data_format_and_split_is_there() -> None:
    formats = {name for _, cell, _ in rows("your-data.md", "you have") for name in names(cell)}
    assert {name for name in formats if "/" not in name} == set(READERS)
    assert listed("your-data.md", "split") == list(SPLITS)


def test_keys_of_the_data_have_the_defaults_that_are_said() -> None:
    known = {field.name: field.default for field in fields(DataConfig)}
    for key, _, default in rows("your-data.md", "key"):
        for name in names(key):
            said = yaml.safe_load(default.removesuffix(" (off)"))
            assert said == known[name.removeprefix("data.")], name


def test_every_kind_of_dim_is_there() -> None:
    said = [names(dim)[0].rpartition(".")[2] for dim, *_ in rows("elastic.md", "dim")]
    assert said == [*DIM_KINDS, "resolution"]
    assert all(kind.kind == name for name, kind in DIM_KINDS.items())


def test_every_preset_is_there() -> None:
    assert sorted(listed("your-model.md", "preset")) == sorted(PRESETS)


def test_reasons_are_those_that_are_given() -> None:
    sources = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "ofa" / "supernet").rglob("*.py"))
    reasons = [reason for cell, *_ in rows("your-model.md", "reason") for reason in cell.split("; ")]
    assert len(reasons) >= 6
    for reason in reasons:
        assert reason in sources or reason in (ROOT / "ofa" / "cli" / "inspection.py").read_text(encoding="utf-8"), (
            reason
        )


def test_every_key_of_a_bundle_is_there() -> None:
    text = PAGES["docs/files.md"]
    keys = {field.name for field in fields(BundleInfo)} - {"score"} | {TOP1.name}  # a score is called after its metric
    assert [key for key in keys if f"`{key}`" not in text] == []


# -- the site --------------------------------------------------------------------------------------------------------


def addresses(html: str) -> list[tuple[str, str]]:
    """Tags of a page that name an address, with it."""
    found: list[tuple[str, str]] = []
    parser = HTMLParser()
    parser.handle_starttag = lambda tag, attributes: found.extend(  # type: ignore[method-assign]
        (tag, value) for name, value in attributes if name in ("href", "src") and value
    )
    parser.feed(html)
    return found


@pytest.mark.slow
def test_the_site_is_built_and_needs_no_network(tmp_path: Path) -> None:
    built = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert built.returncode == 0, built.stderr
    for page in tmp_path.rglob("*.html"):
        for tag, address in addresses(page.read_text(encoding="utf-8")):
            place = urlsplit(address)
            if place.scheme or place.netloc:
                assert tag == "a", f"{page.name} loads {address}"
            elif page.name != "404.html":  # which is shown at any address, and so must name them from the top
                assert page.parent.joinpath(unquote(place.path)).exists(), f"{page.name}: {address}"
    css = "".join(path.read_text(encoding="utf-8") for path in tmp_path.rglob("*.css"))
    assert not re.search(r"(?:url\(|@import)\s*[\"']?(?:https?:)?//", css)
    commands = (tmp_path / "commands.html").read_text(encoding="utf-8")
    options = {option for command in COMMANDS.values() for each in command.params for option in each.opts}
    assert all(option in commands for option in options if option.startswith("--"))
    index = json.loads((tmp_path / "search" / "search_index.json").read_text(encoding="utf-8"))
    assert any("max-loss" in entry["text"] for entry in index["docs"])
