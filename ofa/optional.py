"""Packages that need not be installed: whoever needs one asks here, and is told what brings it."""

from __future__ import annotations

import importlib
from importlib.metadata import PackageNotFoundError, version
from types import ModuleType

from ofa.errors import OfaError


def extra(name: str) -> str:
    """What ``pip install`` takes for one of our own extras."""
    return f"'ofa-toolkit[{name}]'"


class NotInstalledError(OfaError, ValueError):
    """Software that a device or an exporter needs is not there."""


def require(module: str, extra: str) -> ModuleType:
    """Import a module.

    Args:
        extra: What ``pip install`` takes to bring it.

    Raises:
        NotInstalledError: If it is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise NotInstalledError(
            f"{module} cannot be imported ({error}); install it with: pip install {extra}"
        ) from None


def package_versions(*packages: str, extra: str) -> dict[str, str]:
    """Versions of installed packages, the first of which must be there."""
    found = {}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            if not found:
                raise NotInstalledError(f"{package} is not installed; install it with: pip install {extra}") from None
    return found
