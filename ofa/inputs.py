"""What a model takes: its arguments, which of their axes may vary, and how a batch is brought to a size."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils._pytree import tree_leaves, tree_map_only

from ofa.errors import UsageError
from ofa.space import SearchSpace, Value

Movable = TypeVar("Movable", bound="Tensor | nn.Module | Inputs")


class Inputs:
    """The arguments of one call: any pytree of tensors.

    Shape:
        - the first axis of every tensor is the batch
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.args, self.kwargs = args, kwargs

    @classmethod
    def of(cls, value: Any) -> Inputs:
        """A tensor is the only argument, a tuple holds positional ones, a mapping those by name."""
        if isinstance(value, Inputs):
            return value
        if isinstance(value, tuple):
            return cls(*value)
        return cls(**value) if isinstance(value, Mapping) else cls(value)

    def call(self, module: Callable[..., Any]) -> Any:
        return module(*self.args, **self.kwargs)

    def map(self, function: Callable[[Tensor], Tensor]) -> Self:
        """The same arguments with every tensor changed."""
        args, kwargs = tree_map_only(Tensor, function, (self.args, self.kwargs))
        return type(self)(*args, **kwargs)

    @property
    def tensors(self) -> list[Tensor]:
        """All of them, in the order of a pytree's leaves."""
        return [leaf for leaf in tree_leaves((self.args, self.kwargs)) if isinstance(leaf, Tensor)]

    def __len__(self) -> int:
        """Samples in the batch."""
        return len(self.tensors[0])

    def rows(self, rows: slice) -> Self:
        """Some samples of the batch."""
        return self.map(lambda tensor: tensor[rows])

    def __repr__(self) -> str:
        shapes = ", ".join(
            f"{tuple(tensor.shape)} {str(tensor.dtype).removeprefix('torch.')}" for tensor in self.tensors
        )
        return f"Inputs({shapes})"


@dataclass(frozen=True)
class Axis:
    """An axis of the inputs that may vary: a dim of the search space.

    Args:
        name: That of the dim: ``resolution``, ``tokens``, ``seconds``.
        places: ``(tensor, dim)`` of :attr:`Inputs.tensors`. The first has the size that the dim says; the others keep
            their proportion to it, as the width of a rectangular image to its height.
    """

    name: str
    places: tuple[tuple[int, int], ...]


IMAGE_AXES = (Axis("resolution", ((0, 2), (0, 3))),)


@dataclass(frozen=True)
class InputSpec:
    """What a model takes.

    Args:
        example: Of one sample, at the model's own size; its values do not matter, it may be on the meta device.
        axes: What may vary.
    """

    example: Inputs
    axes: tuple[Axis, ...]

    @classmethod
    def images(cls, channels: int, size: int) -> InputSpec:
        """Square images ``(N, channels, size, size)``; ``resolution`` is their height."""
        return cls(Inputs(torch.empty(1, channels, size, size, device="meta")), IMAGE_AXES)

    def sizes(self, arch: Mapping[str, Value]) -> dict[str, int]:
        """The sizes that an architecture takes, by axis."""
        return {axis.name: int(arch[axis.name]) for axis in self.axes}

    @property
    def own(self) -> dict[str, int]:
        """The sizes of the example."""
        return {axis.name: self._size(*axis.places[0]) for axis in self.axes}

    def largest(self, space: SearchSpace) -> dict[str, int]:
        """The largest sizes in a space."""
        return {axis.name: int(max(space[axis.name].values)) for axis in self.axes}

    def shapes(self, sizes: Mapping[str, int], *, batch: int = 1) -> list[tuple[int, ...]]:
        """Shapes of all tensors at some sizes."""
        shapes = [[batch, *tensor.shape[1:]] for tensor in self.example.tensors]
        for axis in self.axes:
            own = self._size(*axis.places[0])
            for number, dim in axis.places:
                shapes[number][dim] = round(sizes[axis.name] * self._size(number, dim) / own)
        return [tuple(shape) for shape in shapes]

    def at(self, sizes: Mapping[str, int]) -> Inputs:
        """Inputs of some sizes, without values."""
        shapes = iter(self.shapes(sizes))
        return self.example.map(lambda tensor: torch.empty(next(shapes), dtype=tensor.dtype, device="meta"))

    def resize(self, inputs: Inputs, sizes: Mapping[str, int]) -> Inputs:
        """A batch at some sizes; untouched if it has them.

        Images are resized, bicubic with antialiasing, as Pillow resizes for evaluation and deployment, here on
        normalised floats; other axes keep their beginning.

        Raises:
            UsageError: If an axis would have to grow that is not an image's.
        """
        wanted = self.shapes(sizes, batch=len(inputs))
        if [tuple(tensor.shape) for tensor in inputs.tensors] == wanted:
            return inputs
        shapes = iter(wanted)
        return inputs.map(lambda tensor: _resized(tensor, next(shapes)))

    def _size(self, number: int, dim: int) -> int:
        return self.example.tensors[number].shape[dim]


def _resized(tensor: Tensor, shape: Sequence[int]) -> Tensor:
    if tensor.shape[2:] != tuple(shape[2:]) and tensor.ndim == 4 and tensor.is_floating_point():
        return functional.interpolate(tensor, size=tuple(shape[2:]), mode="bicubic", antialias=True)
    for dim, size in enumerate(shape):
        if tensor.shape[dim] < size:
            raise UsageError(
                f"an input of shape {tuple(tensor.shape)} cannot grow to {tuple(shape)}; give it at the largest size"
            )
        tensor = tensor.narrow(dim, 0, size)
    return tensor


def channels_last(value: Movable) -> Movable:
    """Images, or a network that takes them, in the memory layout that convolutions are fastest in; others as they are.

    Other than :meth:`torch.nn.Module.to`, it leaves volumes ``(N, C, D, H, W)`` alone.
    """
    if isinstance(value, Inputs):
        return value.map(channels_last)
    if isinstance(value, nn.Module):
        return value._apply(channels_last)
    return value.to(memory_format=torch.channels_last) if value.ndim == 4 else value  # type: ignore[return-value]
