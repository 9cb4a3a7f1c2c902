"""A place of a network where one of several layers stands."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from ofa.errors import UsageError


class LayerChoice(nn.Module):
    """One of several modules that take and give the same: which one is a dim, ``choice``, of the supernet.

    Depthwise or plain convolutions, attention or a mixer, something or nothing (``nn.Identity()``). Give the cheapest
    first: the last one is the largest network's, and is what runs where nobody chooses. Their hidden channels, heads
    and kernels vary as those of any block.

    Args:
        candidates: Two or more, by name.

    Shape:
        - inputs and output: those of its candidates

    Raises:
        UsageError: If there are fewer than two, or if one of them holds a choice of its own.

    References:
        Choice blocks of Guo et al., Single Path One-Shot NAS, arXiv:1904.00420, sec. 3.3. Depthwise or plain:
        Xiong et al., MobileDets, arXiv:2004.14525.
    """

    runs_all = False
    """Whether the sum of all is given: what a supernet is taken apart by, as their channels belong together."""

    def __init__(self, candidates: Mapping[str, nn.Module]) -> None:
        super().__init__()
        if len(candidates) < 2:
            raise UsageError(f"a LayerChoice takes two candidates or more, not {len(candidates)}; give them by name")
        for name, candidate in candidates.items():
            if any(isinstance(module, LayerChoice) for module in candidate.modules()):
                raise UsageError(
                    f"candidate {name!r} holds a LayerChoice of its own; give all that it may be as candidates of one"
                )
            self.add_module(name, candidate)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        *others, chosen = self.children()
        output = chosen(*args, **kwargs)
        for other in others if self.runs_all else ():
            output = output + other(*args, **kwargs)
        return output
