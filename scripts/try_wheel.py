"""Install the wheel of a folder into an empty environment, without extras, and run the demo there in an empty folder.

    python scripts/try_wheel.py dist [--python python3.12]

Nothing of this checkout or environment is seen there. Takes minutes and gigabytes: PyTorch is installed anew. Exit
status 1 if something is missing or one of the developer's packages came along.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Sequence
from email.parser import Parser
from pathlib import Path

DEVICES = Path(__file__).parents[1] / "devices"
LEFT = ("report.html", "supernet.safetensors", "metrics.csv", "latency_tables/*/*.csv", "search/*/selected.json")
NUM_BUNDLES = 3
COMMANDS = "import ofa.cli, typer.main; print(*typer.main.get_command(ofa.cli.app).commands)"
# Of the developer's packages, what an environment or PyTorch brings anyway.
ANYWAY = {"setuptools"}


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dist", type=Path, help="folder with one wheel")
    parser.add_argument("--python", default=sys.executable, help="interpreter of the empty environment")
    options = parser.parse_args(argv)
    wheels = sorted(options.dist.glob("*.whl"))
    if len(wheels) != 1:
        raise SystemExit(f"{len(wheels)} wheels in {options.dist}, not one; build it with `make package`")
    with tempfile.TemporaryDirectory() as folder:
        faults = try_wheel(wheels[0].resolve(), options.python, Path(folder).resolve())
    for fault in faults:
        print(fault, file=sys.stderr)
    return int(bool(faults))


def try_wheel(wheel: Path, python: str, folder: Path) -> list[str]:
    """What does not hold of an installed wheel; ``folder`` is empty and takes environment and demo."""
    started = time.monotonic()
    empty, programs = folder / "empty", folder / "venv" / "bin"
    empty.mkdir()
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV"))}

    def run(*words: str | Path, may_end_with: int = 0) -> str:
        print("$", *words, flush=True)
        done = subprocess.run(words, cwd=empty, env=environment, stdout=subprocess.PIPE, text=True)
        if done.returncode not in (0, may_end_with):
            raise SystemExit(f"{done.stdout[-2000:]}\n{words[0]} ended with exit status {done.returncode}")
        return done.stdout

    run(python, "-m", "venv", folder / "venv")
    run(programs / "python", "-m", "pip", "install", "--quiet", wheel)
    run(programs / "python", "-m", "pip", "check")
    print(f"installed in {time.monotonic() - started:.0f} s", flush=True)
    installed = {
        normalised(package["name"])
        for package in json.loads(run(programs / "python", "-m", "pip", "list", "--format", "json"))
    }
    faults = [f"{name} is installed, which only developers need" for name in sorted(developers(wheel) & installed)]
    for command in ("", *run(programs / "python", "-c", COMMANDS).split()):
        run(programs / "ofa", *command.split(), "--help")
    found = {device["name"] for device in json.loads(run(programs / "ofa", "devices", "--json"))}
    faults += [f"device {path.stem} is not found" for path in DEVICES.glob("*.yaml") if path.stem not in found]

    started = time.monotonic()
    # On a busy machine a bundle may miss its latency when it is verified: status 1, and no fault of the package.
    print(run(programs / "ofa", "demo", may_end_with=1))
    print(f"demo in {time.monotonic() - started:.0f} s")
    run_folder = empty / "runs" / "demo"
    faults += [f"the demo left no {pattern}" for pattern in LEFT if not any(run_folder.glob(pattern))]
    bundles = sorted(path.parent for path in run_folder.glob("bundles/*/bundle.json"))
    if len(bundles) != NUM_BUNDLES:
        faults.append(f"the demo left {len(bundles)} bundles, not {NUM_BUNDLES}")
    return faults


def developers(wheel: Path) -> set[str]:
    """Distributions that only the extra ``dev`` names."""
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        metadata = Parser().parsestr(archive.read(name).decode())
    requirements: Sequence[str] = metadata.get_all("Requires-Dist", [])
    return {normalised(line) for line in requirements if re.search(r"""extra == ['"]dev['"]""", line)} - ANYWAY


def normalised(requirement: str) -> str:
    """The name that a requirement begins with, as package indexes compare names."""
    return re.sub(r"[-_.]+", "-", re.split(r"[^\w.-]", requirement, maxsplit=1)[0]).lower()


if __name__ == "__main__":
    sys.exit(main())
