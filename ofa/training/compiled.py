"""Subnets that are the same at every step, compiled once."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from ofa.inputs import Inputs
from ofa.nn.structure import clone_structure
from ofa.space import Arch


class CompiledSubnets:
    """Runs some subnets through ``torch.compile``, one graph for each.

    A subnet is built anew for each step from views of the shared weights. Its code stays the same, so what is compiled
    is a function of its tensors and the images.

    Args:
        archs: Which; torch compiles at most eight.
    """

    def __init__(self, archs: Collection[Arch]) -> None:
        self._archs = frozenset(archs)
        self._graphs: dict[Arch, Callable[..., Any]] = {}

    def __contains__(self, arch: Arch) -> bool:
        return arch in self._archs

    def __call__(self, arch: Arch, subnet: nn.Module, inputs: Inputs) -> Any:
        if arch not in self._graphs:
            self._graphs[arch] = torch.compile(_function_of(subnet), dynamic=False)
        tensors = {**dict(subnet.named_parameters()), **dict(subnet.named_buffers())}
        return self._graphs[arch](tensors, inputs.args, inputs.kwargs)


def _function_of(subnet: nn.Module) -> Callable[..., Any]:
    # Tensors of its own, without values: seeing the first call's tensors in here, torch would compile for these alone.
    skeleton = clone_structure(subnet)
    for child in skeleton.modules():
        for name, parameter in child.named_parameters(recurse=False, remove_duplicate=False):
            child._parameters[name] = nn.Parameter(parameter.detach().to("meta"))
        for name, buffer in child.named_buffers(recurse=False, remove_duplicate=False):
            child._buffers[name] = buffer.to("meta")

    def run(tensors: dict[str, Tensor], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return functional_call(skeleton, tensors, args, kwargs)

    return run
