"""What is built and installed: all files, no others, and no dependency that is not named or not used."""

from __future__ import annotations

import ast
import configparser
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

import ofa

ROOT = Path(__file__).parents[1]
# Where a distribution is called otherwise than what it brings.
DISTRIBUTIONS = {
    "PIL": "pillow",
    "cuda": "cuda-bindings",
    "google": "protobuf",
    "mlflow": "mlflow-skinny",
    "pynvml": "nvidia-ml-py",
    "sklearn": "scikit-learn",
    "yaml": "pyyaml",
}
# Needed, but imported by another library only.
BEHIND = {"tensorboard": "torch.utils.tensorboard", "onnxscript": "torch.onnx"}
FOR_DEVELOPERS = {"dev", "docs"}

# -- requirements ------------------------------------------------------------------------------------------------------


def setup_cfg() -> configparser.ConfigParser:
    parser = configparser.ConfigParser(interpolation=None)
    parser.read(ROOT / "setup.cfg", encoding="utf-8")
    return parser


def names(requirements: str) -> set[str]:
    """Names of distributions in a list of requirements."""
    lines = [line for line in requirements.splitlines() if line and not line.startswith("#")]
    return {re.split(r"[^\w.-]", line, maxsplit=1)[0].lower() for line in lines}


def imported() -> Iterator[tuple[str, bool]]:
    """Distributions that ``ofa`` imports, and whether it does so as soon as the file is imported."""
    for path in (ROOT / "ofa").rglob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            for module in modules_of(node):
                top = module.partition(".")[0]
                if top not in {*sys.stdlib_module_names, "ofa"}:
                    yield DISTRIBUTIONS.get(top, top.replace("_", "-")), node in tree.body


def modules_of(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        return [node.module] if node.module and not node.level else []
    if isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
        name = getattr(node.func, "id", getattr(node.func, "attr", ""))
        return [str(node.args[0].value)] if name in ("require", "import_module") else []
    return []


def test_what_is_imported_is_required_and_what_is_required_is_imported() -> None:
    required = names(setup_cfg()["options"]["install_requires"])
    extras = setup_cfg()["options.extras_require"]
    optional = set[str]().union(*(names(extras[extra]) for extra in extras if extra not in FOR_DEVELOPERS))
    found = set(imported())
    assert {name for name, at_once in found if at_once} <= required
    assert {name for name, _ in found} - required <= optional
    assert (required | optional) - {name for name, _ in found} == set(BEHIND)
    assert required.isdisjoint(optional)


def test_the_table_of_names_is_true() -> None:
    installed = packages_distributions()
    for module, distribution in DISTRIBUTIONS.items():
        if module in installed:
            assert distribution in {name.lower() for name in installed[module]}


# -- wheel and sdist ---------------------------------------------------------------------------------------------------


class Built(NamedTuple):
    wheel: Path
    sdist: Path
    unpacked: Path


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """The source distribution of this tree, and the wheel that is built from that."""
    folder = tmp_path_factory.mktemp("package")
    source = folder / "source"
    # A copy, as building leaves its own files in the tree; large folders are shown by one file each.
    source.mkdir()
    for path in ROOT.iterdir():
        if path.is_file() and path.name != ".git":
            shutil.copy(path, source)
    for name in ("ofa", "devices", "scripts"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("docs", "latency_tables", "tests", ".github"):
        (source / name).mkdir()
        (source / name / "marker.txt").touch()
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder / "dist"), str(source)]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert done.returncode == 0, done.stdout
    (wheel,), (sdist,) = (list((folder / "dist").glob(pattern)) for pattern in ("*.whl", "*.tar.gz"))
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "unpacked")
    return Built(wheel, sdist, folder / "unpacked")


def test_the_wheel_holds_the_package_and_nothing_else(built: Built) -> None:
    files = {path.relative_to(built.unpacked) for path in built.unpacked.rglob("*") if path.is_file()}
    assert {path.parts[0] for path in files} == {"ofa", f"ofa_toolkit-{ofa.__version__}.dist-info"}
    tracked = {path.relative_to(ROOT) for path in (ROOT / "ofa").rglob("*") if path.is_file()}
    expected = {path for path in tracked if "__pycache__" not in path.parts}
    expected |= {Path("ofa") / path.relative_to(ROOT) for path in (ROOT / "devices").glob("*.yaml")}
    assert {path for path in files if path.parts[0] == "ofa"} == expected


def test_the_sdist_holds_what_a_clone_holds(built: Built) -> None:
    with tarfile.open(built.sdist) as archive:
        found = {"/".join(name.split("/")[1:]) for name in archive.getnames()}
    assert {path.relative_to(ROOT).as_posix() for path in (ROOT / "devices").glob("*.yaml")} <= found
    for name in (
        "CHANGELOG.md",
        "CITATION.cff",
        "LICENSE",
        "Makefile",
        "README.md",
        "setup.py",
        "scripts/try_wheel.py",
    ):
        assert name in found
    assert {f"{name}/marker.txt" for name in ("docs", "latency_tables", "tests", ".github")} <= found
    assert not any("__pycache__" in name for name in found)


@pytest.mark.slow
def test_devices_recipes_and_templates_are_found_wherever_the_wheel_is_unpacked(built: Built, tmp_path: Path) -> None:
    script = (
        "import ofa; from ofa.hardware import list_devices, load_device; from ofa.training import list_recipes;"
        "from ofa.training.recipe import load_recipe; from importlib import resources;"
        "print(ofa.__file__); print(*sorted(list_devices()));"
        "print(*(name for name in list_recipes() if load_recipe(name)));"
        "print(*sorted(file.name for file in (resources.files('ofa.report') / 'templates').iterdir()));"
        "print(load_device('cpu-1t').setting.runtime)"
    )
    environment = {**os.environ, "PYTHONPATH": str(built.unpacked), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    origin, devices, recipes, templates, runtime = done.stdout.splitlines()
    assert Path(origin).is_relative_to(built.unpacked)
    assert devices.split() == sorted(path.stem for path in (ROOT / "devices").glob("*.yaml"))
    assert recipes.split() == sorted(path.stem for path in (ROOT / "ofa" / "training" / "recipes").glob("*.yaml"))
    assert templates.split() == sorted(path.name for path in (ROOT / "ofa" / "report" / "templates").iterdir())
    assert runtime == "onnxruntime"


def test_try_wheel_knows_what_only_developers_need(built: Built) -> None:
    script = "import sys, try_wheel, pathlib; print(*try_wheel.developers(pathlib.Path(sys.argv[1])))"
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "scripts")}
    command = [sys.executable, "-c", script, str(built.wheel)]
    found = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True).stdout.split()
    assert set(found) == names(setup_cfg()["options.extras_require"]["dev"]) - {"setuptools"}


# -- beside the code ---------------------------------------------------------------------------------------------------


def read_yaml(name: str) -> Any:
    return yaml.load((ROOT / name).read_text(encoding="utf-8"), Loader=yaml.BaseLoader)


def test_hooks_and_make_check_run_the_same() -> None:
    recipe = re.search(r"^check:.*\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    assert recipe is not None
    *checks, tests = (line.strip() for line in recipe[1].splitlines())
    assert tests == "$(MAKE) test"
    (repo,) = read_yaml(".pre-commit-config.yaml")["repos"]
    assert [hook["entry"] for hook in repo["hooks"]] == [line.replace("$(BIN)", ".venv/bin") for line in checks]
    assert {(hook["language"], hook["pass_filenames"]) for hook in repo["hooks"]} == {("system", "false")}


def test_hosted_tests_run_on_each_python_that_is_promised() -> None:
    (job,) = read_yaml(".github/workflows/test.yml")["jobs"].values()
    classifiers = setup_cfg()["metadata"]["classifiers"]
    assert job["strategy"]["matrix"]["python"] == re.findall(r"Python :: (3\.\d+)$", classifiers, re.MULTILINE)
    assert job["strategy"]["matrix"]["os"] == ["ubuntu-latest", "macos-latest"]
    assert job["steps"][-1] == {"run": "make test"}


def test_citation_and_changelog_agree_with_the_metadata() -> None:
    citation = read_yaml("CITATION.cff")
    assert citation["license"] == setup_cfg()["metadata"]["license"]
    assert {"cff-version", "title", "message", "type", "authors"} <= set(citation)
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert changelog.index("## [Unreleased]") < changelog.index(f"## [{ofa.__version__}] - 20")
