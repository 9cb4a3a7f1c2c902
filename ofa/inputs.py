"""What a model takes: its arguments, which of their axes may vary, and how a batch is brought to a size."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self, TypeAlias, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils._pytree import tree_leaves, tree_map_only, tree_structure, tree_unflatten

from ofa.errors import UsageError
from ofa.space import SearchSpace, Value

Movable = TypeVar("Movable", bound="Tensor | nn.Module | Inputs")


def tensors_in(value: Any) -> list[Tensor]:
    """All tensors of a pytree, in the order of its leaves: of arguments, or of what a model gives."""
    return [leaf for leaf in tree_leaves(opened(value)) if isinstance(leaf, Tensor)]


def opened(value: Any) -> Any:
    """A pytree in which mappings from its fields stand for every dataclass, which torch takes for a leaf."""
    if not any(map(_is_record, leaves := tree_leaves(value))):
        return value
    fields = [
        opened({field.name: getattr(leaf, field.name) for field in dataclasses.fields(leaf)})
        if _is_record(leaf)
        else leaf
        for leaf in leaves
    ]
    return tree_unflatten(fields, tree_structure(value))


def _is_record(leaf: Any) -> bool:
    return dataclasses.is_dataclass(leaf) and not isinstance(leaf, type)


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
        return tensors_in((self.args, self.kwargs))

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
        per_unit: Elements for each unit of the dim: 16000 samples for a second.
        may_be_shorter: Batches that are shorter than the dim says are taken as they are: they leave out padding.
    """

    name: str
    places: tuple[tuple[int, int], ...]
    per_unit: float = 1.0
    may_be_shorter: bool = False


IMAGE_AXES = (Axis("resolution", ((0, 2), (0, 3))),)
TOKEN_AXES = (Axis("tokens", ((0, 1), (1, 1)), may_be_shorter=True),)
Sizes: TypeAlias = dict[str, int | float]
"""Of elastic axes, by name: ``{"resolution": 160}``; whole numbers but for units such as seconds."""


def as_size(value: Value | float) -> int | float:
    """A size as a whole number where it is one."""
    return int(value) if float(value) == int(value) else float(value)


@dataclass(frozen=True)
class InputSpec:
    """What a model takes.

    Args:
        example: Of one sample, at the model's own size. Its values matter for code that depends on them only; it may
            be on the meta device.
        axes: What may vary.
    """

    example: Inputs
    axes: tuple[Axis, ...]

    @classmethod
    def images(cls, channels: int, size: int) -> InputSpec:
        """Square images ``(N, channels, size, size)``; ``resolution`` is their height."""
        return cls(Inputs(torch.empty(1, channels, size, size, device="meta")), IMAGE_AXES)

    @classmethod
    def texts(cls, num_tokens: int) -> InputSpec:
        """Ids of tokens, and 1 for each that is no padding: int64 ``(N, num_tokens)`` both; ``tokens`` is how many."""
        names = ("input_ids", "attention_mask")
        ones = {name: torch.ones(1, num_tokens, dtype=torch.int64, device="cpu") for name in names}
        return cls(Inputs(**ones), TOKEN_AXES)

    @classmethod
    def bands(cls, num_bands: int, num_frames: int, frames_per_second: float = 100.0) -> InputSpec:
        """Energies of sound ``(N, num_bands, num_frames)``; ``seconds`` is how long it is."""
        axis = Axis("seconds", ((0, 2),), per_unit=frames_per_second)
        return cls(Inputs(torch.empty(1, num_bands, num_frames, device="meta")), (axis,))

    def sizes(self, arch: Mapping[str, Value]) -> Sizes:
        """The sizes that an architecture takes, by axis."""
        return {axis.name: as_size(arch[axis.name]) for axis in self.axes}

    @property
    def own(self) -> Sizes:
        """The sizes of the example."""
        return {axis.name: as_size(self._size(*axis.places[0]) / axis.per_unit) for axis in self.axes}

    def largest(self, space: SearchSpace) -> Sizes:
        """The largest sizes in a space."""
        return {axis.name: as_size(max(space[axis.name].values)) for axis in self.axes}

    @property
    def is_batch(self) -> bool:
        """Whether the first axis of every tensor is the batch, rather than an axis of one sample (a list of images)."""
        return all(tensor.ndim and tensor.shape[0] == 1 for tensor in self.example.tensors)

    def shapes(self, sizes: Mapping[str, float], *, batch: int = 1) -> list[tuple[int, ...]]:
        """Shapes of all tensors at some sizes; ``batch`` is for those that have one."""
        first = [batch] if self.is_batch else []
        shapes = [[*first, *tensor.shape[len(first) :]] for tensor in self.example.tensors]
        for axis in self.axes:
            own = self._size(*axis.places[0])
            for number, dim in axis.places:
                shapes[number][dim] = round(sizes[axis.name] * axis.per_unit * self._size(number, dim) / own)
        return [tuple(shape) for shape in shapes]

    def sized(self, sizes: Mapping[str, float]) -> InputSpec:
        """The same for a model whose own sizes are others."""
        has_values = not all(tensor.is_meta for tensor in self.example.tensors)
        return dataclasses.replace(self, example=(self.with_values if has_values else self.at)(sizes))

    def at(self, sizes: Mapping[str, float]) -> Inputs:
        """Inputs of some sizes, without values."""
        shapes = iter(self.shapes(sizes))
        return self.example.map(lambda tensor: torch.empty(next(shapes), dtype=tensor.dtype, device="meta"))

    def with_values(self, sizes: Mapping[str, float]) -> Inputs:
        """Inputs of some sizes with the example's values, over and over where it is smaller.

        Where it is on the meta device these are random numbers, and zeros for whole numbers.
        """
        shapes = iter(self.shapes(sizes))
        rng = torch.Generator().manual_seed(0)

        def value(tensor: Tensor) -> Tensor:
            shape = next(shapes)
            if tensor.is_meta and tensor.is_floating_point():
                return torch.randn(shape, generator=rng, dtype=tensor.dtype)
            if tensor.is_meta:
                return torch.zeros(shape, dtype=tensor.dtype)
            for dim, size in enumerate(shape):
                tensor = tensor.index_select(dim, torch.arange(size, device=tensor.device) % tensor.shape[dim])
            return tensor.cpu()

        return self.example.map(value)

    def resize(self, inputs: Inputs, sizes: Mapping[str, float]) -> Inputs:
        """A batch at some sizes; untouched if it has them.

        Images are resized, bicubic with antialiasing, as Pillow resizes for evaluation and deployment, here on
        normalised floats; other axes keep their beginning.

        Raises:
            UsageError: If an axis would have to grow that is not an image's, or if there are not as many tensors as in
                the example.
        """
        if not self.axes:
            return inputs
        if len(inputs.tensors) != len(self.example.tensors):
            raise UsageError(f"inputs must be as {self.example} is, not {inputs}; give all of these tensors")
        wanted = self._no_longer(self.shapes(sizes, batch=len(inputs)), inputs)
        if [tuple(tensor.shape) for tensor in inputs.tensors] == wanted:
            return inputs
        shapes = iter(wanted)
        return inputs.map(lambda tensor: _resized(tensor, next(shapes)))

    def _no_longer(self, shapes: Sequence[tuple[int, ...]], inputs: Inputs) -> list[tuple[int, ...]]:
        """Shapes as they are wanted, but no longer than the inputs where these may be shorter."""
        limited = [list(shape) for shape in shapes]
        for number, dim in (place for axis in self.axes if axis.may_be_shorter for place in axis.places):
            limited[number][dim] = min(limited[number][dim], inputs.tensors[number].shape[dim])
        return [tuple(shape) for shape in limited]

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
