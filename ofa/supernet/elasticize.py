"""Conversion of a timm model into a supernet."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from torch import nn

from ofa.errors import OfaError, unknown_name_message
from ofa.nn.conv import add_kernel_transforms
from ofa.space import Dim, SearchSpace, SpaceError
from ofa.supernet.anatomy import Anatomy
from ofa.supernet.channels import sizes_at
from ofa.supernet.choices import Choice, Choices, Wanted, share_of
from ofa.supernet.dims import FINDERS, ElasticDim
from ofa.supernet.dims.depth import ElasticDepth
from ofa.supernet.structure import Block, Stage
from ofa.supernet.supernet import Supernet
from ofa.supernet.trial import dims_that_run, failure_of, first_line

DEFAULT_WIDTH = ("50%", "75%", "100%")


class NothingElasticError(OfaError, ValueError):
    """Nothing in the model can vary."""


class NotTraceableError(OfaError, ValueError):
    """The model does not run as an image classifier does."""


def elasticize(
    model: nn.Module,
    *,
    depth: Wanted | None = None,
    kernel: Wanted | None = None,
    expand: Wanted | None = None,
    mlp_ratio: Wanted | None = None,
    heads: Wanted | None = None,
    width: Wanted | None = None,
    resolution: Sequence[Choice] | None = None,
    divisor: int = 8,
    coupled: Sequence[str] = (),
    kernel_transforms: bool = False,
) -> Supernet:
    """Make a timm model elastic. The model's own layers and weights stay; the largest subnet computes what it computes.

    What can vary is found by structure, not by class: the model runs once without values (on the meta device) while
    :mod:`ofa.supernet.channels` follows every channel, and each kind of dim looks for its pattern in what that shows.
    What turns out not to run when it is narrowed is left whole; the supernet's ``anatomy.notes`` have the reason.

    Args:
        model: Any timm model. The supernet takes it over (no copy).
        depth, kernel, expand, mlp_ratio, heads, width, resolution: See :class:`~ofa.supernet.choices.Choices`; ``None``
            is a sensible default.
        divisor: Channels are rounded to multiples of it.
        coupled: Kinds of dims, such as ``expand``, that follow the depth of their stage instead of being chosen: a
            deeper stage is a wider one (CompOFA, arXiv:2104.12642).
        kernel_transforms: Learn a matrix per step to a smaller kernel (Once-for-All, sec. 3.3), not only crop.

    Returns:
        A supernet whose dims are ``resolution`` and, for stage ``i`` and block ``j`` (counted from 0 as in timm's
        module names), ``stage{i}.width``, ``stage{i}.depth``, ``stage{i}.block{j}.kernel``, ``.expand``, ``.mlp_ratio``
        and ``.heads``. What cannot vary has no dim.

    Raises:
        NothingElasticError: If nothing can vary; it names the block types found.
        NotTraceableError: If the model does not take an image and give logits.
        SpaceError: If a list of choices is malformed, or for a stage that the model does not have.
    """
    choices = Choices.from_mapping(
        {
            "depth": depth,
            "kernel": kernel,
            "expand": expand,
            "mlp_ratio": mlp_ratio,
            "heads": heads,
            "width": width,
            "resolution": resolution,
        }
    )
    for kind in coupled:
        if kind not in FINDERS or kind in ("depth", "width"):
            inner = [kind for kind in FINDERS if kind not in ("depth", "width")]
            raise SpaceError(unknown_name_message("kind of dim to couple to the depth", kind, inner))
    own = own_resolution(model)
    candidates = _resolutions(own, choices)
    anatomy = _anatomy(model, own, candidates)
    choices.check_places([name for name, _ in anatomy.stages] + ["stem", "head"])
    found = _find_dims(anatomy, choices, divisor)
    if width is None and len({dim.kind for dim in found.values() if len(dim.values) > 1}) < 2:
        found = _find_dims(anatomy, dataclasses.replace(choices, width=DEFAULT_WIDTH), divisor)
    resolutions = _working_resolutions(anatomy, candidates, is_asked=resolution is not None)
    stages = tuple(_stage(name, blocks, found[f"{name}.depth"]) for name, blocks in anatomy.stages)
    dims = _in_order(anatomy, stages, found)
    if all(len(dim.values) == 1 for dim in dims):
        raise NothingElasticError(_nothing_elastic(anatomy))
    elastic = [dim for dim in dims if len(dim.values) > 1]
    if kernel_transforms:
        _add_transforms(anatomy, elastic)
    space = SearchSpace((Dim("resolution", resolutions), *(_space_dim(dim, stages, coupled) for dim in elastic)))
    return Supernet(model, space, stages, elastic, anatomy)


def _find_dims(anatomy: Anatomy, choices: Choices, divisor: int) -> dict[str, ElasticDim]:
    found: dict[str, ElasticDim] = {}
    anatomy.notes.clear()
    for find in FINDERS.values():
        found |= {dim.name: dim for dim in find(anatomy, choices, divisor, found)}
    return dims_that_run(anatomy, found)


def own_resolution(model: nn.Module) -> int:
    """The image size that a model was made for."""
    return int((getattr(model, "default_cfg", None) or {}).get("input_size", (3, 224, 224))[-1])


def _resolutions(own: int, choices: Choices) -> tuple[int, ...]:
    if choices.resolution is not None:
        sizes = {
            int(v) if (share := share_of(v)) is None else max(4, round(share * own / 4) * 4) for v in choices.resolution
        }
        return tuple(sorted(sizes))
    step = max(4, own // 7 // 4 * 4)
    return tuple(sorted({value for value in range(own - 3 * step, own + 1, step) if value > 0}))


def _anatomy(model: nn.Module, own: int, candidates: tuple[int, ...]) -> Anatomy:
    """The model taken apart at the largest size that is wanted, or at its own if it takes no other."""
    for size in dict.fromkeys((max(candidates), own)):
        try:
            return Anatomy.of(model, size)
        # Whatever a model's code raises on such an image is for the user to know.
        except Exception as error:
            failure = error
    raise NotTraceableError(
        f"{type(model).__name__} does not run on one batch of {own} pixel images: {first_line(failure)}"
    ) from failure


def _working_resolutions(anatomy: Anatomy, candidates: tuple[int, ...], *, is_asked: bool) -> tuple[int, ...]:
    """Image sizes that the model takes without a change of its weights.

    Of many sizes a few are tried, neighbours among them, since what fails is nearly always a size that does not divide;
    only if one of them fails, all are. Sizes that were asked for must work.
    """
    expected = anatomy.trace.output_shape

    def failure(size: int) -> str | None:
        if size == anatomy.resolution:
            return None
        return failure_of(lambda: sizes_at(anatomy.model, size).output, expected)

    middle = len(candidates) // 2
    if len(candidates) > 6 and not any(failure(candidates[i]) for i in (0, 1, middle, middle + 1)):
        return candidates
    failures = {size: message for size in candidates if (message := failure(size)) is not None}
    if failures and is_asked:
        raise SpaceError(
            f"{type(anatomy.model).__name__} does not take images of {', '.join(map(str, failures))} pixels "
            f"({next(iter(failures.values()))}); its own size is {own_resolution(anatomy.model)}"
        )
    if failures:
        anatomy.notes["resolution"] = "the model takes images of some sizes only"
    return tuple(size for size in candidates if size not in failures)


def _stage(name: str, blocks: Sequence[Block], depth: ElasticDim) -> Stage:
    assert isinstance(depth, ElasticDepth)
    removable = depth.removable if len(depth.values) > 1 else ()
    return Stage(name, tuple(blocks), depth.values, removable)


def _in_order(anatomy: Anatomy, stages: Sequence[Stage], found: dict[str, ElasticDim]) -> list[ElasticDim]:
    """Widths first, since others refer to them; then stage by stage: depth, and block by block the rest."""
    order = [name for name, dim in found.items() if dim.kind == "width"]
    for stage in stages:
        order.append(f"{stage.name}.depth")
        order += [f"{block.name}.{kind}" for block in stage.blocks for kind in FINDERS]
    return [found[name] for name in order if name in found]


def _space_dim(dim: ElasticDim, stages: Sequence[Stage], coupled: Sequence[str]) -> Dim:
    for stage in stages:
        for position, block in enumerate(stage.blocks):
            if dim.name.startswith(block.name + ".") and len(stage.depths) > 1:
                depth = f"{stage.name}.depth"
                enough = tuple(value for value in stage.depths if value >= stage.needs(position))
                requires = (depth, enough) if len(enough) < len(stage.depths) else None
                return Dim(dim.name, dim.values, requires, depth if dim.kind in coupled else None)
    return Dim(dim.name, dim.values)


def _add_transforms(anatomy: Anatomy, dims: Sequence[ElasticDim]) -> None:
    for dim in dims:
        if dim.kind == "kernel":
            for path, size in dim.convolutions:  # type: ignore[attr-defined]
                sizes = tuple(int(value) for value in dim.values if int(value) <= size)
                conv = anatomy.modules[path]
                assert isinstance(conv, nn.Conv2d)
                if len(sizes) > 1 and conv.kernel_size == (size, size):
                    add_kernel_transforms(conv, sizes)


def _nothing_elastic(anatomy: Anatomy) -> str:
    blocks = sorted({type(anatomy.modules[block.path]).__name__ for block in anatomy.all_blocks()})
    modules = sorted(
        {type(module).__name__ for module in anatomy.modules.values() if any(True for _ in module.children())}
    )
    found = f"blocks of type {', '.join(blocks)}" if blocks else f"no blocks, only {', '.join(modules)}"
    reasons = sorted(set(anatomy.notes.values()))
    return f"nothing in {type(anatomy.model).__name__} can be made elastic: found {found}" + (
        f" ({'; '.join(reasons[:4])})" if reasons else ""
    )
