"""Elastic kernel: the convolutions of a block, depthwise or plain, keep the centre of their kernels."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Self

from torch import nn

from ofa.nn.conv import CONVOLUTIONS, add_kernel_transforms, kernel_is_elastic
from ofa.space import Value
from ofa.supernet.choices import Allowed, Choices, amounts
from ofa.supernet.dims.elastic import ElasticDim, Found, Narrowing
from ofa.supernet.graph_analysis import GraphAnalysis
from ofa.supernet.stages import is_within


@dataclass(frozen=True)
class ElasticKernel(ElasticDim):
    """Caps the kernel size of every elastic convolution in a block; bands such as 1 × 11 become shorter.

    Args:
        convolutions: Paths and own kernel sizes.
    """

    kind = "kernel"
    allowed = Allowed(whole=True, odd=True)

    convolutions: tuple[tuple[str, int], ...]

    @classmethod
    def find(cls, analysis: GraphAnalysis, choices: Choices, divisor: int, found: Found) -> Iterator[Self]:
        for block in analysis.all_blocks():
            convolutions = tuple(
                (path, max(module.kernel_size))
                for path, module in analysis.modules.items()
                if is_within(path, block.path) and isinstance(module, CONVOLUTIONS) and kernel_is_elastic(module)
            )
            if not convolutions:
                analysis.notes[f"{block.name}.kernel"] = "no convolution with an odd kernel and same padding"
                continue
            own = max(size for _, size in convolutions)
            if own == 3:
                analysis.notes[f"{block.name}.kernel"] = "3×3 is the smallest kernel"
            sizes = amounts(choices.at(cls.kind, block.name) or (3, 5, 7), own)
            smaller = sorted(int(size) for size in sizes if size < own)
            yield cls(f"{block.name}.kernel", (*smaller, own), convolutions)

    def apply(self, arch: Mapping[str, Value], narrowing: Narrowing) -> None:
        kernel_size = int(arch.get(self.name, self.values[-1]))
        for path, size in self.convolutions:
            if kernel_size < size:
                narrowing.kernels[path] = kernel_size

    def add_transforms(self, modules: Mapping[str, nn.Module]) -> None:
        for path, size in self.convolutions:
            sizes = tuple(int(value) for value in self.values if int(value) <= size)
            conv = modules[path]
            if len(sizes) > 1 and isinstance(conv, nn.Conv2d) and conv.kernel_size == (size, size):
                add_kernel_transforms(conv, sizes)
