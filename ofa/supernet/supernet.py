"""The supernet: one set of weights, any of its subnets on request."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor, nn

from ofa.errors import UsageError
from ofa.inputs import Inputs, InputSpec, Sizes
from ofa.nn.conv import remove_kernel_transforms
from ofa.nn.structure import detach_buffers, own_hooks, own_tensors
from ofa.space import Arch, SearchSpace, Value
from ofa.supernet.dims import ElasticDim, Narrowing
from ofa.supernet.graph_analysis import GraphAnalysis
from ofa.supernet.narrowing import Narrower, build, places
from ofa.supernet.parts import Part, PartIndex, Slot
from ofa.supernet.stages import Stage


class Supernet(nn.Module):
    """A timm model together with the space of its subnets. Made by :func:`ofa.elasticize`.

    There are no elastic layers inside: ``model`` is timm's model with timm's parameter names, and an architecture
    selects slices of its tensors. A subnet is built for each call from ordinary timm blocks that hold those slices as
    *views*, so the active and the extracted network run the same code, training one trains the shared weights, and no
    state outlives a call. (Published code keeps the active choice in attributes of the layers.)

    Shape:
        - images: ``(N, C, H, W)``, resized to height ``r`` if ``arch["resolution"]`` is another ``r``
        - output: ``(N, num_classes)``

    In training mode only the largest subnet updates the running statistics of batch normalisation, so that they stay
    those of one network; every other subnet needs BN calibration before it is judged.
    """

    def __init__(
        self,
        model: nn.Module,
        space: SearchSpace,
        stages: Sequence[Stage],
        dims: Sequence[ElasticDim],
        analysis: GraphAnalysis,
    ) -> None:
        super().__init__()
        self.model = model
        self.space = space
        self.stages = tuple(stages)
        self.dims = tuple(dims)
        self.analysis = analysis
        self._narrower = Narrower(
            model, {n: analysis.groups.all[n] for dim in dims for n in dim.groups}, analysis.forms
        )
        self._largest = space.largest()
        self.inputs = analysis.inputs

    def forward(self, *inputs: Any, arch: Arch | Mapping[str, Value] | None = None, **named_inputs: Any) -> Any:
        """Outputs of one subnet for inputs that are brought to its sizes.

        Args:
            arch: May also stand behind the inputs, as the last positional argument.

        Raises:
            SpaceError: If ``arch`` does not fit the space.
            UsageError: If there is none.
        """
        if arch is None:
            if not inputs or not isinstance(inputs[-1], Mapping):
                raise UsageError("which subnet is meant? give an architecture last, or as arch=")
            *inputs, arch = inputs  # type: ignore[assignment]
        subnet = self.subnet(arch)
        return self.inputs.resize(Inputs(*inputs, **named_inputs), self.inputs.sizes(arch)).call(subnet)

    def subnet(self, arch: Arch | Mapping[str, Value]) -> nn.Module:
        """The subnet as a throwaway module over views of the shared weights.

        Gradients reach the supernet through it. It is stale after ``load_state_dict(assign=True)`` or a move to another
        device; build it again rather than keep it.
        """
        arch = self.space.arch(arch)
        if arch == self._largest:
            return self.largest_subnet
        subnet = self._narrowed(arch)
        if self.training:
            detach_buffers(subnet)
        return subnet

    @property
    def largest_subnet(self) -> nn.Module:
        """The model itself, or of stitched anchors the last: views of it."""
        leaves_out = any(dim.left_out(dim.values[-1]) for dim in self.dims)
        return self._narrowed(self._largest) if leaves_out else self.model

    def _narrowed(self, arch: Mapping[str, Value]) -> nn.Module:
        return build(self.model, self._narrower, Narrowing.of(self.dims, arch))

    def places(self, arch: Arch | Mapping[str, Value]) -> dict[str, tuple[Tensor, ...]]:
        """Where a subnet's tensors are in the model's: by full name, for each axis the indices that it has of it."""
        return places(self.model, self._narrower, Narrowing.of(self.dims, self.space.arch(arch)))

    def extract(self, arch: Arch | Mapping[str, Value]) -> nn.Module:
        """The subnet as a module of its own: plain timm and torch layers, contiguous copies of the weights, eval mode.

        It takes images of the architecture's resolution. Its batch-norm statistics are those of the largest subnet: see
        :mod:`ofa.training.bn_calibration`.
        """
        subnet = remove_kernel_transforms(self._narrowed(self.space.arch(arch)))
        own_hooks(subnet)
        own_tensors(subnet)
        return subnet.eval()

    def restrict_to(self, arch: Mapping[str, Value]) -> None:
        """Leave one architecture in the space, before anything is asked of it; weights of others stay, unused."""
        self.space = self.space.only(arch)

    def keep_whole(self, space: SearchSpace) -> bool:
        """Let nothing vary but what a space says, before anything is asked of this one: that of an earlier version.

        Returns:
            Whether it is a part of this supernet's space; nothing changes if it is not.
        """
        own = {dim.name: dim for dim in self.space.dims}
        for dim in space.dims:
            mine = own.get(dim.name)
            values = set(dim.values)
            if mine is None or not values <= set(mine.values) or dim.values[-1] != mine.values[-1]:
                return False
            if (dim.requires, dim.follows) != (mine.requires, mine.follows):
                return False
        self.space, self._largest = space, space.largest()
        self.dims = tuple(dim for dim in self.dims if dim.name in space.names)
        return True

    def input_shape(self, arch: Arch | Mapping[str, Value]) -> tuple[int, ...]:
        """Shape, without the batch, of what the extracted subnet takes: ``(channels, height, width)`` of images."""
        (shape,) = self.inputs.shapes(self.inputs.sizes(arch))
        return shape[1:]

    def timed_inputs(self, arch: Arch | Mapping[str, Value]) -> tuple[int, ...] | Inputs:
        """What the extracted subnet is timed on: the shape of its one input of floats, or a sample of all."""
        spec = self.inputs_for(arch)
        tensors = spec.example.tensors
        is_plain = len(tensors) == 1 and tensors[0].is_floating_point() and spec.is_batch
        return tuple(tensors[0].shape[1:]) if is_plain else spec.with_values(spec.own)

    def inputs_for(self, arch: Arch | Mapping[str, Value]) -> InputSpec:
        """What the extracted subnet takes, as :func:`ofa.deploy.export_onnx` wants it."""
        return self.inputs.sized(self.inputs.sizes(arch))

    @property
    def largest_sizes(self) -> Sizes:
        """Sizes of the inputs of the whole model, by axis."""
        return self.inputs.sizes(self._largest)

    # -- what its parts are and cost ---------------------------------------------------------------------------------

    @cached_property
    def _part_index(self) -> PartIndex:
        return PartIndex(self.model, self.space, self.stages, self.dims, self.analysis, self._narrower)

    @property
    def slots(self) -> tuple[Slot, ...]:
        """Stem, blocks, head and what stands between, each with the dims that decide it."""
        return self._part_index.slots

    @property
    def measurable_share(self) -> float:
        """Of the MACs of the largest subnet, the share that :attr:`slots` stand for, from 0 to 1.

        The rest is in modules that are called several times or with more than tensors of one size, or in none.
        """
        return self._part_index.measurable_share

    def part(self, key: str) -> Part:
        """The network part behind a key of :attr:`slots`, to be run on its own; :class:`LookupError` if unknown."""
        return self._part_index.part(key)

    def factors(self, cost: str) -> list[tuple[tuple[str, ...], npt.NDArray[np.float64]]]:
        """Cost tables: for each slot the dims it reads and a dense array over their values.

        Args:
            cost: ``macs`` (multiply-accumulates), ``params``, ``weights`` and ``biases`` (those of them that a deployed
                network keeps), ``layers`` (convolutions and products), or ``peak_activation_bytes`` (of one fp32 image;
                the peak of a network is the largest entry, not the sum).
        """
        return self._part_index.factors(cost)
