"""Which elements of the supernet's weights a subnet is made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from ofa.nn.conv import remove_kernel_transforms
from ofa.nn.slicing import Selection
from ofa.nn.structure import clone_structure, own_hooks
from ofa.space import Arch, Value
from ofa.supernet import Supernet


@dataclass(frozen=True)
class Part:
    """Some indices of each axis of a tensor."""

    selections: tuple[Selection, ...]

    def within(self, box: Part) -> Part:
        """The same elements, counted from the corner of a box that holds them."""
        moved = (
            Selection(each.axis, tuple((first - side.runs[0][0], length) for first, length in each.runs))
            for each, side in zip(self.selections, box.selections, strict=True)
        )
        return Part(tuple(moved))

    def take(self, tensor: Tensor) -> Tensor:
        """The elements: a view where each axis keeps one run."""
        for selection in self.selections:
            tensor = selection.take(tensor)
        return tensor


class WeightMap:
    """For any subnet, its structure, and where in the supernet's parameters each of its parameters lies.

    The same code that narrows weights finds it: it is given a model whose every weight is its own position.

    A kernel that passes a learned matrix on its way (:func:`ofa.nn.conv.add_kernel_transforms`) is placed at the crop
    that enters the matrix; its values are other ones.
    """

    def __init__(self, supernet: Supernet) -> None:
        model = remove_kernel_transforms(clone_structure(supernet.model))
        self._shapes = {name: tuple(p.shape) for name, p in model.named_parameters(remove_duplicate=False)}
        for module in model.modules():
            for name, parameter in module._parameters.items():
                if parameter is not None:
                    positions = torch.arange(parameter.numel(), dtype=torch.int32).view(parameter.shape)
                    # No Parameter, which would want gradients.
                    module._parameters[name] = positions  # type: ignore[assignment]
        self._supernet = Supernet(model, supernet.space, supernet.stages, supernet.dims, supernet.analysis).eval()

    def structure(self, arch: Arch | Mapping[str, Value]) -> nn.Module:
        """The subnet's modules; their parameters are positions in those of the supernet."""
        module = clone_structure(self._supernet.subnet(arch))
        own_hooks(module)
        return module

    def parts(self, structure: nn.Module) -> dict[str, Part]:
        """What each parameter of a :meth:`structure` is of the supernet's parameter of the same name."""
        return {
            name: _part(positions, self._shapes[name])
            for name, positions in structure.named_parameters(remove_duplicate=False)
        }


def boxes_around(parts: Sequence[Mapping[str, Part]]) -> dict[str, Part]:
    """For each parameter the smallest box around what any of several subnets uses."""
    found: dict[str, Part] = {}
    for subnet in parts:
        for name, part in subnet.items():
            pairs = zip(found.get(name, part).selections, part.selections, strict=True)
            found[name] = Part(tuple(_around(one, other) for one, other in pairs))
    return found


def _around(one: Selection, other: Selection) -> Selection:
    start = min(one.runs[0][0], other.runs[0][0])
    end = max(sum(one.runs[-1]), sum(other.runs[-1]))
    return Selection(one.axis, ((start, end - start),))


def _part(positions: Tensor, shape: tuple[int, ...]) -> Part:
    """Indices per axis; every subnet keeps the same ones of an axis wherever it is on the others."""
    flat = positions.detach().numpy()
    assert flat.size, "an empty weight"
    selections = []
    for axis in range(flat.ndim):
        line = flat[tuple(slice(None) if other == axis else 0 for other in range(flat.ndim))]
        indices = np.unravel_index(line, shape)[axis].astype(np.int64)
        selections.append(Selection.of(axis, indices))
    return Part(tuple(selections))
