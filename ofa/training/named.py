"""What a name on the command line stands for: a run folder, or a model."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ofa.errors import UsageError
from ofa.supernet import Supernet, create_supernet
from ofa.supernet.model_sources import is_source, name_in_files
from ofa.training.run import Run


def is_run_folder(name: str) -> bool:
    """Whether a name is that of a folder, or looks like a path and is not one to a file of code."""
    return Path(name).is_dir() or (os.sep in name and not is_source(name))


def open_named(name: str, *, trust_code: bool = False) -> tuple[Supernet, str]:
    """A run's trained supernet, or an untrained one of a model, in eval mode, and what its space is called in files.

    Args:
        name: A run folder, or what :func:`~ofa.supernet.create_supernet` takes; a file of code is executed.
        trust_code: See :meth:`Run.open`.
    """
    if is_run_folder(name):
        run = Run.open(name, trust_code=trust_code)
        return run.supernet(), run.space_name
    return create_supernet(name).eval(), name_in_files(name)


def outline_named(name: str, choices: Mapping[str, Any] | None = None, *, trust_code: bool = False) -> Supernet:
    """The same without weights, to be looked at only.

    Args:
        choices: What may vary in a model; that is settled in a run.
    """
    if not is_run_folder(name):
        with torch.device("meta"):  # a billion parameters take seconds, and no memory
            return create_supernet(name, **(choices or {}))
    if choices:
        raise UsageError(f"the space of run {name} is settled; choices of {', '.join(choices)} are for other models")
    return Run.open(name, trust_code=trust_code).outline()
