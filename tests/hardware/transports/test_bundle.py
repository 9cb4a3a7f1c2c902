"""One file that needs only Python and numpy to be read."""

from __future__ import annotations

import ast
import hashlib
import io
import json
import os
import subprocess
import sys
import zipfile

import pytest

from ofa.hardware.transports.bundle import MAIN, MIN_PYTHON, PACKAGE, build_bundle, bundle_name, sources, zip_of

# What an interpreter with the standard library and numpy has; all else is refused by name, wherever it is installed.
ALLOWED = {*sys.stdlib_module_names, "numpy", "ofa"}
BLOCK = """
import importlib.abc, sys
class Refuse(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] not in allowed:
            raise ModuleNotFoundError("refused: " + name)
sys.meta_path.insert(0, Refuse())
sys.path.insert(0, bundle)
import importlib
for name in names:
    importlib.import_module(name)
assert importlib.import_module("ofa").__file__.startswith(bundle)
print("done")
"""


def write(bundle, folder):
    path = folder / bundle_name(hashlib.sha256(bundle).hexdigest())
    path.write_bytes(bundle)
    return path


def test_the_same_sources_give_the_same_bytes_and_the_bytes_the_name():
    assert build_bundle() == build_bundle()
    assert bundle_name("0123456789abcdef") == "runner-0123456789ab.pyz"
    assert zip_of({"b": b"1", "a": b"2"}) == zip_of({"a": b"2", "b": b"1"})
    assert zip_of({"a": b"1"}) != zip_of({"a": b"2"})


def test_it_holds_what_the_runner_needs_and_no_package_that_pulls_in_more():
    names = set(zipfile.ZipFile(io.BytesIO(build_bundle())).namelist())
    for path in ("files.py", "hardware/runner.py", "hardware/timing.py", "hardware/transports/remote.py"):
        assert f"ofa/{path}" in names
    assert {f"ofa/hardware/runtimes/{path.name}" for path in (PACKAGE / "hardware/runtimes").glob("*.py")} <= names
    assert not {"ofa/space.py", "ofa/config.py", "ofa/hardware/device.py", "ofa/hardware/transports/ssh.py"} & names
    assert sources()["ofa/__init__.py"] == sources()["ofa/hardware/__init__.py"] == b""


def test_importing_all_of_it_takes_the_standard_library_and_numpy_only(tmp_path):
    path = write(build_bundle(), tmp_path)
    names = sorted(name.removesuffix(".py").removesuffix("/__init__").replace("/", ".") for name in sources())
    script = f"allowed, bundle, names = {ALLOWED!r}, {str(path)!r}, {names!r}\n{BLOCK}"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=tmp_path)
    assert done.stdout == "done\n", done.stderr


def test_the_oldest_python_can_read_it():
    for name, source in {**sources(), "__main__.py": MAIN.encode()}.items():
        tree = ast.parse(source, filename=name, feature_version=MIN_PYTHON)
        future = [node for node in tree.body if isinstance(node, ast.ImportFrom) and node.module == "__future__"]
        assert future or not source or name == "__main__.py", name  # so that annotations are never evaluated
    ast.parse(MAIN, feature_version=(3, 4))  # it says so where it cannot run


def test_an_older_python_is_told_so(tmp_path):
    script = f"import sys; sys.version_info = (3, 9, 2); sys.version = '3.9.2 (default)'; exec({MAIN!r})"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 1
    assert "ofa needs Python 3.10 or later, not 3.9.2; name another one as the host's `python`" in done.stderr


@pytest.mark.parametrize("setting", [{"runtime": "onnxruntime", "precision": "fp32", "batch": 1, "threads": 1}])
def test_it_runs_a_job_without_this_package(tmp_path, setting):
    path = write(build_bundle(), tmp_path)
    job = tmp_path / "jobs" / "one"
    job.mkdir(parents=True)
    (job / "job.json").write_text(json.dumps({"setting": setting}))
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    command = [sys.executable, str(path), str(tmp_path), "run", "one"]
    subprocess.run(command, check=True, cwd=tmp_path, env=environment)
    result = json.loads((job / "result.json").read_text())
    assert result["fingerprint"]["runtime"]["name"] == "onnxruntime"
