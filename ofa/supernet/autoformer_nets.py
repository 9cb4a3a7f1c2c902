"""AutoFormer's networks as its released supernets are, and the choices that these were trained for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from timm.layers import trunc_normal_
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn
from torch.nn import functional

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
            block_fn=_block,  # type: ignore[arg-type]
            **settings,
        )
        self._set_grid()

    def set_input_size(self, *args: Any, **kwargs: Any) -> None:
        """As timm's; relative positions are learned for each distance and stay."""
        super().set_input_size(*args, **kwargs)
        self._set_grid()

    def _set_grid(self) -> None:
        for module in self.modules():
            if isinstance(module, RelativeAttention):
                module.set_grid(self.patch_embed.grid_size)


def _block(dim: int, num_heads: int, **settings: Any) -> nn.Module:
    """timm's block around attention of ours."""
    block = Block(dim, 1, **settings)
    block.attn = RelativeAttention(dim, num_heads)
    return block


class RelativeAttention(nn.Module):
    """Attention that sees, besides what a token is, how far above and beside another it lies.

    A learned vector for the vertical and one for the horizontal distance are added to each key and to each value. A
    product with both is the sum of two, of which one is the same for all patches of a row, one for all of a column: so
    it is taken with ``R + C`` vectors, not with one for each patch.

    Shape:
        - x: ``(N, 1 + R * C, dim)`` for ``R`` rows and ``C`` columns of patches, the class token first
        - output: the same

    References:
        Shaw et al., arXiv:1803.02155, eq. 3 and 4, here in two dimensions (AutoFormer, sec. 4.1).
    """

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = QueryKeyValue(dim, num_heads, HEAD_DIM)
        self.keys, self.values = RelativePositions(), RelativePositions()
        self.proj = nn.Linear(num_heads * HEAD_DIM, dim)

    def set_grid(self, grid: Sequence[int]) -> None:
        """Say how many rows and columns of patches there are."""
        self.grid = tuple(grid)
        self.keys.set_grid(self.grid)
        self.values.set_grid(self.grid)

    def forward(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        assert attn_mask is None and not is_causal, "a token sees all others"
        num, num_tokens, _ = x.shape
        qkv = self.qkv(x).reshape(num, num_tokens, 3, self.num_heads, HEAD_DIM)
        query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        query = query * HEAD_DIM**-0.5
        weights = (query @ key.transpose(-2, -1) + self._relative_scores(query)).softmax(dim=-1)
        found = weights @ value + self._relative_values(weights)
        return self.proj(found.transpose(1, 2).reshape(num, num_tokens, self.num_heads * HEAD_DIM))

    def _relative_scores(self, query: Tensor) -> Tensor:
        """Products of queries and positions, ``(N, heads, 1 + R * C, 1 + R * C)``."""
        of_class, of_rows, of_columns = self.keys()
        patches = query[:, :, 1:].unflatten(2, self.grid)
        rows = torch.einsum("bhrcd,rsd->bhrcs", patches, of_rows).unsqueeze(-1)
        columns = torch.einsum("bhrcd,csd->bhrcs", patches, of_columns).unsqueeze(-2)
        to_class = torch.einsum("bhrcd,kd->bhrck", patches, of_class)
        scores = torch.cat([to_class, (rows + columns).flatten(-2)], dim=-1)
        # All are as far from the class token, which adds the same to all its scores: softmax would leave it out.
        return functional.pad(scores.flatten(2, 3), (0, 0, 1, 0))

    def _relative_values(self, weights: Tensor) -> Tensor:
        """Sums of positions, as far as they are attended to, ``(N, heads, 1 + R * C, HEAD_DIM)``."""
        of_class, of_rows, of_columns = self.values()
        by_class, by_patches = weights[:, :, :1], weights[:, :, 1:]
        to_class = torch.cat([by_class.sum(dim=-1, keepdim=True), by_patches[..., :1]], dim=2)
        patches = by_patches[..., 1:].unflatten(3, self.grid).unflatten(2, self.grid)
        rows = torch.einsum("bhrcs,rsd->bhrcd", patches.sum(dim=-1), of_rows)
        columns = torch.einsum("bhrcs,csd->bhrcd", patches.sum(dim=-2), of_columns)
        return to_class * of_class + functional.pad((rows + columns).flatten(2, 3), (0, 0, 1, 0))


class RelativePositions(nn.Module):
    """A learned vector for each vertical and each horizontal distance, the first for what concerns the class token.

    Shape:
        - vertical, horizontal: ``(2 * MAX_DISTANCE + 2, HEAD_DIM)``; what lies further away counts as at that distance
        - output: for the class token ``(1, HEAD_DIM)``, from each row to each ``(R, R, HEAD_DIM)``, from each column to
          each ``(C, C, HEAD_DIM)``
    """

    rows: Tensor
    columns: Tensor

    def __init__(self) -> None:
        super().__init__()
        shape = (2 * MAX_DISTANCE + 2, HEAD_DIM)
        self.vertical, self.horizontal = nn.Parameter(torch.empty(shape)), nn.Parameter(torch.empty(shape))
        trunc_normal_(self.vertical, std=0.02)
        trunc_normal_(self.horizontal, std=0.02)

    def set_grid(self, grid: Sequence[int]) -> None:
        """Say how many rows and columns of patches there are."""
        for name, size in zip(("rows", "columns"), grid, strict=True):
            places = torch.arange(size)
            distances = (places - places.unsqueeze(1)).clamp(-MAX_DISTANCE, MAX_DISTANCE)
            self.register_buffer(name, distances + MAX_DISTANCE + 1, persistent=False)

    def forward(self) -> tuple[Tensor, Tensor, Tensor]:
        of_class = self.vertical[:1] + self.horizontal[:1]
        return of_class, self.vertical[self.rows], self.horizontal[self.columns]
