"""Elastic kernel: the convolutions of a block, depthwise or plain, keep the centre of their kernels."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Set
from dataclasses import dataclass

from torch import nn

from ofa.nn.conv import kernel_is_elastic
from ofa.space import Value
from ofa.supernet.anatomy import Anatomy
from ofa.supernet.choices import Choices
from ofa.supernet.dims.elastic import ElasticDim, Subnet
from ofa.supernet.structure import is_within


@dataclass(frozen=True)
class ElasticKernel:
    """Caps the kernel size of every elastic convolution in a block; bands such as 1 × 11 become shorter."""

    name: str
    values: tuple[int, ...]
    convolutions: tuple[tuple[str, int], ...]
    kind: str = "kernel"
    groups: tuple[int, ...] = ()
    reads: tuple[str, ...] = ()

    @classmethod
    def find(
        cls, anatomy: Anatomy, choices: Choices, divisor: int, found: Mapping[str, ElasticDim]
    ) -> list[ElasticDim]:
        dims: list[ElasticDim] = []
        for block in anatomy.all_blocks():
            convolutions = tuple(
                (path, max(module.kernel_size))
                for path, module in anatomy.modules.items()
                if is_within(path, block.path) and isinstance(module, nn.Conv2d) and kernel_is_elastic(module)
            )
            if not convolutions:
                anatomy.notes[f"{block.name}.kernel"] = "no convolution with an odd kernel and same padding"
                continue
            own = max(size for _, size in convolutions)
            if own == 3:
                anatomy.notes[f"{block.name}.kernel"] = "3×3 is the smallest kernel"
            wanted = choices.at("kernel", block.name)
            smaller = sorted(int(v) for v in ((3, 5, 7) if wanted is None else wanted) if v != "100%" and int(v) < own)
            dims.append(cls(f"{block.name}.kernel", (*smaller, own), convolutions))
        return dims

    def restricted(self, groups: Set[int]) -> ElasticDim:
        return dataclasses.replace(self, values=self.values[-1:])

    def apply(self, arch: Mapping[str, Value], subnet: Subnet) -> None:
        if self.name not in arch:
            return
        kernel_size = int(arch[self.name])
        subnet.kernels.update({path: kernel_size for path, size in self.convolutions if kernel_size < size})
