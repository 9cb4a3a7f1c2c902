"""Train once, deploy everywhere: any torch model, any device, any latency budget.

Names are loaded when they are first used, so that ``import ofa`` and ``ofa --help`` cost next to nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOME = {
    "Arch": "ofa.space",
    "Dim": "ofa.space",
    "Inputs": "ofa.inputs",
    "LatencyTable": "ofa.cost",
    "LayerChoice": "ofa.nn.layer_choice",
    "Run": "ofa.training",
    "SearchSpace": "ofa.space",
    "Supernet": "ofa.supernet",
    "create_supernet": "ofa.supernet",
    "elasticize": "ofa.supernet",
    "published_arch": "ofa.supernet",
}
_PACKAGES = (
    *("cost", "data", "deploy", "estimate", "hardware", "nn", "report", "search", "space", "supernet", "training"),
)

if TYPE_CHECKING:
    from ofa.cost import LatencyTable as LatencyTable
    from ofa.inputs import Inputs as Inputs
    from ofa.nn.layer_choice import LayerChoice as LayerChoice
    from ofa.space import Arch as Arch
    from ofa.space import Dim as Dim
    from ofa.space import SearchSpace as SearchSpace
    from ofa.supernet import Supernet as Supernet
    from ofa.supernet import create_supernet as create_supernet
    from ofa.supernet import elasticize as elasticize
    from ofa.supernet import published_arch as published_arch
    from ofa.training import Run as Run

__all__ = [
    *("Arch", "Dim", "Inputs", "LatencyTable", "LayerChoice", "Run", "SearchSpace", "Supernet"),
    *("create_supernet", "elasticize", "published_arch"),
]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(_HOME[name]), name)
    if name in _PACKAGES:
        return importlib.import_module(f"ofa.{name}")
    raise AttributeError(f"module 'ofa' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*__all__, *_PACKAGES, "__version__"})
