"""ONNX export for measurements: fast rather than modern."""

from __future__ import annotations

import io
import warnings

import torch
from torch import nn


def export_for_timing(module: nn.Module, input_shape: tuple[int, ...], batch: int = 1) -> bytes:
    """A module as a static ONNX graph that is timed and thrown away.

    torch's older exporter takes 15 ms for a part of a network, where the dynamo exporter, which makes what is deployed,
    takes 900 ms. Runtimes optimise both graphs into the same kernels.

    Args:
        module: In eval mode.
        input_shape: Of one input, without the batch.
    """
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # it is deprecated in favour of the slow one
        warnings.simplefilter("ignore", torch.jit.TracerWarning)  # control flow on shapes: they are static here
        torch.onnx.export(
            module,
            (torch.zeros(batch, *input_shape),),
            file,  # type: ignore[arg-type]  # the older exporter takes a file
            dynamo=False,
            opset_version=17,
            input_names=["input"],
            output_names=["output"],
        )
    return file.getvalue()


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
