"""AutoFormer's networks as its released supernets are, and the choices that these were trained for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from timm.layers import Attention, trunc_normal_
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from ofa.nn.query_key_value import QueryKeyValue

HEAD_DIM = 64
MAX_DISTANCE = 14


@dataclass(frozen=True, kw_only=True)
class Size:
    """One of the released supernets: its choices, ascending, and the width that its tensors are made for.

    References:
        Chen et al., AutoFormer, arXiv:2107.00651, table 1. The widths of the tensors are those of the released files.
    """

    width: tuple[int, ...]
    depth: tuple[int, ...]
    heads: tuple[int, ...]
    mlp_ratio: tuple[float, ...]
    released_width: int

    @property
    def choices(self) -> dict[str, Any]:
        """For :func:`ofa.elasticize`; hidden widths of the published spaces are multiples of 4."""
        kinds = {"width": self.width, "depth": self.depth, "heads": self.heads, "mlp_ratio": self.mlp_ratio}
        return {**kinds, "divisor": 4}

    def model(self, *, embed_dim: int | None = None, **settings: Any) -> AutoFormer:
        """The largest choice of everything, or another width."""
        return AutoFormer(embed_dim or self.width[-1], self.depth[-1], self.heads[-1], self.mlp_ratio[-1], **settings)


SIZES = {
    "autoformer_tiny": Size(
        width=(192, 216, 240), depth=(12, 13, 14), heads=(3, 4), mlp_ratio=(3.5, 4), released_width=256
    ),
    "autoformer_small": Size(
        width=(320, 384, 448), depth=(12, 13, 14), heads=(5, 6, 7), mlp_ratio=(3, 3.5, 4), released_width=448
    ),
    "autoformer_base": Size(
        width=(528, 576, 624), depth=(14, 15, 16), heads=(9, 10), mlp_ratio=(3, 3.5, 4), released_width=640
    ),
}


class AutoFormer(VisionTransformer):
    """A vision transformer with relative positions of keys and values; the mean over patches is classified.

    Shape:
        - images: ``(N, in_chans, 224, 224)``
        - output: logits ``(N, num_classes)``

    References:
        Chen et al., AutoFormer, arXiv:2107.00651, sec. 4.1. Heads have 64 channels whatever the width is.
    """

    def __init__(self, embed_dim: int, depth: int, num_heads: int, mlp_ratio: float, **settings: Any) -> None:
        super().__init__(
            patch_size=16,
            embed_dim=embed_dim,
            depth=depth,
            num_heads=num_heads,
            mlp_ratio=mlp_ratio,
            global_pool="avg",
            fc_norm=False,
            norm_layer=nn.LayerNorm,
            attn_layer=RelativeAttention,
            **settings,
        )
        self._set_grid()

    def set_input_size(self, *args: Any, **kwargs: Any) -> None:
        """As timm's; relative positions are learned for each distance and stay."""
        super().set_input_size(*args, **kwargs)
        self._set_grid()

    def _set_grid(self) -> None:
        for block in self.blocks:
            block.attn.set_grid(self.patch_embed.grid_size)


class RelativeAttention(Attention):
    """Attention that sees, besides what a token is, how far above and beside another it lies.

    A learned vector for the vertical and one for the horizontal distance are added to each key and to each value. As the
    sum of both is all that a product sees of them, it is taken with one vector for each row and one for each column of
    patches, not with one for each token; the class token counts as a row and a column of its own.

    Shape:
        - x: ``(N, 1 + R * C, dim)`` for ``R`` rows and ``C`` columns of patches, the class token first
        - output: the same

    References:
        Shaw et al., arXiv:1803.02155, eq. 3 and 4, in two dimensions as in iRPE (Wu et al., arXiv:2107.14222).
    """

    def __init__(self, dim: int, num_heads: int, **settings: Any) -> None:
        super().__init__(dim, num_heads, attn_head_dim=HEAD_DIM, **settings)
        self.qkv = QueryKeyValue(dim, num_heads, HEAD_DIM)
        self.keys, self.values = RelativePositions(), RelativePositions()

    def set_grid(self, grid: Sequence[int]) -> None:
        """Say how many rows and columns of patches there are."""
        self.grid = tuple(grid)
        rows, columns = torch.meshgrid(*map(torch.arange, self.grid), indexing="ij")
        for positions in (self.keys, self.values):
            positions.set_distances(rows.flatten(), columns.flatten(), self.grid)

    def forward(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        assert attn_mask is None and not is_causal, "patches see all others"
        num, num_tokens, _ = x.shape
        qkv = self.qkv(x).reshape(num, num_tokens, 3, self.num_heads, self.head_dim)
        query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        query = query * self.scale
        along = torch.einsum("bhnd,npd->bhnp", query, self.keys())
        weights = self.attn_drop((query @ key.transpose(-2, -1) + self._of_tokens(along)).softmax(dim=-1))
        found = weights @ value + torch.einsum("bhnp,npd->bhnd", self._of_places(weights), self.values())
        return self.proj_drop(self.proj(found.transpose(1, 2).reshape(num, num_tokens, self.attn_dim)))

    def _of_tokens(self, along: Tensor) -> Tensor:
        """From rows and columns to tokens, ``(..., 1 + R + 1 + C)`` to ``(..., 1 + R * C)``: the sum of both."""
        rows, columns = along.split([1 + size for size in self.grid], dim=-1)
        patches = rows[..., 1:].unsqueeze(-1) + columns[..., 1:].unsqueeze(-2)
        return torch.cat([rows[..., :1] + columns[..., :1], patches.flatten(-2)], dim=-1)

    def _of_places(self, weights: Tensor) -> Tensor:
        """From tokens to rows and columns, ``(..., 1 + R * C)`` to ``(..., 1 + R + 1 + C)``: sums over each."""
        of_class, patches = weights[..., :1], weights[..., 1:].unflatten(-1, self.grid)
        return torch.cat([of_class, patches.sum(dim=-1), of_class, patches.sum(dim=-2)], dim=-1)


class RelativePositions(nn.Module):
    """A learned vector for each vertical and for each horizontal distance, the first for what concerns the class token.

    Shape:
        - vertical, horizontal: ``(2 * MAX_DISTANCE + 2, HEAD_DIM)``; what lies further away counts as at that distance
        - output: ``(1 + R * C, 1 + R + 1 + C, HEAD_DIM)``, for each token the vectors of all rows, then of all columns
    """

    rows: Tensor
    columns: Tensor

    def __init__(self) -> None:
        super().__init__()
        for name in ("vertical", "horizontal"):
            table = nn.Parameter(torch.empty(2 * MAX_DISTANCE + 2, HEAD_DIM))
            self.register_parameter(name, trunc_normal_(table, std=0.02))

    def set_distances(self, rows: Tensor, columns: Tensor, grid: Sequence[int]) -> None:
        """Say in which row and column of the grid each patch is."""
        for name, own, size in (("rows", rows, grid[0]), ("columns", columns, grid[1])):
            distance = torch.arange(size) - own.unsqueeze(1)
            number = distance.clamp(-MAX_DISTANCE, MAX_DISTANCE) + MAX_DISTANCE + 1
            self.register_buffer(name, nn.functional.pad(number, (1, 0, 1, 0)), persistent=False)

    def forward(self) -> Tensor:
        return torch.cat([self.vertical[self.rows], self.horizontal[self.columns]], dim=1)
