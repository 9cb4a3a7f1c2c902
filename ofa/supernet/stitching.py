"""Stitching: networks of one family that were trained apart, joined by linear layers into one supernet.

References:
    Pan et al., Stitchable Neural Networks, arXiv:2302.06586.
"""

from __future__ import annotations

import itertools
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from timm.models.mlp_mixer import MlpMixer
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn import functional

from ofa.errors import OfaError
from ofa.inputs import Inputs
from ofa.nn.structure import clone_structure

FAMILIES: Mapping[type[nn.Module], tuple[tuple[str, ...], tuple[str, ...]]] = {
    VisionTransformer: (("patch_embed", "pos_drop", "patch_drop", "norm_pre"), ("cls_token", "reg_token", "pos_embed")),
    MlpMixer: (("stem",), ()),
}
"""Models whose ``blocks`` stand in one chain: names of the modules before them, and of the bare tensors used there."""


class StitchError(OfaError, ValueError):
    """Networks cannot be stitched."""


@dataclass(frozen=True)
class Route:
    """A way through the anchors.

    Args:
        name: ``anchor0``, or ``0.3-1.4``: from block 3 of anchor 0 into block 4 of anchor 1.
        anchors: Numbers of those that it passes.
        left_out: Paths of all modules that it does not pass.
    """

    name: str
    anchors: tuple[int, ...]
    left_out: frozenset[str]


class Stitched(nn.Module):
    """Anchors, the smallest first, and a linear layer for every stitch from one to the next.

    Each anchor is ``anchor{k} = (entry, blocks, head)``, where entry and head are the anchor itself without the rest. A
    stitch leads from block ``i`` of anchor ``k`` into block ``j`` of the next, which is as deep in its network or one
    further: it is the layer ``stitch{k}.{i}-{j}``. All that a route passes, one after another, is a network.

    Deviations from SN-Net: each stitch has a layer of its own, where there neighbours share one; none leads back to a
    block that is less deep, or into the first block, which would leave out nothing of the larger anchor.

    Shape:
        - images: ``(N, C, H, W)``
        - output: ``(N, num_classes)``

    Args:
        anchors: Models of one of :data:`FAMILIES`. They are taken over (no copy).
        names: What they are called in messages.

    Raises:
        StitchError: If there are fewer than two, they are of no or of several families, their widths do not grow, or
            their blocks do not see the same grid of tokens.

    References:
        Pan et al., arXiv:2302.06586: nearest stitching, from small to large, sliding windows of two blocks.
    """

    def __init__(self, anchors: Sequence[nn.Module], names: Sequence[str] = ()) -> None:
        super().__init__()
        names = names or [f"{type(anchor).__name__} {number}" for number, anchor in enumerate(anchors)]
        _check(anchors, names)
        self.depths = tuple(len(anchor.blocks) for anchor in anchors)  # type: ignore[arg-type]
        for number, anchor in enumerate(anchors):
            self.add_module(f"anchor{number}", _cut(anchor))
            if number + 1 < len(anchors):
                width, next_width = (int(each.num_features) for each in anchors[number : number + 2])  # type: ignore[arg-type]
                ends = stitches(*self.depths[number : number + 2])
                layers = {f"{i}-{j}": nn.Linear(width, next_width) for i, j in ends}
                self.add_module(f"stitch{number}", nn.Sequential(OrderedDict(layers)))
        patches = _patches(anchors[0])
        self.in_chans = int(patches.proj.in_channels)
        self.default_cfg = {
            "input_size": (self.in_chans, *patches.img_size),
            "classifier": [f"anchor{number}.head.head" for number in range(len(anchors))],
        }

    def forward(self, images: Tensor) -> Tensor:
        """What the last anchor says.

        Everything runs, since this is what a supernet is taken apart by: one anchor after another, the stitches beside
        them. Without values each anchor has images of its own, so that none wait in memory for the anchors before.
        """
        for number, depth in enumerate(self.depths):
            anchor: Any = self.get_submodule(f"anchor{number}")
            x = anchor.entry(images)
            for i, block in zip(range(depth), anchor.blocks, strict=True):
                x = block(x)
                for start, _, layer in self.stitches_from(number):
                    if start == i:
                        layer(x)
            x = anchor.head(x)
            if x.is_meta and number + 1 < len(self.depths):
                images = x.new_empty(images.shape)
        return x

    def stitches_from(self, number: int) -> Iterator[tuple[int, int, nn.Module]]:
        """Of each stitch from an anchor: the block that it leaves, that of the next that it enters, its layer."""
        if number + 1 < len(self.depths):
            for name, layer in self.get_submodule(f"stitch{number}").named_children():
                i, j = map(int, name.split("-"))
                yield i, j, layer

    def stages(self) -> list[list[str]]:
        """Paths of the blocks of each anchor, and of the layers from it to the next."""
        found = []
        for number, depth in enumerate(self.depths):
            found.append([f"anchor{number}.blocks.{block}" for block in range(depth)])
            found.append([f"stitch{number}.{i}-{j}" for i, j, _ in self.stitches_from(number)])
        return found[:-1]

    def routes(self) -> list[Route]:
        """Each anchor alone, and each stitch."""
        every = {name for name, _ in self.named_children()}
        found = [Route(f"anchor{k}", (k,), frozenset(every - {f"anchor{k}"})) for k in range(len(self.depths))]
        for k in range(len(self.depths) - 1):
            first, stitch, second = f"anchor{k}", f"stitch{k}", f"anchor{k + 1}"
            for i, j, _ in self.stitches_from(k):
                left_out = every - {first, stitch, second}
                left_out |= {f"{first}.blocks.{block}" for block in range(i + 1, self.depths[k])} | {f"{first}.head"}
                left_out |= {f"{stitch}.{a}-{b}" for a, b, _ in self.stitches_from(k) if (a, b) != (i, j)}
                left_out |= {f"{second}.entry"} | {f"{second}.blocks.{block}" for block in range(j)}
                found.append(Route(f"{k}.{i}-{k + 1}.{j}", (k, k + 1), frozenset(left_out)))
        return found


def stitches(depth: int, next_depth: int) -> list[tuple[int, int]]:
    """``(i, j)``: from block ``i`` of an anchor into block ``j`` of the next, at the same share of their depths.

    Of equal depths ``j`` is ``i`` or ``i + 1``. Otherwise block ``i`` is taken for the block of the other that ends
    where it does, or later: ``ceil((i + 1) * next_depth / depth) - 1``.
    """
    nearest = [(i, -(-(i + 1) * next_depth // depth) - 1) for i in range(depth)]
    return [(i, j) for i, near in nearest for j in (near, near + 1) if 0 < j < next_depth]


def _check(anchors: Sequence[nn.Module], names: Sequence[str]) -> None:
    if len(anchors) < 2:
        raise StitchError(f"stitching takes two anchors or more, the smallest first, not {len(anchors)}")
    for anchor, name in zip(anchors, names, strict=True):
        if type(anchor) not in FAMILIES:
            known = ", ".join(each.__name__ for each in FAMILIES)
            raise StitchError(
                f"anchor {name!r} is a {type(anchor).__name__}; anchors are of timm's {known}, whose blocks stand in "
                "one chain and see one grid of tokens"
            )
    for (one, name), (other, other_name) in itertools.pairwise(zip(anchors, names, strict=True)):
        both = f"anchors {name!r} and {other_name!r}"
        if type(one) is not type(other):
            raise StitchError(
                f"{both} are a {type(one).__name__} and a {type(other).__name__}; stitch networks of one family"
            )
        widths: list[Any] = [one.num_features, other.num_features]
        if widths[0] >= widths[1]:
            raise StitchError(f"{both} have {widths[0]} and {widths[1]} channels; give narrower ones first")
        grids = [_grid(each) for each in (one, other)]
        if grids[0] != grids[1]:
            raise StitchError(f"{both} see {grids[0]} and {grids[1]}; stitch networks whose blocks see the same tokens")


def _patches(anchor: Any) -> Any:
    """The layer that makes tokens of images."""
    return anchor.get_submodule(FAMILIES[type(anchor)][0][0])


def _grid(anchor: nn.Module) -> str:
    """What the blocks see, in words."""
    patches, others = _patches(anchor), getattr(anchor, "num_prefix_tokens", 0)
    sides = "{}x{} tokens of {}x{} pixels".format(*patches.grid_size, *patches.img_size)
    return sides + (f" and {others} more" if others else "")


def _cut(anchor: nn.Module) -> nn.Sequential:
    """The anchor as three modules that run one after another; entry and head are itself without the rest."""
    before, tensors = FAMILIES[type(anchor)]
    blocks: Any = anchor.get_submodule("blocks")
    entry: Any = clone_structure(anchor)
    head: Any = clone_structure(anchor)
    for name, _ in anchor.named_children():
        setattr(head if name in before else entry, name, nn.Identity())
    for name in tensors:
        setattr(head, name, None)
    entry.blocks, head.blocks = nn.Sequential(), nn.Sequential()
    entry.global_pool = ""  # tokens leave it as they are
    return nn.Sequential(OrderedDict(entry=entry, blocks=blocks, head=head))


# -- where stitches begin ----------------------------------------------------------------------------------------------


@torch.no_grad()
def fit_stitches(model: Stitched, inputs: Iterable[Any]) -> None:
    """Let every stitch give, as nearly as a linear layer can, what the block that it leads into is used to, in place.

    Args:
        inputs: Batches of images; a hundred images are enough.

    References:
        Pan et al., arXiv:2302.06586: least squares. Here by the normal equations in double precision, so that batches
        are not kept.
    """
    device = next(model.parameters()).device
    squares: dict[nn.Module, Tensor] = {}
    products: dict[nn.Module, Tensor] = {}
    was_training = model.training
    model.eval()
    for batch in map(Inputs.of, inputs):
        (images,) = batch.tensors
        tokens = [_tokens(model.get_submodule(f"anchor{k}"), images.to(device)) for k in range(len(model.depths))]
        for k in range(len(tokens) - 1):
            for i, j, layer in model.stitches_from(k):
                own = functional.pad(tokens[k][i + 1].double(), (0, 1), value=1.0)  # for the bias
                squares[layer] = own.T @ own + squares.get(layer, 0)
                products[layer] = own.T @ tokens[k + 1][j].double() + products.get(layer, 0)
    model.train(was_training)
    for layer, square in squares.items():
        # On the CPU there is a method that takes channels that depend on each other.
        found = torch.linalg.lstsq(square.cpu(), products[layer].cpu(), driver="gelsd").solution
        layer.get_parameter("weight").copy_(found[:-1].T)
        layer.get_parameter("bias").copy_(found[-1])


def _tokens(anchor: Any, images: Tensor) -> list[Tensor]:
    """What enters the first block, and what leaves each, as ``(tokens, channels)``."""
    x = anchor.entry(images)
    found = [x]
    for block in anchor.blocks:
        x = block(x)
        found.append(x)
    return [each.flatten(0, 1) for each in found]
