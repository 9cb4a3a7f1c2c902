"""The joint layer of attention whose bias is shared between numbers of heads in another way than its weight."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from torch import nn


class QueryKeyValue(nn.Linear):
    """Queries, keys and values of all heads in one layer; with fewer heads its bias is a prefix of the whole one.

    The weight of a head stays its own, but what is added to its keys and values begins further in front the fewer heads
    there are. AutoFormer's released supernets are trained so (arXiv:2107.00651, ``qkv_super.py`` of its code).

    Shape:
        - weight: ``(3 * num_heads * head_dim, in_features)``, as ``(3, num_heads, head_dim, in_features)``
        - bias: ``(3 * num_heads * head_dim,)``
    """

    def __init__(self, in_features: int, num_heads: int, head_dim: int) -> None:
        super().__init__(in_features, 3 * num_heads * head_dim)
        self.num_heads = num_heads

    def bias_units(self) -> npt.NDArray[np.int64]:
        """For each output, an entry of the bias that goes when its head goes: of the last heads, the last entries."""
        entries = np.arange(self.out_features).reshape(self.num_heads, 3, -1)
        return entries.transpose(1, 0, 2).ravel()
