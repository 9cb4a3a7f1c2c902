"""Programs of ``torch.export``."""

from __future__ import annotations

import io

import torch
from torch import Tensor, nn


def export_pt2(module: nn.Module, images: Tensor) -> bytes:
    """A module as a ``.pt2`` file."""
    file = io.BytesIO()
    torch.export.save(torch.export.export(module, (images,)), file)
    return file.getvalue()
