"""The arrows between rooms: who may import whom, and what an import brings in."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import ofa

PACKAGE = Path(ofa.__file__).parent

# Everything may import these; they import nothing but each other.
BASE = {
    "errors",
    "progress",
    "optional",
    "setting",
    "space",
    "states",
    "metrics",
    "files",
    "config",
    "trust",
    "user_code",
    "system",
    "locks",
    "engine",
}

# Room -> rooms that it may import, besides BASE and itself.
ALLOWED: dict[str, set[str]] = {
    "inputs": set(),
    "nn": set(),
    "supernet": {"inputs", "nn"},
    "data": set(),
    "tasks": {"inputs", "data"},
    "cost": set(),
    "training": {"inputs", "nn", "supernet", "data", "tasks", "cost"},
    "formats": {"inputs", "nn"},
    "hardware": {"inputs", "cost", "formats"},
    "estimate": {"inputs", "cost", "formats", "hardware"},
    "search": {"cost"},
    "precision": {"supernet", "tasks", "training", "cost", "formats", "hardware", "search"},
    "deploy": {"inputs", "nn", "supernet", "data", "tasks", "training", "cost", "formats", "hardware", "search"},
    "hub": {"training", "deploy", "report"},
    "report": {"inputs", "nn", "supernet", "data", "tasks", "training", "cost", "hardware", "search", "deploy"},
}
ROOMS = {*ALLOWED, *BASE}
TOP = {"cli", "workflow", "__init__", "__main__"}  # may import everything
NO_TORCH = {*BASE, "cost", "search"}


def modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported(path: Path) -> Iterator[str]:
    """Dotted names of all imports of a file, those inside functions and under TYPE_CHECKING too."""
    package = ("ofa", *path.relative_to(PACKAGE).parts[:-1])
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package[: len(package) - node.level + 1]) if node.level else ""
            origin = ".".join(filter(None, (base, node.module)))
            # `from ofa import search` imports a room; other names are the module's own.
            yield from (f"{origin}.{alias.name}" for alias in node.names) if origin == "ofa" else (origin,)


def test_every_room_is_known() -> None:
    assert {room_of(path) for path in modules()} <= ROOMS | TOP


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_follow_the_arrows(path: Path) -> None:
    room = room_of(path)
    names = set(imported(path))
    if room not in TOP:
        rooms = {name.split(".")[1] for name in names if name.startswith("ofa.")}
        assert rooms <= BASE | ALLOWED.get(room, set()) | {room}
        assert "ofa" not in names  # its lazy attributes could hide a room
    if room in NO_TORCH:
        assert not {
            name for name in names if name.split(".")[0] in ("torch", "torchvision", "timm", "lightning_fabric")
        }


def import_graph() -> dict[str, set[str]]:
    """Module -> modules of ours that any line of it imports; a package is its ``__init__.py``.

    ``from ofa.hardware.timing import x`` is an edge to that module, and none to the packages it lies in: whoever is in
    one of them is imported by then.
    """
    names: dict[str, Path] = {}
    for path in modules():
        parts = ("ofa", *path.relative_to(PACKAGE).with_suffix("").parts)
        names[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    graph = {}
    for module, path in names.items():
        package = module if path.name == "__init__.py" else module.rpartition(".")[0]
        found: set[str] = set()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found.update(alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                base = ".".join(package.split(".")[: len(package.split(".")) - node.level + 1]) if node.level else ""
                origin = ".".join(filter(None, (base, node.module)))
                submodules = {f"{origin}.{alias.name}" for alias in node.names}
                found |= submodules & set(names) or {origin}
        graph[module] = (found & set(names)) - {module}
    return graph


def test_no_imports_run_in_a_circle() -> None:
    graph = import_graph()
    while free := {module for module, imports in graph.items() if not imports & set(graph)}:
        graph = {module: imports for module, imports in graph.items() if module not in free}
    # What is left imports something that is left: circles, and those that import one.
    while free := {module for module in graph if not any(module in imports for imports in graph.values())}:
        graph = {module: imports for module, imports in graph.items() if module not in free}
    assert not {module: sorted(imports & set(graph)) for module, imports in graph.items()}


def test_import_finder_sees_all_kinds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules[__name__], "PACKAGE", tmp_path)
    (tmp_path / "cost").mkdir()
    path = tmp_path / "cost" / "x.py"
    path.write_text(
        "import a.b, c\nfrom d.e import f\nfrom ofa import search\nfrom . import g\nfrom .h import i\n"
        "from ..nn import j\ndef k():\n    import ofa.deploy.l\n"
    )
    assert set(imported(path)) == {
        "a.b", "c", "d.e", "ofa.search", "ofa.cost", "ofa.cost.h", "ofa.nn", "ofa.deploy.l"
    }  # fmt: skip


def loaded_by(statement: str) -> set[str]:
    """Top-level modules that a fresh interpreter has after a statement."""
    script = f"import sys; {statement}; print(*{{name.partition('.')[0] for name in sys.modules}})"
    return set(
        subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split()
    )


HEAVY = {"onnx", "onnxruntime", "matplotlib", "tensorrt", "sklearn"}


def test_import_ofa_is_light() -> None:
    loaded = loaded_by("import ofa; dir(ofa)")
    assert "ofa" in loaded
    assert not loaded & (HEAVY | {"torch", "timm", "numpy", "pandas"})


def test_the_supernet_brings_in_nothing_of_search_or_deployment() -> None:
    loaded = loaded_by("import ofa; ofa.elasticize; ofa.create_supernet; ofa.LatencyTable")
    assert "torch" in loaded
    assert not loaded & {"onnxruntime", "matplotlib", "tensorrt"}


@pytest.mark.parametrize("room", ["space", "cost", "search"])
def test_search_and_costs_need_no_torch(room: str) -> None:
    assert not loaded_by(f"import ofa.{room}") & {"torch", "timm", "torchvision"}


def test_the_command_line_starts_light() -> None:
    assert not loaded_by("import ofa.cli") & (HEAVY | {"torch", "timm", "pandas"})


def test_public_names() -> None:
    for name in ofa.__all__:
        assert getattr(ofa, name).__name__ == name
    assert set(ofa.__all__) <= set(dir(ofa))
    with pytest.raises(AttributeError, match="module 'ofa' has no attribute 'elasticise'"):
        ofa.elasticise  # noqa: B018


def test_no_function_is_longer_than_a_screen() -> None:
    too_long = {
        f"{file.relative_to(PACKAGE)}: {node.name}"
        for file in PACKAGE.rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and lines_of_body(node) > 60
    }
    assert not too_long


def lines_of_body(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Without the docstring."""
    body = function.body[1:] if ast.get_docstring(function) else function.body
    return (body[-1].end_lineno or 0) - body[0].lineno + 1 if body else 0
