"""Elastic tensors: some channels of an axis, as a view where they are contiguous."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

MAX_RUNS = 8


@dataclass(frozen=True)
class Selection:
    """Indices of one axis that are kept, as runs ``(start, length)``.

    A prefix is one run and stays a view. The query, key and value of the first heads are three runs; they are
    concatenated, which copies. Both let gradients through to the shared tensor.
    """

    axis: int
    runs: tuple[tuple[int, int], ...]

    @classmethod
    def of(cls, axis: int, indices: npt.NDArray[np.int64]) -> Selection:
        """The runs of ascending indices."""
        breaks = np.flatnonzero(np.diff(indices) != 1) + 1
        bounds = [0, *breaks.tolist(), len(indices)]
        return cls(axis, tuple((int(indices[a]), b - a) for a, b in itertools.pairwise(bounds)))

    def take(self, tensor: Tensor) -> Tensor:
        """The kept part of a tensor."""
        if len(self.runs) == 1:
            return tensor.narrow(self.axis, *self.runs[0])
        if len(self.runs) <= MAX_RUNS:
            return torch.cat([tensor.narrow(self.axis, start, length) for start, length in self.runs], self.axis)
        indices = [index for start, length in self.runs for index in range(start, start + length)]
        return tensor.index_select(self.axis, torch.tensor(indices, device=tensor.device))
