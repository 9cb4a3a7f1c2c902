"""Conversion of a timm model into a supernet."""

from __future__ import annotations

import math
from collections.abc import Sequence

from timm.models._efficientnet_blocks import DepthwiseSeparableConv, EdgeResidual, InvertedResidual
from torch import nn

from ofa.nn.conv import add_kernel_transforms
from ofa.space import Dim, SearchSpace, Value
from ofa.supernet.adapter import BlockAdapter, Choices, can_narrow
from ofa.supernet.depthwise_separable import DepthwiseSeparableAdapter
from ofa.supernet.edge_residual import EdgeResidualAdapter
from ofa.supernet.inverted_residual import InvertedResidualAdapter
from ofa.supernet.stages import Block, Stage
from ofa.supernet.supernet import Supernet

ADAPTERS: dict[type[nn.Module], BlockAdapter] = {
    InvertedResidual: InvertedResidualAdapter(),
    DepthwiseSeparableConv: DepthwiseSeparableAdapter(),
    EdgeResidual: EdgeResidualAdapter(),
}


class NothingElasticError(ValueError):
    """The model holds no block that any adapter knows."""


def elasticize(
    model: nn.Module,
    *,
    depth: Sequence[int] | None = None,
    kernel: Sequence[int] | None = None,
    expand: Sequence[float] | None = None,
    resolution: Sequence[int] | None = None,
    kernel_transforms: bool = False,
) -> Supernet:
    """Make a timm model elastic. The model's own layers and weights stay; the largest subnet computes what it computes.

    Args:
        model: Any timm model built from inverted residuals and their kin. The supernet takes it over (no copy).
        depth, kernel, expand, resolution: See :class:`~ofa.supernet.adapter.Choices`; ``None`` is a sensible default.
        kernel_transforms: Learn a matrix per step to a smaller kernel (Once-for-All, sec. 3.3), not only crop.

    Returns:
        A supernet whose dims are ``resolution`` and, for stage ``i`` and block ``j`` (both counted from 0 as in timm's
        module names), ``stage{i}.depth``, ``stage{i}.block{j}.kernel`` and ``stage{i}.block{j}.expand``. What cannot
        vary has no dim.

    Raises:
        NothingElasticError: If no block is known; it names the block types found.
        SpaceError: If a list of choices is malformed.
    """
    choices = Choices.from_mapping({"depth": depth, "kernel": kernel, "expand": expand, "resolution": resolution})
    dims = [Dim("resolution", _resolutions(model, choices))]
    stages: list[Stage] = []
    for path, sequence in _find_stages(model):
        name = f"stage{len(stages)}"
        blocks = [
            Block(f"{name}.block{j}", ADAPTERS.get(type(block)) if can_narrow(block) else None)
            for j, block in enumerate(sequence)
        ]
        depths = _depths(sequence, choices)
        if len(depths) > 1:
            dims.append(Dim(f"{name}.depth", depths))
        for j, (block, module) in enumerate(zip(blocks, sequence, strict=True)):
            requires = None if j < depths[0] else (f"{name}.depth", tuple(value for value in depths if value > j))
            for local_name, values in (block.adapter.dims(module, choices) if block.adapter else {}).items():
                if len(values) > 1:
                    dims.append(Dim(f"{block.name}.{local_name}", values, requires))
                if local_name == "kernel" and len(values) > 1 and kernel_transforms:
                    _add_transforms(module, values)
        stages.append(Stage(name, path, depths, tuple(blocks)))
    if len(dims) == 1:
        found = sorted({type(module).__name__ for module in model.modules() if any(True for _ in module.children())})
        known = ", ".join(sorted(block_type.__name__ for block_type in ADAPTERS))
        why = "its known blocks have nothing that can vary" if stages else f"known blocks: {known}"
        raise NothingElasticError(
            f"nothing in {type(model).__name__} can be made elastic: it is built of {', '.join(found)}; {why}"
        )
    return Supernet(model, SearchSpace(tuple(dims)), tuple(stages))


def _find_stages(model: nn.Module) -> list[tuple[str, nn.Sequential]]:
    """Paths and modules of the stages, in the order of the model: sequences beside one that holds a known block."""
    parents = {
        path.rpartition(".")[0]
        for path, module in model.named_modules()
        if isinstance(module, nn.Sequential) and any(type(child) in ADAPTERS for child in module)
    }
    return [
        (path, module)
        for path, module in model.named_modules()
        if isinstance(module, nn.Sequential) and path and path.rpartition(".")[0] in parents
    ]


def _depths(sequence: nn.Sequential, choices: Choices) -> tuple[int, ...]:
    """Depths that a stage can take: only blocks at its end around a shortcut can be left out."""
    num_blocks = len(sequence)
    fixed = num_blocks
    while fixed > 1 and (adapter := ADAPTERS.get(type(sequence[fixed - 1]))) and adapter.skippable(sequence[fixed - 1]):
        fixed -= 1
    wanted = range(math.ceil(num_blocks / 2), num_blocks) if choices.depth is None else choices.depth
    return (*(int(value) for value in wanted if fixed <= value < num_blocks), num_blocks)


def _resolutions(model: nn.Module, choices: Choices) -> tuple[int, ...]:
    if choices.resolution is not None:
        return tuple(int(value) for value in choices.resolution)
    full = int(getattr(model, "default_cfg", {}).get("input_size", (3, 224, 224))[-1])
    step = max(4, full // 7 // 4 * 4)
    return tuple(sorted({value for value in range(full - 3 * step, full + 1, step) if value > 0}))


def _add_transforms(block: nn.Module, values: tuple[Value, ...]) -> None:
    for module in block.modules():
        if isinstance(module, nn.Conv2d) and module.kernel_size[0] == values[-1]:
            add_kernel_transforms(module, tuple(int(value) for value in values))
            return
