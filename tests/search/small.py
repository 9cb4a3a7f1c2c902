"""Small spaces with costs that are sums and maxima of factors, to be listed as a whole."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import timm
import torch

from ofa.cost import CostModel, Factor, macs, params, peak_activation_bytes
from ofa.search.pareto import non_dominated
from ofa.space import Dim, Population, SearchSpace
from ofa.supernet import elasticize

from .world import make_space


@dataclass
class Small:
    """A space, two sums to limit, a maximum, and a value to minimise."""

    space: SearchSpace
    cost: CostModel
    other: CostModel
    most: CostModel
    value: CostModel

    def every(self) -> Population:
        return self.space.every()

    def front(self, rows: npt.NDArray[np.bool_] | None = None) -> npt.NDArray[np.float64]:
        """All undominated pairs of cost and value, each once, costs ascending, by listing the space."""
        every = self.every() if rows is None else self.every()[rows]
        pairs = np.column_stack([self.cost.predict(every), self.value.predict(every)])
        return np.unique(pairs[non_dominated(pairs)], axis=0)


def random_sum(space: SearchSpace, scopes: list[tuple[str, ...]], seed: int, *, reduce="sum", whole=False) -> CostModel:
    """Any numbers, or small whole ones, many of whose sums are equal."""
    rng = np.random.default_rng(seed)
    factors = []
    for scope in scopes:
        shape = [len(space[name].values) for name in scope]
        array = rng.integers(0, 4, shape).astype(float) if whole else rng.exponential(1.0, shape)
        factors.append(Factor(scope, array))
    return CostModel(space, factors, name="random", reduce=reduce)


def stages(seed: int = 0, *, whole: bool = False) -> Small:
    """Resolution, two stages of two blocks with elastic depth: 24,300 networks, each part as a latency table has it."""
    space = make_space(num_blocks=2)
    parts: list[tuple[str, ...]] = [("resolution",), ()]
    for name in space.names:
        if name.endswith("kernel"):
            block = name.removesuffix(".kernel")
            depth = (f"{block.split('.')[0]}.depth",) if block.endswith("block1") else ()
            parts.append(("resolution", *depth, name, f"{block}.expand"))
    each = [(name,) for name in space.names]
    return Small(
        space,
        random_sum(space, parts, seed, whole=whole),
        random_sum(space, parts[2:], seed + 1, whole=whole),
        random_sum(space, parts[2:], seed + 2, reduce="max"),
        random_sum(space, each, seed + 3, whole=whole),
    )


def widths(seed: int = 0) -> Small:
    """A residual network with elastic stage widths: 78,732 networks, counted by the supernet itself."""
    with torch.device("meta"):
        supernet = elasticize(timm.create_model("resnet10t"), width=["50%", "75%"], resolution=[64, 96])
    space = supernet.space
    assert space["stage1.width"].values == (64, 96, 128) and space.num_archs == 78_732
    value = random_sum(space, [*((name,) for name in space.names), ("stage1.width", "stage3.width")], seed)
    return Small(space, macs(supernet), params(supernet), peak_activation_bytes(supernet), value)


def coupled(seed: int = 0) -> Small:
    """Names as values, dims within dims within dims, one that follows another, one that nothing reads."""
    space = SearchSpace(
        (
            Dim("kind", ("plain", "mixed", "deep")),
            Dim("ratio", (1, 2, 3, 4)),
            Dim("kind.depth", (1, 2, 3), requires=("kind", ("mixed", "deep"))),
            Dim("kind.depth.kernel", (3, 5, 7), requires=("kind.depth", (2, 3))),
            Dim("heads", (2, 4, 8), follows="ratio"),
            Dim("idle", (0, 1)),
            Dim("last", (0, 1, 2), requires=("kind", ("plain", "deep"))),
        )
    )
    scopes = [("kind.depth.kernel", "kind"), ("heads", "last"), ("kind.depth", "ratio"), ("last", "kind.depth.kernel")]
    models = [random_sum(space, scopes, seed + number) for number in range(3)]
    most = random_sum(space, scopes[:2], seed + 3, reduce="max")
    return Small(space, models[0], models[1], most, models[2])


SMALL = {"stages": stages, "widths": widths, "coupled": coupled}
