"""Programs of ``torch.export``."""

from __future__ import annotations

import io

import torch
from torch import nn


def export_pt2(module: nn.Module, shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> bytes:
    """A module as a ``.pt2`` file; the shape is that of the input, with the batch."""
    file = io.BytesIO()
    torch.export.save(torch.export.export(module, (torch.zeros(shape, dtype=dtype),)), file)
    return file.getvalue()
