"""Trying dims before they are offered: narrowed models and blocks run, without values, on what they are called with."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence, Set
from functools import partial
from typing import TypeAlias

import numpy as np
from torch import Tensor, nn

from ofa.inputs import tensors_in
from ofa.nn.conv import CONVOLUTIONS
from ofa.nn.layer_choice import LayerChoice
from ofa.nn.structure import clone_structure
from ofa.supernet.channels.labels import Labels
from ofa.supernet.channels.rules import flat
from ofa.supernet.channels.tracer import QuickMeta, Shape, quiet, stand_in
from ofa.supernet.dims import ElasticDim, Narrowing
from ofa.supernet.graph_analysis import GraphAnalysis
from ofa.supernet.graph_form import GraphForm, arguments, other_than_plain
from ofa.supernet.narrowing import Narrower, build
from ofa.supernet.stages import Block, common_ancestor, is_within

Shapes: TypeAlias = tuple[Shape, ...]


def shapes_in(value: object) -> Shapes:
    """Of all tensors in a pytree."""
    return tuple(tuple(tensor.shape) for tensor in tensors_in(value))


def failure_of(run: Callable[[], Shapes], is_as_expected: Callable[[Shapes], bool]) -> str | None:
    """What goes wrong when something runs that gives shapes, ``None`` if nothing does."""
    try:
        with quiet(), QuickMeta():
            shapes = run()
    # Whatever a model's code raises when its sizes do not fit is an answer here, not a fault.
    except Exception as error:
        return first_line(error)
    return None if is_as_expected(shapes) else f"the output's shape becomes {', '.join(map(str, shapes))}"


def are_alike(shapes: Shapes, expected: Shapes) -> bool:
    """Whether shapes are those of as many tensors of as many axes: all that code promises whose output has any size."""
    return list(map(len, shapes)) == list(map(len, expected))


def first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:160]


def dims_that_run(analysis: GraphAnalysis, found: dict[str, ElasticDim]) -> dict[str, ElasticDim]:
    """Dims whose subnets run: code that computes with sizes that nothing narrows shows itself here.

    All dims are tried at once in the whole model. If that fails, each block is tried alone on what it was called with;
    then depths and widths, which concern more than one block, join one by one.
    """
    check = _Check(analysis, found)
    varying = [dim for dim in found.values() if len(dim.values) > 1]
    if not varying or check.whole(varying) is None:
        return found
    blocks = {block.name: block for block in analysis.all_blocks()}
    kept: dict[str, ElasticDim] = {}
    inner: dict[str, list[ElasticDim]] = {}
    for dim in varying:
        inner.setdefault(dim.name.rpartition(".")[0], []).append(dim)
    for place, dims in inner.items():
        if place in blocks:
            kept |= {dim.name: dim for dim in check.working(blocks[place], dims)}
    if kept and (message := check.whole(list(kept.values()))) is not None:
        for name in kept:
            analysis.notes[name] = _fixed_sizes(message)
        kept = {}
    for scope in ("stage", "stream"):
        dims = [dim for dim in varying if dim.scope == scope]
        if dims and check.whole([*kept.values(), *dims]) is None:
            kept |= {dim.name: dim for dim in dims}
            continue
        for dim in dims:
            run = partial(check.whole, [*kept.values(), dim])
            message = run()
            if message is None or (scope == "stream" and check.runs_as_graphs(dim, "", run)):
                kept[dim.name] = dim
            else:
                analysis.notes[dim.name] = _fixed_sizes(message)
    return {name: kept.get(name, dim.restricted(frozenset())) for name, dim in found.items()}


def _graph_form(analysis: GraphAnalysis, path: str, whole: nn.Module) -> GraphForm | None:
    """The form of one module; ``None`` if it cannot have one.

    What runs several times has none, what has kernels that may shrink or blocks or layers that may go, or what is
    called with objects of its own kind.

    Args:
        whole: The model without values.
    """
    call, module = analysis.trace.calls.get(path), analysis.modules[path]
    blocks = [block.path for block in analysis.all_blocks()]
    holds_blocks = any(block != path and is_within(block, path) for block in blocks)
    has_kernels = any(is_within(path, block) for block in blocks) and any(
        isinstance(child, CONVOLUTIONS) and max(child.kernel_size) > 1 for child in module.modules()
    )
    holds_choice = any(isinstance(child, LayerChoice) for child in module.modules())
    if call is None or call.num_calls > 1 or has_kernels or holds_blocks or holds_choice:
        return None
    if other_than_plain(call.args, call.kwargs) is not None:
        return None
    labels: dict[str, Labels] = {}
    for source in analysis.trace.sources:
        owner, _, name = source.tensor.rpartition(".")
        if is_within(owner, path):
            shape = [1] * getattr(analysis.modules[owner], name).ndim
            shape[source.axis] = source.num
            atoms = np.arange(source.first, source.first + source.num).reshape(shape)
            own = source.tensor.removeprefix(path + ".")
            labels[own] = (*labels.get(own, ()), atoms)
    given = iter(call.inputs)
    of_inputs: dict[int | str, Labels] = {}
    for key, value in arguments(call.args, call.kwargs):
        found = [next(given)[1] for leaf in flat([value]) if isinstance(leaf, Tensor)]
        if isinstance(value, Tensor):
            of_inputs[key] = found[0]
    written = next((form.written for form in analysis.forms.values()), {})
    return GraphForm(whole.get_submodule(path), labels, of_inputs, analysis.groups, written)


def _fixed_sizes(message: str) -> str:
    return f"its code computes with fixed sizes: {message}"


class _Check:
    """Runs narrowed models and blocks without values."""

    def __init__(self, analysis: GraphAnalysis, found: Mapping[str, ElasticDim]) -> None:
        self.analysis, self.found = analysis, found
        self.model = stand_in(analysis.model, has_values=analysis.trace.has_values)
        # What looks at values seldom does so in its blocks.
        self.of_blocks = stand_in(analysis.model) if analysis.trace.has_values else self.model
        self.modules = dict(self.of_blocks.named_modules())

    def _failure(
        self,
        model: nn.Module,
        run: Callable[[Narrower, Narrowing], Shapes],
        dims: Sequence[ElasticDim],
        is_as_expected: Callable[[Shapes], bool],
        whole_groups: Set[int] = frozenset(),
    ) -> str | None:
        """What goes wrong at the smallest choice with all blocks, or at one in between with the fewest.

        What is not tried stays as it is.
        """
        groups = {n: self.analysis.groups.all[n] for dim in dims for n in dim.groups}
        narrower = Narrower(model, groups, self.analysis.forms)
        for position, depth in ((0.0, 1.0), (0.5, 0.0)):
            arch = {name: self.found[name].values[-1] for dim in dims for name in dim.reads}
            shares = {dim.name: depth if dim.scope == "stage" else position for dim in dims}
            arch |= {dim.name: dim.values[int(shares[dim.name] * (len(dim.values) - 1))] for dim in dims}
            narrowing = Narrowing.of(dims, arch)
            for number in whole_groups:
                narrowing.units.pop(number, None)
            message = failure_of(partial(run, narrower, narrowing), is_as_expected)
            if message is not None:
                return message
        return None

    def whole(self, dims: Sequence[ElasticDim]) -> str | None:
        """What goes wrong in the whole model, ``None`` if nothing does."""

        trace, example = self.analysis.trace, self.analysis.example()

        def run(narrower: Narrower, narrowing: Narrowing) -> Shapes:
            return shapes_in(example.call(build(self.model, narrower, narrowing)))

        def is_as_expected(shapes: Shapes) -> bool:
            return are_alike(shapes, trace.output_shapes) if trace.has_values else shapes == trace.output_shapes

        return self._failure(self.model, run, dims, is_as_expected)

    def block(self, block: Block, dims: Sequence[ElasticDim], whole_groups: Set[int] = frozenset()) -> str | None:
        """What goes wrong in one block, of whose channel groups some stay whole."""
        call, module = self.analysis.trace.calls.get(block.path), self.modules[block.path]
        if call is None or call.output is None:
            return "it does not run by itself"
        expected = call.output_shapes

        def run(narrower: Narrower, narrowing: Narrowing) -> Shapes:
            clones: dict[int, nn.Module] = {}
            narrowed = clone_structure(module, clones)
            narrower.narrow(narrowing, clones)
            return shapes_in(narrowed(*call.args, **call.kwargs))

        return self._failure(self.of_blocks, run, dims, expected.__eq__, whole_groups)

    def runs_as_graphs(self, dim: ElasticDim, within: str, run: Callable[[], str | None]) -> bool:
        """Whether something runs once the modules in it that hold a dim's channels do so as graphs."""
        before = dict(self.analysis.forms)
        for group in dim.members:
            owner = common_ancestor(group.modules)
            is_layer = owner in group.modules and not any(True for _ in self.modules[owner].children())
            owner = owner.rpartition(".")[0] if is_layer else owner
            while owner and owner not in self.analysis.trace.calls:  # a list of layers is in what calls them
                owner = owner.rpartition(".")[0]
            if owner not in self.analysis.forms and is_within(owner, within):
                form = _graph_form(self.analysis, owner, self.of_blocks)
                if form is not None:
                    self.analysis.forms[owner] = form
        if len(self.analysis.forms) > len(before) and run() is None:
            return True
        self.analysis.forms = before
        return False

    def working(self, block: Block, dims: Sequence[ElasticDim]) -> list[ElasticDim]:
        """Those dims of a block that run, alone and together; a dim may keep only some of its groups."""
        if self.block(block, dims) is None:
            return list(dims)
        working: list[ElasticDim] = []
        for dim in dims:
            run = partial(self.block, block, [*working, dim])
            message = run()
            if message is not None and self.runs_as_graphs(dim, block.path, run):
                message = None
            if message is not None and len(dim.groups) > 1:
                every = frozenset(dim.groups)
                good = {n for n in every if self.block(block, [*working, dim], whole_groups=every - {n}) is None}
                dim = dim.restricted(good)
                if len(dim.values) > 1:
                    message = self.block(block, [*working, dim])
            if message is None:
                working.append(dim)
            else:
                self.analysis.notes[dim.name] = _fixed_sizes(message)
        return working
