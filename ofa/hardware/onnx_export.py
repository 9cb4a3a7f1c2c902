"""ONNX export for measurements: fast rather than modern. And what every graph needs to be fast on ONNX Runtime."""

from __future__ import annotations

import io
import warnings
from typing import TYPE_CHECKING

import torch
from torch import nn

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto


def export_for_timing(module: nn.Module, input_shape: tuple[int, ...], batch: int = 1) -> bytes:
    """A module as a static ONNX graph that is timed and thrown away.

    torch's older exporter takes 15 ms for a part of a network, where the dynamo exporter, which makes what is deployed,
    takes 900 ms. Runtimes optimise both graphs into the same kernels.

    Args:
        module: In eval mode.
        input_shape: Of one input, without the batch.
    """
    import onnx

    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # it is deprecated in favour of the slow one
        warnings.simplefilter("ignore", torch.jit.TracerWarning)  # control flow on shapes: they are static here
        warnings.filterwarnings("ignore", "Constant folding", UserWarning)  # left to the runtime's own optimiser
        torch.onnx.export(
            module,
            (torch.zeros(batch, *input_shape),),
            file,  # type: ignore[arg-type]  # the older exporter takes a file
            dynamo=False,
            opset_version=17,
            input_names=["input"],
            output_names=["output"],
        )
    model = onnx.load_from_string(file.getvalue())
    pool_instead_of_mean(model)
    return model.SerializeToString(deterministic=True)


def pool_instead_of_mean(model: ModelProto) -> None:
    """Write spatial means, which torch exports as ``ReduceMean``, as ``GlobalAveragePool``, in place.

    They are the same, but ONNX Runtime knows only the latter in its blocked channel layout, so that each mean (one per
    squeeze-excite) costs two reorderings less: 5 % of the latency of a small network.
    """
    import onnx

    graph = model.graph
    constants = {tensor.name: tensor for tensor in graph.initializer}
    constants |= {node.output[0]: node.attribute[0].t for node in graph.node if node.op_type == "Constant"}
    inferred = onnx.shape_inference.infer_shapes(model).graph
    ranks = {value.name: len(value.type.tensor_type.shape.dim) for value in (*inferred.value_info, *inferred.input)}

    def is_spatial_mean(node: NodeProto) -> bool:
        if node.op_type != "ReduceMean":
            return False
        attributes = {attribute.name: attribute for attribute in node.attribute}
        if "axes" in attributes:
            axes = list(attributes["axes"].ints)
        elif len(node.input) > 1 and node.input[1] in constants:
            axes = onnx.numpy_helper.to_array(constants[node.input[1]]).tolist()
        else:
            return False
        keeps = "keepdims" not in attributes or attributes["keepdims"].i == 1
        return keeps and ranks.get(node.input[0]) == 4 and sorted(axes) in ([2, 3], [-2, -1])

    for node in graph.node:
        if is_spatial_mean(node):
            node.op_type = "GlobalAveragePool"
            del node.attribute[:]
            del node.input[1:]
    used = {name for node in graph.node for name in node.input}
    for tensor in [tensor for tensor in graph.initializer if tensor.name not in used]:
        graph.initializer.remove(tensor)


def empty_graph() -> bytes:
    """A graph that does nothing: what one call of the runtime costs."""
    return export_for_timing(nn.Identity(), (3, 8, 8))


def anchor_graph() -> bytes:
    """One convolution of about 10 million multiply-accumulates, timed again and again to notice a changed machine."""
    convolution = torch.nn.utils.skip_init(nn.Conv2d, 32, 32, 3, padding=1)  # skips the draw from the global seed
    with torch.no_grad():
        for parameter in convolution.parameters():
            parameter.fill_(0.01)
    return export_for_timing(convolution.eval(), (32, 32, 32))
