"""One file that measures on a machine with Python, numpy and a runtime, and without this package.

A zip of the modules that the runner needs, which Python runs as it is. The same sources give the same bytes, and the
bytes give the name, so that a machine that has the file need not be sent it again.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping
from pathlib import Path

PACKAGE = Path(__file__).parents[2]
MODULES = (
    "errors.py",
    "files.py",
    "hardware/accelerator.py",
    "hardware/apart.py",
    "hardware/fingerprint.py",
    "hardware/journal.py",
    "hardware/runner.py",
    "hardware/runtimes/*.py",
    "hardware/timing.py",
    "hardware/transports/remote.py",
    "optional.py",
    "setting.py",
    "states.py",
    "system.py",
)
PACKAGES = ("", "hardware/", "hardware/transports/")
"""Those whose own ``__init__.py`` imports more than a small machine has, so that an empty one goes in its place."""

MIN_PYTHON = (3, 10)
MAIN = f"""\
import sys

if sys.version_info < {MIN_PYTHON}:
    sys.exit(
        "ofa needs Python {MIN_PYTHON[0]}.{MIN_PYTHON[1]} or later, not %s; name another one as the host's `python`"
        % sys.version.split()[0]
    )
from ofa.hardware.transports.remote import main

main(sys.argv[1:])
"""
DATE = (1980, 1, 1, 0, 0, 0)  # the first that a zip can hold


def build_bundle() -> bytes:
    """The runner of this version of the package."""
    return zip_of({**sources(), "__main__.py": MAIN.encode()})


def bundle_name(sha256: str) -> str:
    """The file's name on the machine that it is sent to."""
    return f"runner-{sha256[:12]}.pyz"


def sources() -> dict[str, bytes]:
    """The modules by their path in the bundle."""
    found = {path for pattern in MODULES for path in PACKAGE.glob(pattern)}
    empty = {f"ofa/{package}__init__.py": b"" for package in PACKAGES}
    return {**empty, **{f"ofa/{path.relative_to(PACKAGE).as_posix()}": path.read_bytes() for path in found}}


def zip_of(files: Mapping[str, bytes]) -> bytes:
    """The same bytes for the same files: sorted, of one date, and not compressed, which zlib does in several ways."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as bundle:
        for name in sorted(files):
            entry = zipfile.ZipInfo(name, DATE)
            entry.create_system, entry.external_attr = 3, 0o644 << 16  # Unix, whatever this machine is
            bundle.writestr(entry, files[name])
    return buffer.getvalue()
