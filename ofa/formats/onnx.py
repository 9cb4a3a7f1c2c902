"""ONNX graphs: written quickly to be timed, or as they are shipped. And what every graph needs to be fast, and to load.

A runtime refuses what is newer than itself, in two numbers: the opset, which says what operators mean, and the version
of the file format (IR). The opset is the caller's; files carry the lowest IR version that it permits, by ONNX's own
table: opset 18 with IR version 8 is read by ONNX Runtime 1.16, with 10, which the exporter writes, it is not.
"""

from __future__ import annotations

import copy
import inspect
import io
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_flatten_with_path, tree_map, tree_unflatten

from ofa.errors import OfaError, UsageError, unknown_name_message
from ofa.files import atomic_path
from ofa.formats.quiet import without_log
from ofa.inputs import Inputs, InputSpec, opened, tensors_in
from ofa.nn.structure import clone_structure, own_tensors

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto

INPUT, OUTPUT = "images", "logits"
TIMING_OPSET = 17
# The dynamo exporter's own; newer ones bring nothing for convolutional networks, and older runtimes lack them.
DYNAMO_OPSET = 18
MAX_SHAPE_BYTES = 1024  # of a constant that a shape may follow from
LEAST_OPSET = 9  # before it, weights are inputs


class OpsetError(OfaError, ValueError):
    """A graph cannot be written in an opset."""


def export_for_timing(
    module: nn.Module, inputs: tuple[int, ...] | Inputs, batch: int = 1, dtype: torch.dtype = torch.float32
) -> bytes:
    """A module as a static ONNX graph that is timed and thrown away.

    torch's older exporter takes 15 ms for a part of a network, where the dynamo exporter of :func:`to_onnx` takes
    900 ms. Runtimes optimise both graphs into the same kernels. Where the older one lacks an operator, the dynamo
    exporter makes this graph too.

    Args:
        module: In eval mode.
        inputs: Shape of the only one, without the batch; or one sample of all that it takes.
        dtype: Of weights and inputs; the module is left as it is.
    """
    if dtype != torch.float32:
        module = copy.deepcopy(module).to(dtype)
    if isinstance(inputs, Inputs):
        example = inputs.map(lambda tensor: repeated(tensor.to(dtype) if tensor.is_floating_point() else tensor, batch))
        names = _names_of(module, inputs)
    else:
        example, names = Inputs(torch.zeros(batch, *inputs, dtype=dtype)), [INPUT]
    try:
        model = _export_by_tracing(module, example, names)
    except torch.onnx.errors.OnnxExporterError:
        spec = InputSpec(inputs, ()) if isinstance(inputs, Inputs) else inputs
        return to_bytes(to_onnx(module, spec, batch=batch, dtype=dtype))
    pool_instead_of_mean(model)
    return to_bytes(model)


def repeated(tensor: Tensor, batch: int) -> Tensor:
    return tensor if batch == 1 else tensor.repeat(batch, *[1] * (tensor.ndim - 1))


def _export_by_tracing(module: nn.Module, example: Inputs, names: Sequence[str]) -> ModelProto:
    import onnx

    file = io.BytesIO()
    # Where it fails, torch writes the whole graph to the standard output; it switches that on when the export begins.
    hook = module.register_forward_pre_hook(lambda *_: torch._C._jit_set_onnx_log_enabled(False))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # it is deprecated in favour of the slow one
        warnings.simplefilter("ignore", torch.jit.TracerWarning)  # control flow on shapes: they are static here
        warnings.filterwarnings("ignore", "Constant folding", UserWarning)  # left to the runtime's own optimiser
        warnings.filterwarnings("ignore", "Exporting a model to ONNX with a batch_size", UserWarning)  # of LSTMs
        warnings.filterwarnings("ignore", "Exporting aten::index", UserWarning)  # of masks: indices are not negative
        # Weights that are standardised pass a batch norm that trains on purpose; the graph is right.
        warnings.filterwarnings("ignore", "ONNX export mode is set to TrainingMode.EVAL", UserWarning)
        try:
            torch.onnx.export(
                Flat(module, example).eval(),
                tuple(example.tensors),
                file,  # type: ignore[arg-type]  # the older exporter takes a file
                dynamo=False,
                opset_version=TIMING_OPSET,
                input_names=list(names),
                output_names=[OUTPUT] if list(names) == [INPUT] else None,
            )
        finally:
            hook.remove()
    return onnx.load_from_string(file.getvalue())


class Flat(nn.Module):
    """Tensors in, a tensor or several out.

    The exporter makes an input of every further argument that has a default, such as ``is_causal`` of attention.
    """

    def __init__(self, module: nn.Module, example: Inputs) -> None:
        super().__init__()
        self.module = module
        self._leaves, self._tree = tree_flatten((example.args, example.kwargs))

    def forward(self, *tensors: Tensor) -> Any:
        given = iter(tensors)
        leaves = [next(given) if isinstance(leaf, Tensor) else leaf for leaf in self._leaves]
        args, kwargs = tree_unflatten(leaves, self._tree)
        outputs = tensors_in(self.module(*args, **kwargs))
        return outputs[0] if len(outputs) == 1 else tuple(outputs)


def export_onnx(
    module: nn.Module,
    inputs: tuple[int, ...] | InputSpec,
    path: Path | str,
    *,
    dynamic_batch: bool = False,
    free: Sequence[str] = (),
) -> Path:
    """Write a module as ONNX, through torch's dynamo exporter, and check it with onnx's checker.

    Args:
        module: In eval mode, on the CPU.
        inputs: Shape of the only one, without the batch: ``(C, H, W)``; or all that it takes: of a subnet,
            :meth:`ofa.Supernet.inputs_for` gives them.
        dynamic_batch: Leave the batch free; otherwise it is 1, for which runtimes plan memory once.
        free: Names of further axes of the inputs that the file leaves free: ``tokens``.

    Raises:
        ValueError: If the module is in training mode, or if there is no such axis.
    """
    model = to_onnx(module, inputs, batch=None if dynamic_batch else 1, free=free)
    with atomic_path(path) as temporary:
        temporary.write_bytes(to_bytes(model))
    return Path(path)


def to_bytes(model: ModelProto) -> bytes:
    """A graph as the contents of a file, which says the lowest IR version that its opset permits."""
    import onnx

    # The versions of operators of ONNX Runtime's own are in no table, and ask for none.
    model.ir_version = onnx.helper.find_min_ir_version_for(model.opset_import, ignore_unknown=True)
    return bytes(model.SerializeToString(deterministic=True))


def opset_of(model: ModelProto) -> int:
    """Version of ONNX's own operators in a graph."""
    return next(int(entry.version) for entry in model.opset_import if entry.domain in ("", "ai.onnx"))


def opset_of_file(path: Path) -> int:
    """Of a file that is known to be an ONNX graph."""
    import onnx

    return opset_of(onnx.load(path, load_external_data=False))


def versions_text(data: bytes) -> str:
    """What a runtime must be able to read of an ONNX graph."""
    import onnx

    model = onnx.load_from_string(data)
    return f"opset {opset_of(model)}, IR version {model.ir_version}"


def check_opset(opset: int) -> None:
    """:class:`OpsetError` if there is no such opset."""
    import onnx

    newest = onnx.defs.onnx_opset_version()
    if not LEAST_OPSET <= opset <= newest:
        raise OpsetError(f"opset must be {LEAST_OPSET} to {newest}, not {opset}")


def in_opset(model: ModelProto, opset: int) -> ModelProto:
    """The same graph in another opset, through ONNX's own converter.

    Raises:
        OpsetError: If there is no such opset, or if it lacks an operator of the graph; it names the lowest that works.
    """
    import onnx

    check_opset(opset)
    own, reason = opset_of(model), ""
    for tried in range(opset, onnx.defs.onnx_opset_version() + 1):
        try:
            found = model if tried == own else onnx.version_converter.convert_version(model, tried)
        except RuntimeError as error:  # the converter's words behind those of an assertion
            reason = reason or str(error).rpartition("failed: ")[2]
            continue
        if tried == opset:
            return found
        raise OpsetError(f"the graph cannot be written in opset {opset} ({reason}); the lowest is {tried}: ask for it")
    raise OpsetError(f"the graph cannot be written in opset {opset} ({reason}); ask for {own}, which it is in")


def to_onnx(
    module: nn.Module,
    inputs: tuple[int, ...] | InputSpec,
    *,
    batch: int | None = 1,
    free: Sequence[str] = (),
    dtype: torch.dtype = torch.float32,
    input_name: str = INPUT,
    output: str = OUTPUT,
    opset: int = DYNAMO_OPSET,
) -> ModelProto:
    """A module as an ONNX graph that onnx's checker has nothing against.

    Weights are inside, batch normalisation and constants are folded. Nothing inside tells about this machine.

    Args:
        module: In eval mode, on the CPU.
        inputs: Shape of the only one without the batch; or all that the module takes, called as its arguments are.
        batch: Samples in one call; ``None`` leaves it free.
        free: Names of axes of ``inputs`` that the file leaves free: ``tokens``.
        dtype, input_name: Of the only input.
        output: Name of the output; several, and what is in a mapping, are called as they lie in it.

    Raises:
        ValueError: If the module is in training mode.
        OpsetError: See :func:`in_opset`.
    """
    import onnx

    if module.training:
        raise UsageError("the module is in training mode; call .eval() before it is exported")
    module = clone_structure(module)  # without LeViT's cached biases: what the exporter leaves there is no tensor
    own_tensors(module)  # contiguous: from channels-last weights the exporter makes a graph with more nodes
    if isinstance(inputs, InputSpec):
        example, names = inputs.with_values(inputs.own), _names_of(module, inputs.example)
        # What varies must not be 1 here: the exporter takes it for a constant.
        if inputs.is_batch:
            example = example.map(lambda tensor: repeated(tensor, 2 if batch is None else batch))
        shapes = _free_axes(inputs, free, is_batch_free=batch is None)
    else:
        example, names = Inputs(torch.zeros(batch or 2, *inputs, dtype=dtype)), [input_name]
        shapes = [{0: torch.export.Dim("batch")} if batch is None else {}]
    model = _export_by_dynamo(module, example, names, shapes, output)
    pool_instead_of_mean(model)
    model = in_opset(model, opset)
    onnx.checker.check_model(model, full_check=True)
    return model


def _names_of(module: nn.Module, inputs: Inputs) -> list[str]:
    """Of tensors: as the arguments are called that they are or lie in."""
    parameters = list(inspect.signature(module.forward).parameters)
    arguments = [*zip(parameters, inputs.args, strict=False), *inputs.kwargs.items()]
    names = []
    for name, value in arguments:
        num = len(tensors_in(value))
        names += [name] if num == 1 else [f"{name}_{index}" for index in range(num)]
    return names


def _free_axes(inputs: InputSpec, free: Sequence[str], *, is_batch_free: bool) -> list[dict[int, Any]]:
    """For each tensor the axes that the file leaves free; those of one name are equal."""
    shapes: list[dict[int, Any]] = [{} for _ in inputs.example.tensors]
    if is_batch_free and inputs.is_batch:
        for shape in shapes:
            shape[0] = torch.export.Dim("batch")
    known = {axis.name: axis for axis in inputs.axes}
    for name in free:
        if name not in known:
            raise UsageError(unknown_name_message("axis to leave free", name, known))
        sizes = [inputs.example.tensors[number].shape[dim] for number, dim in known[name].places]
        for (number, dim), size in zip(known[name].places, sizes, strict=True):
            own = name if size == sizes[0] else f"{name}_{number}_{dim}"
            shapes[number][dim] = torch.export.Dim(own)
    return shapes


def _names_of_outputs(outputs: Any, name: str) -> list[str]:
    """As they lie in a pytree; the only tensor has a name of its own."""
    found = [path for path, leaf in tree_flatten_with_path(opened(outputs))[0] if isinstance(leaf, Tensor)]
    if len(found) == 1:
        return [name]
    return ["_".join(str(getattr(key, "key", getattr(key, "idx", ""))) for key in path) for path in found]


def _export_by_dynamo(
    module: nn.Module, example: Inputs, names: Sequence[str], free: Sequence[dict[int, Any]], output: str
) -> ModelProto:
    """Through torch's dynamo exporter, and its optimiser unless that makes a graph that is not valid.

    Args:
        free: For each tensor its axes that vary.
    """
    import onnx

    with torch.no_grad():
        is_plain = list(names) == [INPUT]  # whose output needs no look
        output_names = [output] if is_plain else _names_of_outputs(example.call(module), output)
    axes = iter(free)
    args_axes, kwargs_axes = tree_map(
        lambda leaf: (next(axes) or None) if isinstance(leaf, Tensor) else None, (example.args, example.kwargs)
    )
    by_parameter = {**dict(zip(inspect.signature(module.forward).parameters, args_axes, strict=False)), **kwargs_axes}

    def export(*, optimize: bool) -> ModelProto:
        program = torch.onnx.export(
            module,
            example.args if example.kwargs else (*example.args, {}),  # a last mapping is taken for named arguments
            kwargs=example.kwargs,
            dynamo=True,
            opset_version=DYNAMO_OPSET,
            input_names=list(names),
            output_names=output_names,
            dynamic_shapes=by_parameter if any(free) else None,
            external_data=False,
            optimize=optimize,
            verbose=False,
        )
        assert program is not None
        model: ModelProto = program.model_proto
        return model

    # Traced with gradients, attention takes another kernel than where the graph is lowered, and views of its output, in
    # MaxViT for one, do not fit.
    with torch.no_grad(), without_log(), _opening(module), warnings.catch_warnings():
        # Which of its own functions torch will drop is not the caller's concern (2.11 warns, and names other packages).
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.simplefilter("ignore", FutureWarning)
        # Axes that are equal, as those of tokens and their mask, have one name.
        warnings.filterwarnings("ignore", "# The axis name", UserWarning)
        # Of what a module keeps for its next call, such as the attention biases of LeViT.
        warnings.filterwarnings("ignore", "The tensor attribute", UserWarning)
        model = export(optimize=True)
        try:
            onnx.checker.check_model(model)
        except onnx.checker.ValidationError:
            # Where one tensor is clipped several times, as Gemma 4's before queries, keys and values, the optimiser
            # gives the bounds the same names and loses all but one (microsoft/onnxscript#2079).
            model = export(optimize=False)
    graph = model.graph
    # What it notes about the source code holds this machine's paths, and makes a small file a fifth larger.
    for holder in (model, graph, *graph.node, *graph.value_info, *graph.input, *graph.output, *graph.initializer):
        holder.ClearField("metadata_props")
        holder.ClearField("doc_string")
    return model


@contextmanager
def _opening(module: nn.Module) -> Iterator[None]:
    """Let a module give mappings for dataclasses, of which the exporter knows nothing."""
    hook = module.register_forward_hook(lambda _, inputs, output: opened(output))
    try:
        yield
    finally:
        hook.remove()


def pool_instead_of_mean(model: ModelProto) -> None:
    """Write spatial means, which torch exports as ``ReduceMean``, as ``GlobalAveragePool``, in place.

    They are the same, but ONNX Runtime knows only the latter in its blocked channel layout, so that each mean (one per
    squeeze-excite) costs two reorderings less: 5 % of the latency of a small network.
    """
    import onnx

    graph = model.graph
    constants = {tensor.name: tensor for tensor in graph.initializer}
    constants |= {node.output[0]: node.attribute[0].t for node in graph.node if node.op_type == "Constant"}
    inferred = onnx.shape_inference.infer_shapes(_without_weights(model)).graph
    ranks = {value.name: len(value.type.tensor_type.shape.dim) for value in (*inferred.value_info, *inferred.input)}

    def is_spatial_mean(node: NodeProto) -> bool:
        if node.op_type != "ReduceMean":
            return False
        attributes = {each.name: onnx.helper.get_attribute_value(each) for each in node.attribute}
        axes = attributes.get("axes", [])
        if len(node.input) > 1 and node.input[1] in constants:
            axes = onnx.numpy_helper.to_array(constants[node.input[1]]).tolist()
        keeps = attributes.get("keepdims", 1) == 1
        return keeps and ranks.get(node.input[0]) == 4 and sorted(axes) in ([2, 3], [-2, -1])

    for node in graph.node:
        if is_spatial_mean(node):
            node.op_type = "GlobalAveragePool"
            del node.attribute[:]
            del node.input[1:]
    used = _names_read(graph)
    for tensor in [tensor for tensor in graph.initializer if tensor.name not in used]:
        graph.initializer.remove(tensor)


def _without_weights(model: ModelProto) -> ModelProto:
    """A copy whose large constants are inputs, to infer shapes from: a tenth of the time."""
    import onnx

    light, graph = onnx.ModelProto(), model.graph
    light.ir_version = model.ir_version
    light.opset_import.extend(model.opset_import)
    light.functions.extend(model.functions)
    light.graph.node.extend(graph.node)
    light.graph.input.extend(graph.input)
    light.graph.output.extend(graph.output)
    for tensor in graph.initializer:
        if tensor.ByteSize() < MAX_SHAPE_BYTES:
            light.graph.initializer.append(tensor)
        else:
            light.graph.input.append(onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    return light


def _names_read(graph: GraphProto) -> set[str]:
    """Of what nodes read, those in the branches of an ``If`` too."""
    names = {name for node in graph.node for name in node.input}
    return names.union(*(_names_read(attribute.g) for node in graph.node for attribute in node.attribute))
