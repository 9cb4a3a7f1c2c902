"""A synthetic space whose accuracy and latency are known exactly."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pandas as pd

from ofa.space import Arch, Dim, Population, SearchSpace


def make_space(num_stages: int = 2, num_blocks: int = 3) -> SearchSpace:
    """Resolution, depths, kernels and expand ratios; 2 stages of 3 blocks hold 3 x 819 x 819 architectures."""
    dims = [Dim("resolution", (24, 28, 32))]
    for stage in range(1, num_stages + 1):
        depth = Dim(f"stage{stage}.depth", tuple(range(1, num_blocks + 1)))
        dims.append(depth)
        for block in range(num_blocks):
            requires = (depth.name, tuple(value for value in depth.values if int(value) > block))
            dims.append(Dim(f"stage{stage}.block{block}.kernel", (3, 5, 7), requires))
            dims.append(Dim(f"stage{stage}.block{block}.expand", (3, 4, 6), requires))
    return SearchSpace(tuple(dims))


@dataclass
class World:
    """Accuracy is linear in the encoding plus noise, latency is additive; the device is 5 % slower than predicted."""

    space: SearchSpace
    noise: float = 0.1
    slowdown: float = 1.05
    evaluated: list[Arch] = field(default_factory=list)
    measured: list[Arch] = field(default_factory=list)

    def __post_init__(self) -> None:
        rng = np.random.default_rng(7)
        rising = [np.sort(rng.uniform(0.1, 1.0, num)) for num in self.space.num_values]
        self.gains = np.concatenate(rising)
        self.costs_ms = np.concatenate([np.sort(rng.uniform(0.05, 0.3, len(values))) for values in rising])

    def exact_top1(self, population: Population) -> npt.NDArray[np.float64]:
        return 80 + self.space.encode(population) @ self.gains

    def evaluate_top1(self, archs: list[Arch]) -> npt.NDArray[np.float64]:
        self.evaluated += archs
        noise = [np.random.default_rng(len(arch.to_json())).normal(0, self.noise) for arch in archs]
        return self.exact_top1(self.space.to_population(archs)) + noise

    def race(self, archs: list[Arch], floors_percent: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """All on 1,000 images."""
        return np.column_stack([np.clip(self.evaluate_top1(archs), 0, 100), np.full(len(archs), 1000)])

    def predict_ms(self, population: Population) -> npt.NDArray[np.float64]:
        return self.space.encode(population) @ self.costs_ms

    def measure_ms(self, archs: list[Arch]) -> pd.DataFrame:
        self.measured += archs
        p50 = self.predict_ms(self.space.to_population(archs)) * self.slowdown
        return pd.DataFrame(
            {"latency_ms_p10": 0.97 * p50, "latency_ms_p50": p50, "latency_ms_p90": 1.1 * p50},
            index=[f"subnet{number}" for number in range(len(archs))],
        )


@dataclass
class SumCost:
    """A count that grows with every gene."""

    space: SearchSpace

    def predict(self, population: Population) -> npt.NDArray[np.float64]:
        return 1000.0 * (1 + self.space.to_population(population).sum(axis=1))
