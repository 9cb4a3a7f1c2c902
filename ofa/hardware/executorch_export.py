"""ExecuTorch programs for its XNNPACK kernels."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from ofa.hardware.runtimes.executorch import EXTRA
from ofa.hardware.runtimes.session import require


def export_executorch(module: nn.Module, shape: tuple[int, ...]) -> bytes:
    """A module as a ``.pte`` program, all that XNNPACK knows delegated to it.

    Args:
        module: In eval mode, on the CPU.
        shape: Of the input, with the batch.

    Raises:
        NotInstalledError: If ExecuTorch is not there.
    """
    with _quiet(), torch.random.fork_rng(devices=[]):  # it draws numbers
        exir = require("executorch.exir", EXTRA)
        partitioners = require("executorch.backends.xnnpack.partition.xnnpack_partitioner", EXTRA)
        program = torch.export.export(module, (torch.zeros(shape),), strict=False)
        lowered = exir.to_edge_transform_and_lower(
            program,
            partitioner=[partitioners.XnnpackPartitioner()],
            compile_config=exir.EdgeCompileConfig(_check_ir_validity=False),  # two thirds of the time
        )
        data: bytes = lowered.to_executorch().buffer
    return bytes(data)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what the exporters note about themselves."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
