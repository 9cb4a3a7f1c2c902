"""Elastic kernel: the convolutions of a block, depthwise or plain, keep the centre of their kernels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod

from torch import nn

from ofa.nn.conv import add_kernel_transforms, kernel_is_elastic, narrow_kernel
from ofa.space import Value
from ofa.supernet.choices import Allowed, Choices, amounts
from ofa.supernet.dims.elastic import ElasticDim, Narrowing
from ofa.supernet.graph_analysis import GraphAnalysis
from ofa.supernet.stages import is_within


@dataclass(frozen=True)
class KernelCentre:
    """Of a convolution's kernel, the centre of this size."""

    size: int

    def narrow(self, layer: nn.Module) -> None:
        assert isinstance(layer, nn.Conv2d)
        narrow_kernel(layer, self.size)

    def share(self, layer: nn.Module) -> float:
        assert isinstance(layer, nn.Conv2d)
        before = [int(size) for size in layer.kernel_size]
        return prod(min(size, self.size) for size in before) / prod(before)


@dataclass(frozen=True)
class ElasticKernel(ElasticDim):
    """Caps the kernel size of every elastic convolution in a block; bands such as 1 × 11 become shorter.

    Args:
        convolutions: Paths and own kernel sizes.
    """

    kind = "kernel"
    allowed = Allowed(whole=True, odd=True)
    varies = "kernels of the block's convolutions, depthwise or plain, square or bands: their centres"
    default = "3, 5, 7 and its own"

    convolutions: tuple[tuple[str, int], ...]

    @classmethod
    def find(
        cls, analysis: GraphAnalysis, choices: Choices, divisor: int, found: Mapping[str, ElasticDim]
    ) -> list[ElasticDim]:
        dims: list[ElasticDim] = []
        for block in analysis.all_blocks():
            convolutions = tuple(
                (path, max(module.kernel_size))
                for path, module in analysis.modules.items()
                if is_within(path, block.path) and isinstance(module, nn.Conv2d) and kernel_is_elastic(module)
            )
            if not convolutions:
                analysis.notes[f"{block.name}.kernel"] = "no convolution with an odd kernel and same padding"
                continue
            own = max(size for _, size in convolutions)
            if own == 3:
                analysis.notes[f"{block.name}.kernel"] = "3×3 is the smallest kernel"
            wanted = choices.at(cls.kind, block.name)
            smaller = sorted(int(size) for size in amounts((3, 5, 7) if wanted is None else wanted, own) if size < own)
            dims.append(cls(f"{block.name}.kernel", (*smaller, own), convolutions))
        return dims

    def apply(self, arch: Mapping[str, Value], narrowing: Narrowing) -> None:
        kernel_size = int(arch.get(self.name, self.values[-1]))
        for path, size in self.convolutions:
            if kernel_size < size:
                narrowing.layers.setdefault(path, []).append(KernelCentre(kernel_size))

    def add_transforms(self, modules: Mapping[str, nn.Module]) -> None:
        for path, size in self.convolutions:
            sizes = tuple(int(value) for value in self.values if int(value) <= size)
            conv = modules[path]
            assert isinstance(conv, nn.Conv2d)
            if len(sizes) > 1 and conv.kernel_size == (size, size):
                add_kernel_transforms(conv, sizes)
