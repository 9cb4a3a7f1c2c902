"""Conversion of a model into a supernet."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from ofa.errors import OfaError, shown, unknown_name_message
from ofa.inputs import IMAGE_AXES, Inputs, InputSpec, as_size
from ofa.space import Dim, SearchSpace, SpaceError
from ofa.supernet.channels import sizes_at
from ofa.supernet.choices import Allowed, Choices, Wanted, share_of
from ofa.supernet.dims import DIM_KINDS, ElasticDim
from ofa.supernet.graph_analysis import GraphAnalysis
from ofa.supernet.stages import Block, Stage
from ofa.supernet.stitching import Stitched
from ofa.supernet.supernet import Supernet
from ofa.supernet.trial import Shapes, are_alike, dims_that_run, failure_of, first_line

Sizes = tuple[float, ...]
OPTIONS = ("inputs", "divisor", "coupled", "kernel_transforms")
"""Arguments of :func:`elasticize` besides choices."""


class NothingElasticError(OfaError, ValueError):
    """Nothing in the model can vary."""


class NotTraceableError(OfaError, ValueError):
    """The model does not run on what it is said to take, or gives no tensors."""


def elasticize(
    model: nn.Module,
    inputs: Any = None,
    *,
    divisor: int = 8,
    coupled: Sequence[str] = (),
    kernel_transforms: bool = False,
    **choices: Wanted | None,
) -> Supernet:
    """Make a model elastic. Its own layers and weights stay; the largest subnet computes what it computes.

    What can vary is found by structure, not by class: the model runs once, without values (on the meta device) if its
    code does not look at them, while :mod:`ofa.supernet.channels` follows every channel, and each kind of dim looks for
    its pattern in what that shows.
    What turns out not to run when it is narrowed is left whole; the supernet's ``analysis.notes`` have the reason.

    Args:
        model: Any model of torch. The supernet takes it over (no copy).
        inputs: What it is called with, where that is not the square image of timm's configuration: a tensor, or a tuple
            or mapping of arguments, nested as they are, or :class:`~ofa.inputs.Inputs`; or an
            :class:`~ofa.inputs.InputSpec` that also says which axes may vary. Of one tensor ``(N, C, H, W)`` that is
            ``resolution``. Give a batch of one sample; its values matter to code that looks at them.
        divisor: Channels are rounded to multiples of it.
        coupled: Kinds of dims, such as ``expand``, that follow the depth of their stage instead of being chosen: a
            deeper stage is a wider one (CompOFA, arXiv:2104.12642).
        kernel_transforms: Learn a matrix per step to a smaller kernel (Once-for-All, sec. 3.3), not only crop.
        choices: By kind of dim (``depth``, ``expand``: see :data:`~ofa.supernet.dims.DIM_KINDS`) a list of values or
            shares (``"75%"``), or a mapping from stages to lists, see :class:`~ofa.supernet.choices.Choices`. ``None``
            is the kind's default. So are choices for the axes of the inputs, as lists: ``resolution`` in pixels, of
            the height where images are not square (default: four sizes from about 4/7 of the model's own to all of it),
            ``tokens``, ``seconds`` (default: the example's).

    Returns:
        A supernet whose dims are the axes of its inputs and, for stage ``i`` and block ``j`` (counted from 0 as in
        timm's module names), such as ``stage{i}.width``, ``stage{i}.depth`` and ``stage{i}.block{j}.kernel``. What
        cannot vary has no dim.

    Raises:
        NothingElasticError: If nothing can vary; it names the block types found.
        NotTraceableError: If the model does not run on ``inputs``, or gives no tensors.
        SpaceError: If a choice is misspelt, if a list is malformed, or for a stage that the model does not have.
    """
    if hasattr(model, "_orig_mod"):  # whose type takes seconds to import
        raise NotTraceableError("the model is compiled by torch.compile; give the module inside it, model._orig_mod")
    own = _input_spec(model, inputs)
    names = [axis.name for axis in own.axes]
    asked = check_choices(choices, besides=OPTIONS, axes=names)
    inner = [name for name, kind in DIM_KINDS.items() if kind.scope == "block"]
    for name in coupled:
        if name not in inner:
            raise SpaceError(unknown_name_message("kind of dim to couple to the depth", name, inner))
    kinds = kinds_of(model)
    for name in asked.wanted:
        if name in DIM_KINDS and name not in kinds:
            raise SpaceError(f"{name!r} does not vary in a {type(model).__name__}; it has {', '.join(kinds)}")
    candidates = {name: _candidates(name, size, asked.wanted.get(name)) for name, size in own.own.items()}
    analysis = _analyse(model, own, candidates)
    asked.check_places([name for name, _ in analysis.stages] + ["stem", "head"])
    found = _find_dims(analysis, asked, divisor)
    fallbacks = {n: kind.fallback for n, kind in kinds.items() if kind.fallback and n not in asked.wanted}
    if fallbacks and len({dim.kind for dim in found.values() if len(dim.values) > 1}) < 2:
        found = _find_dims(analysis, Choices({**asked.wanted, **fallbacks}), divisor)
    working = [_working_sizes(analysis, name, own.own[name], candidates[name], asked.wanted) for name in names]
    stages = tuple(_stage(name, blocks, found) for name, blocks in analysis.stages)
    elastic = [dim for dim in _in_order(stages, found) if len(dim.values) > 1]
    if not elastic:
        raise NothingElasticError(_nothing_elastic(analysis))
    if kernel_transforms:
        for dim in elastic:
            dim.add_transforms(analysis.modules)
    axes = (Dim(name, sizes) for name, sizes in zip(names, working, strict=True))
    space = SearchSpace((*axes, *(_space_dim(dim, stages, coupled) for dim in elastic)))
    return Supernet(model, space, stages, elastic, analysis)


def check_choices(
    given: Mapping[str, object], *, besides: Sequence[str] = (), axes: Sequence[str] = ("resolution",)
) -> Choices:
    """What :func:`elasticize` is given by name, ``None`` left out; :class:`SpaceError` names what is wrong.

    Args:
        besides: Other names that are no mistake.
        axes: Those of the inputs.
    """
    known = (*DIM_KINDS, *axes, *besides)
    wanted = {}
    for name, entries in given.items():
        if name not in known:
            raise SpaceError(unknown_name_message("elastic choice", name, known))
        if entries is not None and name not in besides:
            allowed = Allowed(whole=name != "seconds", by_place=False)
            (DIM_KINDS[name].allowed if name in DIM_KINDS else allowed).check(name, entries)
            wanted[name] = entries
    return Choices(wanted)  # type: ignore[arg-type]  # as was checked


def kinds_of(model: nn.Module) -> dict[str, type[ElasticDim]]:
    """The kinds of dims that a model can have."""
    is_stitched = isinstance(model, Stitched)
    return {name: kind for name, kind in DIM_KINDS.items() if kind.of_stitched is is_stitched}


def _find_dims(analysis: GraphAnalysis, choices: Choices, divisor: int) -> dict[str, ElasticDim]:
    """Dims by name: of streams, since others refer to them, then of stages, then of blocks."""
    found: dict[str, ElasticDim] = {}
    analysis.notes.clear()
    kinds = kinds_of(analysis.model).values()
    for kind in sorted(kinds, key=lambda kind: ("stream", "stage", "block").index(kind.scope)):
        found |= {dim.name: dim for dim in kind.find(analysis, choices, divisor, found)}
    return dims_that_run(analysis, found)


def own_size(model: nn.Module) -> tuple[int, int]:
    """Height and width of the images that a model is made for, as timm's configuration of it says."""
    _, height, width = (getattr(model, "default_cfg", None) or {}).get("input_size", (3, 224, 224))
    return int(height), int(width)


def _input_spec(model: nn.Module, given: Any) -> InputSpec:
    """Images as timm's configuration of the model says, or of 224 pixels a side, where nothing is given."""
    if given is None:
        return InputSpec.images(int(getattr(model, "in_chans", 3)), own_size(model)[1])
    if isinstance(given, InputSpec):
        return given
    inputs = Inputs.of(given)
    if not inputs.tensors:
        raise NotTraceableError(f"inputs must hold tensors, not {shown(given)}; give one sample that the model takes")
    tensors = [value for value in (*inputs.args, *inputs.kwargs.values()) if isinstance(value, Tensor) and value.ndim]
    if len(tensors) == len(inputs.tensors) and len({len(tensor) for tensor in tensors}) == 1:
        inputs = inputs.map(lambda tensor: tensor[:1])
    are_images = len(inputs.tensors) == 1 and inputs.tensors[0].ndim == 4 and inputs.tensors[0].is_floating_point()
    return InputSpec(inputs.map(lambda tensor: tensor.detach()), IMAGE_AXES if are_images else ())


def _candidates(name: str, own: float, wanted: Any) -> Sizes:
    """Sizes of an axis that were asked for; the default of images, and of other axes their own."""
    if wanted is not None:
        shares = {value: share_of(value) for value in wanted}
        sizes = {as_size(v) if (share := shares[v]) is None else max(4, round(share * own / 4) * 4) for v in wanted}
        return tuple(sorted(sizes))
    if name != "resolution":
        return (as_size(own),)
    step = max(4, int(own) // 7 // 4 * 4)
    return tuple(sorted({value for value in range(int(own) - 3 * step, int(own) + 1, step) if value > 0}))


def _analyse(model: nn.Module, own: InputSpec, candidates: Mapping[str, Sizes]) -> GraphAnalysis:
    """The model taken apart at the largest sizes that are wanted, or at its own if it takes no others."""
    failures: list[tuple[Mapping[str, float], Exception]] = []
    for sizes in ({name: max(values) for name, values in candidates.items()}, own.own):
        try:
            return GraphAnalysis.of(model, own.sized(sizes))
        # Whatever a model's code raises on such inputs is for the user to know.
        except Exception as error:
            failures.append((sizes, error))
    wanted, failure = failures[0]
    what = f"one batch of {wanted['resolution']} pixel images" if [*wanted] == ["resolution"] else repr(own.example)
    raise NotTraceableError(f"{type(model).__name__} does not run on {what}: {first_line(failure)}") from failure


def _working_sizes(
    analysis: GraphAnalysis, name: str, own: float, candidates: Sizes, asked: Mapping[str, object]
) -> Sizes:
    """Sizes of an axis that the model takes without a change of its weights.

    Of many sizes a few are tried, neighbours among them, since what fails is nearly always a size that does not divide;
    only if one of them fails, all are. Sizes that were asked for must work.
    """
    expected, spec = analysis.trace.output_shapes, analysis.inputs

    def is_as_expected(shapes: Shapes) -> bool:
        """Logits of one shape; maps and sequences may follow the size of the input."""
        return are_alike(shapes, expected) and all(a == b for a, b in zip(shapes, expected, strict=True) if len(b) < 3)

    def failure(size: float) -> str | None:
        if size == spec.own[name]:
            return None
        example = analysis.example({**spec.own, name: size})
        return failure_of(lambda: sizes_at(analysis.model, example).outputs, is_as_expected)

    middle = len(candidates) // 2
    if len(candidates) > 6 and not any(failure(candidates[i]) for i in (0, 1, middle, middle + 1)):
        return candidates
    failures = {size: message for size in candidates if (message := failure(size)) is not None}
    if failures and name in asked:
        sizes = ", ".join(map(str, failures))
        what = f"images of {sizes} pixels" if name == "resolution" else f"inputs of {name} {sizes}"
        raise SpaceError(
            f"{type(analysis.model).__name__} does not take {what} ({next(iter(failures.values()))}); its own size is "
            f"{as_size(own)}"
        )
    if failures:
        analysis.notes[name] = "the model takes images of some sizes only"
    return tuple(size for size in candidates if size not in failures)


def _stage(name: str, blocks: Sequence[Block], found: Mapping[str, ElasticDim]) -> Stage:
    """The stage with what an elastic depth could leave out: what is gone at a depth of one, the last block first."""
    whole = Stage(name, tuple(blocks), (len(blocks),))
    depth = found.get(whole.depth_name)
    if depth is None or len(depth.values) == 1:
        return whole
    removed = depth.left_out(1)
    removable = tuple(position for position in range(len(blocks) - 1, 0, -1) if blocks[position].path in removed)
    return Stage(name, tuple(blocks), tuple(map(int, depth.values)), removable)


def _in_order(stages: Sequence[Stage], found: Mapping[str, ElasticDim]) -> list[ElasticDim]:
    """Dims of streams first; then stage by stage its own, and block by block the rest."""
    places = [place for stage in stages for place in (stage.name, *(block.name for block in stage.blocks))]
    order = {place: number for number, place in enumerate(places)}
    return sorted(found.values(), key=lambda dim: -1 if dim.scope == "stream" else order[dim.name.rpartition(".")[0]])


def _space_dim(dim: ElasticDim, stages: Sequence[Stage], coupled: Sequence[str]) -> Dim:
    for stage in stages:
        for position, block in enumerate(stage.blocks):
            if dim.name.startswith(block.name + ".") and len(stage.depths) > 1:
                follows = stage.depth_name if dim.kind in coupled else None
                return Dim(dim.name, dim.values, stage.required(position), follows)
    return Dim(dim.name, dim.values)


def _nothing_elastic(analysis: GraphAnalysis) -> str:
    blocks = sorted({type(analysis.modules[block.path]).__name__ for block in analysis.all_blocks()})
    modules = sorted(
        {type(module).__name__ for module in analysis.modules.values() if any(True for _ in module.children())}
    )
    found = f"blocks of type {', '.join(blocks)}" if blocks else f"no blocks, only {', '.join(modules)}"
    reasons = sorted(set(analysis.notes.values())) or [
        reason for reason, _ in Counter(analysis.groups.reasons.values()).most_common(4)
    ]
    return f"nothing in {type(analysis.model).__name__} can be made elastic: found {found}" + (
        f" ({'; '.join(reasons[:4])})" if reasons else ""
    )
