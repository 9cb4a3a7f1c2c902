"""A module as an ONNX file that is deployed: folded, self-contained, and the same bytes each time."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from ofa.files import atomic_path
from ofa.hardware.onnx_export import export_by_dynamo, pool_instead_of_mean
from ofa.nn.structure import clone_structure, own_caches, own_tensors

INPUT, OUTPUT = "images", "logits"


def export_onnx(
    module: nn.Module, input_shape: tuple[int, ...], path: Path | str, *, dynamic_batch: bool = False
) -> Path:
    """Write a module as ONNX, through torch's dynamo exporter, and check it with onnx's checker.

    Weights are inside the file, batch normalisation and constants are folded. The input is called ``images``, the
    output ``logits``. Nothing inside tells about this machine.

    Args:
        module: In eval mode, on the CPU.
        input_shape: Of one input, without the batch: ``(C, H, W)``.
        dynamic_batch: Leave the batch free; otherwise it is 1, for which runtimes plan memory once.

    Returns:
        ``path``.

    Raises:
        ValueError: If the module is in training mode.
    """
    if module.training:
        raise ValueError("the module is in training mode; call .eval() before it is exported")
    module = clone_structure(module)
    own_tensors(module)  # contiguous: from channels-last weights the exporter makes a graph with more nodes
    own_caches(module)  # LeViT keeps attention biases for its next call; what the exporter leaves there is no tensor
    batch = 2 if dynamic_batch else 1  # what varies must not be 1 here: the exporter takes it for a constant
    model = export_by_dynamo(
        module, (batch, *input_shape), input_name=INPUT, output_name=OUTPUT, dynamic_batch=dynamic_batch
    )
    pool_instead_of_mean(model)
    with atomic_path(path) as temporary:
        temporary.write_bytes(model.SerializeToString(deterministic=True))
        _check(temporary)
    return Path(path)


def _check(path: Path) -> None:
    import onnx

    onnx.checker.check_model(path, full_check=True)
