"""Rules of operations against brute force.

Each operation runs twice: without values, while its rule labels the output, and with random values, of which one index
of one axis after another is disturbed. What changes in the output is compared with the labels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from ofa.supernet.channels.labels import FIXED, Labels
from ofa.supernet.channels.rules import RULES
from ofa.supernet.channels.tracer import Tracer, _Functions, quiet

aten = torch.ops.aten

Operation = Callable[..., Any]
Shape = tuple[int, ...]


def row(
    name: str, operation: Operation, *shapes: Shape, free: str, fixed: str = "", weights: str = "", mixes: str = ""
) -> Any:
    """One operation.

    Args:
        shapes: Of the tensors x, y, z, ... that it takes.
        free: Axes such as ``x1 y0`` whose channels can be narrowed afterwards.
        fixed: Axes that must stay. Axes of size 1 and those of which nothing is said are in neither list.
        weights: Letters of tensors of which, as of a convolution's weight, only two axes are followed.
        mixes: Axes along which an element of the output sees other channels, though it belongs to one.
    """
    return pytest.param(operation, shapes, free.split(), fixed.split(), weights, mixes.split(), id=name)


def shuffle(x: Tensor) -> Tensor:
    return x.view(1, 2, 3, 4).transpose(1, 2).reshape(1, 6, 4)


MAP, TOKENS, VOLUME = (1, 6, 4, 4), (1, 5, 6), (1, 3, 4, 4, 4)
INDEX = torch.tensor([2, 0, 1])
BAGS = torch.tensor([0, 1])
ENDS = torch.tensor([2, 4], dtype=torch.int32)


def written_in_part(x: Tensor) -> Tensor:
    ones = torch.ones(6, device=x.device)
    ones[:2].mul_(2)
    return x + ones


def copied_into_zeros(x: Tensor, y: Tensor, z: Tensor) -> Tensor:
    both = x.new_zeros(1, 5, 6)
    both[..., :3] = x
    both[..., 3:] = y
    return both + z


def constant(values: Tensor, like: Tensor) -> Tensor:
    return values.to(like.device)


ROWS = [
    # copies and constants
    row("clone", lambda x: x.clone(), TOKENS, free="x1 x2"),
    row("detach", lambda x: x.detach() * 2, TOKENS, free="x1 x2"),
    row("to_copy", lambda x: x.to(torch.float32), TOKENS, free="x1 x2"),
    row("channels_last", lambda x: x.contiguous(memory_format=torch.channels_last), MAP, free="x1 x2 x3"),
    row("like", lambda x: x + torch.zeros_like(x) + torch.ones_like(x), TOKENS, free="x1 x2"),
    row("full_like", lambda x: x + torch.full_like(x, 2.0) + torch.empty_like(x).fill_(3.0), TOKENS, free="x1 x2"),
    row("zeroed", lambda x: x + x.clone().zero_(), TOKENS, free="x1 x2"),
    row("new", lambda x: x * x.new_ones(1, 1, 6) + x.new_full((1, 1, 1), 2.0), TOKENS, free="x1 x2"),
    row("zeros", lambda x: x + x.new_zeros(5, 1), TOKENS, free="x1 x2"),
    row("arange", lambda x: x + torch.arange(6.0, device=x.device), TOKENS, free="x1", fixed="x2"),
    row("linspace", lambda x: x * torch.linspace(1, 2, 6, device=x.device), TOKENS, free="x1", fixed="x2"),
    row("copied_into", lambda x: x.new_empty(1, 5, 6).copy_(x), TOKENS, free="", fixed="x1 x2"),
    row("lifted", lambda x: aten.lift_fresh(aten.alias(x)), TOKENS, free="x1 x2"),
    row("dropout", lambda x: aten.native_dropout(x, 0.5, False), TOKENS, free="x1 x2"),
    row("ones", lambda x: x + torch.ones(5, 1, device=x.device) * torch.zeros(1, 1, device=x.device), TOKENS,
        free="x1 x2"),
    row("full", lambda x: x + torch.full((6,), 2.0, device=x.device), TOKENS, free="x1 x2"),
    row("written_later", lambda x: x + torch.zeros(6, device=x.device).fill_(1), TOKENS, free="x1", fixed="x2"),
    row("written_in_part", written_in_part, TOKENS, free="x1", fixed="x2"),
    row("expanded", lambda x, y: x + y.expand(4, 5, 6).reshape(20, 6).unflatten(0, (4, 5)), (1, 4, 5, 6), (5, 1),
        free="x1 x2 x3 y0"),
    row("repeated_over_heads", lambda x, y: (x.view(2, 3, 4) + y.repeat(2, 1, 1)).view(6, 4), (6, 4), (1, 1, 4),
        free="x0 x1 y2"),
    row("copied_into_zeros", copied_into_zeros, (1, 5, 3), (1, 5, 3), TOKENS, free="x1 x2 y1 y2 z1 z2"),
    row("sum_of_alike", lambda x: x + torch.ones(6, 1, device=x.device).mul(3).add(torch.zeros(4, device=x.device)),
        (6, 4), free="x0 x1"),
    row("unlike_sum", lambda x: x + torch.ones(6, device=x.device) * torch.arange(6.0, device=x.device), TOKENS,
        free="x1", fixed="x2"),
    row("eye", lambda x: x * (1 + torch.eye(5, 6, device=x.device)), TOKENS, free="", fixed="x1 x2"),
    row("empty_strided", lambda x: x + x.new_empty_strided((6,), (1,)).zero_(), TOKENS, free="x1", fixed="x2"),
    row("scalar", lambda x: x * torch.scalar_tensor(2.0, device=x.device), TOKENS, free="x1 x2"),
    # elementwise
    row("activations", lambda x: functional.gelu(functional.silu(x)).tanh() + x.sigmoid(), TOKENS, free="x1 x2"),
    row("hard", lambda x: functional.hardswish(x) + functional.hardsigmoid(x) + functional.hardtanh(x), TOKENS,
        free="x1 x2"),
    row("soft", lambda x: functional.elu(x) + functional.leaky_relu(x) + functional.mish(x), TOKENS, free="x1 x2"),
    row("in_place", lambda x: functional.hardswish(functional.leaky_relu_(x.clone()), True).add_(1), TOKENS,
        free="x1 x2"),
    row("added", lambda x, y: x + y, TOKENS, TOKENS, free="x1 x2 y1 y2"),
    row("broadcast", lambda x, y: x * y, TOKENS, (6,), free="x1 x2 y0"),
    row("broadcast_axis", lambda x, y: x * y, TOKENS, (5, 1), free="x1 x2 y0"),
    row("blended", lambda x, y, z: torch.where(x > 0, y, z), TOKENS, TOKENS, TOKENS, free="x1 x2 y1 y2 z1 z2"),
    row("masked", lambda x: x.masked_fill(x > 0, 1.0) * 2, TOKENS, free="x1 x2"),
    row("prelu", functional.prelu, MAP, (6,), free="x1 x2 x3 y0"),
    row("prelu_of_one", functional.prelu, MAP, (1,), free="x1 x2 x3"),
    # moving data
    row("view_merge", lambda x: x.view(1, 5, 24), (1, 5, 6, 4), free="x1 x2", fixed="x3"),
    row("view_split", lambda x: x.view(1, 5, 2, 3), TOKENS, free="x1 x2"),
    row("shuffled", shuffle, (1, 6, 4), free="x1 x2"),
    row("permute", lambda x: x.permute(2, 0, -2), TOKENS, free="x1 x2"),
    row("transpose", lambda x: x.transpose(-1, 1), TOKENS, free="x1 x2"),
    row("matrix_transpose", lambda x: x.t(), (5, 6), free="x0 x1"),
    row("expand", lambda x: x.expand(2, 3, -1, 6), TOKENS, free="x1 x2"),
    row("reshape_alias", lambda x: aten._reshape_alias(x, (1, 5, 2, 3), (30, 6, 3, 1)), TOKENS, free="x1 x2"),
    row("unsqueeze", lambda x: x.unsqueeze(-1).unsqueeze(0), TOKENS, free="x1 x2"),
    row("squeeze", lambda x: x.squeeze(0).unsqueeze(1).squeeze(), TOKENS, free="x1 x2"),
    row("squeeze_axes", lambda x: x.unsqueeze(-1).squeeze((0, -1)), TOKENS, free="x1 x2"),
    row("select", lambda x: x[:, 0], TOKENS, free="x2"),
    row("slice", lambda x: x[:, 1:4, ::2], TOKENS, free="x1 x2"),
    row("split", lambda x: x.split([2, 4], 2), TOKENS, free="x1 x2"),
    row("split_equally", lambda x: x.split(3, -1), TOKENS, free="x1 x2"),
    row("unsafe_split", lambda x: aten.unsafe_split(x, 3, 2), TOKENS, free="x1 x2"),
    row("unsafe_split_at", lambda x: aten.unsafe_split_with_sizes(x, [2, 4], 2), TOKENS, free="x1 x2"),
    row("chunk", lambda x: x.chunk(2, -1), TOKENS, free="x1 x2"),
    row("unbind", lambda x: x.view(1, 5, 2, 3).unbind(2), TOKENS, free="x1 x2"),
    row("unbound_one_by_one", lambda x: x.unbind(1), TOKENS, free="x2", fixed="x1"),
    row("gate", lambda x: functional.glu(x, 2), TOKENS, free="x1 x2"),
    row("cat", lambda x, y: torch.cat([x, y], 2), TOKENS, (1, 5, 3), free="x1 x2 y1 y2"),
    row("cat_with_constant", lambda x: torch.cat([x, x.new_ones(1, 5, 2)], -1), TOKENS, free="x1 x2"),
    row("cat_with_numbers", lambda x: torch.cat([x, torch.arange(5.0, device=x.device).view(1, 5, 1)], -1), TOKENS,
        free="x2", fixed="x1"),
    row("cat_with_alike", lambda x, y: torch.cat([x, x.new_zeros(1, 5, 2)], -1) + y, TOKENS, (1, 5, 8),
        free="x1 x2 y1 y2"),
    row("stack", lambda x, y: torch.stack([x, y], -2), TOKENS, TOKENS, free="x1 x2 y1 y2"),
    row("index", lambda x: x[:, constant(INDEX, x)], TOKENS, free="x2", fixed="x1"),
    row("index_by_two", lambda x: x[0, constant(INDEX, x), constant(INDEX, x)], (2, 5, 6, 4), free="x3", fixed="x1 x2"),
    row("index_select", lambda x: x.index_select(2, constant(INDEX, x)), TOKENS, free="x1", fixed="x2"),
    row("gather", lambda x: x.gather(1, constant(INDEX, x).view(1, 3, 1).expand(-1, -1, 6)), TOKENS, free="x2",
        fixed="x1"),
    row("gather_fewer", lambda x: x.gather(1, constant(INDEX, x).view(1, 3, 1).expand(-1, -1, 2)), TOKENS, free="",
        fixed="x1 x2"),
    row("index_put", lambda x, y: x.index_put((constant(INDEX, x),), y), (5, 6), (3, 6), free="x1 y1", fixed="x0 y0"),
    row("index_put_in_zeros", lambda x: torch.zeros(5, 6, dtype=x.dtype, device=x.device).index_put_((constant(INDEX,
        x),), x), (3, 6), free="x1", fixed="x0"),
    row("index_add", lambda x, y: x.index_add(0, constant(INDEX, x), y), (5, 6), (3, 6), free="x1 y1", fixed="x0 y0"),
    row("bags", lambda x: aten._embedding_bag(x, constant(INDEX, x), constant(BAGS, x))[0]
        + aten._embedding_bag_forward_only(x, constant(INDEX, x), constant(BAGS, x))[0], (5, 6), free="x1", fixed="x0"),
    row("packed", lambda x: aten._pack_padded_sequence(x, torch.tensor([5, 3]), True)[0], (2, 5, 6), free="x2",
        fixed="x0 x1"),
    row("embedding", lambda x: functional.embedding(constant(INDEX, x), x), (5, 6), free="x1", fixed="x0"),
    row("pad", lambda x: functional.pad(x, (1, 2, 0, 0, 2, 1)), (1, 6, 4, 3), free="x1 x2 x3"),
    row("pad_less", lambda x: functional.pad(x, (-1, 0)), TOKENS, free="x1 x2"),
    row("reflect", lambda x: functional.pad(x, (1, 1, 1, 1), mode="reflect"), MAP, free="x1", fixed="x2 x3"),
    row("replicate", lambda x: functional.pad(x, (1, 1, 1, 1), mode="replicate"), MAP, free="x1", fixed="x2 x3"),
    row("repeat", lambda x: x.repeat(2, 1, 1, 2), TOKENS, free="x1 x2"),
    row("repeat_interleave", lambda x: x.repeat_interleave(2, 2), TOKENS, free="x1 x2"),
    row("roll", lambda x: x.roll(2, 1), TOKENS, free="x2", fixed="x1"),
    row("flip", lambda x: x.flip(-1), TOKENS, free="x1 x2"),
    row("windows", lambda x: x.unfold(1, 3, 2), TOKENS, free="x2", fixed="x1"),
    row("patches", lambda x: functional.unfold(x, 2), MAP, free="x1", fixed="x2 x3"),
    row("pixel_shuffle", lambda x: functional.pixel_shuffle(x, 2), (1, 8, 3, 3), free="x1", fixed="x2 x3"),
    row("pixel_unshuffle", lambda x: functional.pixel_unshuffle(x, 2), (1, 3, 4, 4), free="x1", fixed="x2 x3"),
    row("fold", lambda x: functional.fold(x, (4, 4), 2, stride=2), (1, 8, 4), free="x1", fixed="x2"),
    row("fold_to_one_channel", lambda x: functional.fold(x, (4, 4), 2, stride=2), (1, 4, 4), free="", fixed="x1 x2"),
    row("turned", lambda x: torch.view_as_real(torch.view_as_complex(x.view(5, 3, 2)) * 1j).flatten(1), (5, 6),
        free="x0 x1"),
    row("as_strided", lambda x: x.as_strided(x.shape, x.stride()), TOKENS, free="x1 x2"),
    row("as_strided_otherwise", lambda x: x.as_strided((1, 6, 5), (30, 5, 1)), TOKENS, free="", fixed="x1 x2"),
    # reductions
    row("mean", lambda x: x.mean((2, 3)), MAP, free="x1 x2 x3"),
    row("sum", lambda x: x.sum(1, keepdim=True), MAP, free="x1 x2 x3"),
    row("sum_of_all", lambda x: x.sum(), MAP, free="x1 x2 x3"),
    row("sum_within_heads", lambda x: x.view(1, 5, 2, 3).sum(-1), TOKENS, free="x1 x2"),
    row("amax", lambda x: x.amax((2, 3)) + x.amin((2, 3)), MAP, free="x1 x2 x3"),
    row("max", lambda x: x.max(-1)[0] + x.min(-1)[0], TOKENS, free="x1 x2"),
    row("logsumexp", lambda x: x.logsumexp(1), TOKENS, free="x1 x2"),
    row("deviation", lambda x: x.std(2) + x.var(2), TOKENS, free="x1 x2"),
    row("deviation_of_all", lambda x: x.var(), TOKENS, free="x1 x2"),
    row("deviation_and_mean", lambda x: [*torch.var_mean(x, 1), *torch.std_mean(x, 2)], TOKENS, free="x1 x2"),
    row("norm", lambda x: x.norm(dim=-1) + torch.linalg.vector_norm(x, dim=-1), TOKENS, free="x1 x2"),
    row("norm_operator", lambda x: aten.norm.ScalarOpt_dim(x, 2, [1], True), TOKENS, free="x1 x2"),
    row("softmax", lambda x: x.softmax(-1) + x.log_softmax(-1), TOKENS, free="x1 x2", mixes="x2"),
    row("softmax_within_heads", lambda x: x.view(1, 5, 2, 3).softmax(-1), TOKENS, free="x1 x2"),
    row("cumulative_sum", lambda x: x.cumsum(2), TOKENS, free="x1 x2", mixes="x2"),
    row("sort", lambda x: x.sort(2)[0], TOKENS, free="x1", fixed="x2"),
    row("topk", lambda x: x.topk(3, 2)[0], TOKENS, free="x1", fixed="x2"),
    row("safe_softmax", lambda x: aten._safe_softmax(x, -1), TOKENS, free="x1 x2", mixes="x2"),
    row("weight_norm", lambda x, y: aten._weight_norm_interface(x, y, 0)[0], (5, 6), (5, 1), free="x0 x1 y0",
        mixes="x1"),
    # normalisation
    row("layer_norm", lambda x, y, z: functional.layer_norm(x, (6,), y, z), TOKENS, (6,), (6,), free="x1 x2 y0 z0",
        mixes="x2"),
    row("layer_norm_without_weights", lambda x: functional.layer_norm(x, (6,)), TOKENS, free="x1", fixed="x2"),
    row("layer_norm_of_heads", lambda x, y: functional.layer_norm(x.view(1, 5, 2, 3), (3,), y), TOKENS, (3,),
        free="x1 x2", fixed="y0"),
    row("rms_norm", lambda x, y: functional.rms_norm(x, (6,), y), TOKENS, (6,), free="x1 x2 y0", mixes="x2"),
    row("group_norm", lambda x, y, z: functional.group_norm(x, 3, y, z), MAP, (6,), (6,), free="x1 x2 x3 y0 z0",
        mixes="x2 x3"),
    row("one_group", lambda x, y: functional.group_norm(x, 1, y), MAP, (6,), free="x1 x2 x3 y0", mixes="x1 x2 x3"),
    row("group_norm_without_weights", lambda x: functional.group_norm(x, 3), MAP, free="x2 x3", fixed="x1",
        mixes="x2 x3"),
    row("batch_norm", lambda x, y, z: functional.batch_norm(x, y, z.exp(), z, y), MAP, (6,), (6,),
        free="x1 x2 x3 y0 z0"),
    row("batch_norm_operator",
        lambda x, y: aten._native_batch_norm_legit_no_training(x, y, y, y, y.exp(), 0.1, 1e-5)[0], MAP, (6,),
        free="x1 x2 x3 y0"),
    row("instance_norm", lambda x, y: functional.instance_norm(x, weight=y), (2, 6, 4, 4), (6,), free="x0 x2 x3 y0",
        fixed="x1", mixes="x0 x2 x3 y0"),
    # spatial
    row("avg_pool", lambda x: functional.avg_pool2d(x, 2), MAP, free="x1", fixed="x2 x3"),
    row("avg_pool_of_one_axis", lambda x: functional.avg_pool1d(x, 2), (1, 6, 4), free="x1", fixed="x2"),
    row("max_pool", lambda x: functional.max_pool2d(x, 2), MAP, free="x1", fixed="x2 x3"),
    row("unpooled", lambda x: functional.max_unpool2d(*functional.max_pool2d(x, 2, return_indices=True), 2), MAP,
        free="x1", fixed="x2 x3"),
    row("unpooled_volumes", lambda x: functional.max_unpool3d(*functional.max_pool3d(x, 2, return_indices=True), 2),
        VOLUME, free="x1", fixed="x2 x3 x4"),
    row("adaptive", lambda x: functional.adaptive_avg_pool2d(x, 2) + functional.adaptive_max_pool2d(x, 2), MAP,
        free="x1", fixed="x2 x3"),
    row("global", lambda x: functional.adaptive_avg_pool2d(x, 1), MAP, free="x1 x2 x3"),
    row("pools_of_volumes", lambda x: functional.avg_pool3d(x, 2) + functional.max_pool3d(x, 2), VOLUME,
        free="x1", fixed="x2 x3 x4"),
    row("adaptive_of_volumes", lambda x: functional.adaptive_avg_pool3d(x, 2) + functional.adaptive_max_pool3d(x, 2),
        VOLUME, free="x1", fixed="x2 x3 x4"),
    row("resized_steps", lambda x: functional.interpolate(x, 8, mode="linear") + functional.interpolate(x, 8),
        (1, 6, 4), free="x1", fixed="x2"),
    row("resized_volumes", lambda x: functional.interpolate(x, 8, mode="trilinear") + functional.interpolate(x, 8),
        VOLUME, free="x1", fixed="x2 x3 x4"),
    row("padded_steps", lambda x: functional.pad(x, (1, 1), mode="reflect") + functional.pad(x, (1, 1),
        mode="replicate"), (1, 6, 4), free="x1", fixed="x2"),
    row("padded_volumes", lambda x: functional.pad(x, (1,) * 6, mode="reflect") + functional.pad(x, (1,) * 6,
        mode="replicate"), VOLUME, free="x1", fixed="x2 x3 x4"),
    row("nearest", lambda x: functional.interpolate(x, scale_factor=2), MAP, free="x1", fixed="x2 x3"),
    row("bilinear", lambda x: functional.interpolate(x, size=(6, 2), mode="bilinear"), MAP, free="x1", fixed="x2 x3"),
    row("bicubic", lambda x: functional.interpolate(x, size=6, mode="bicubic"), MAP, free="x1", fixed="x2 x3"),
    row("antialias", lambda x: functional.interpolate(x, size=3, mode="bicubic", antialias=True)
        + functional.interpolate(x, size=3, mode="bilinear", antialias=True), MAP, free="x1", fixed="x2 x3"),
    # contractions
    row("mm", lambda x, y: x @ y, (5, 6), (6, 4), free="x0 x1 y0 y1"),
    row("mm_with_constant", lambda x: x @ x.new_ones(6, 3), (5, 6), free="x0 x1"),
    row("mm_with_numbers", lambda x: x @ torch.arange(18, dtype=x.dtype, device=x.device).view(6, 3), (5, 6), free="x0",
        fixed="x1"),
    row("mv", lambda x, y: torch.mv(x, y), (5, 6), (6,), free="x0 x1 y0"),
    row("dot", lambda x, y: torch.dot(x, y) + torch.vdot(y, x), (6,), (6,), free="x0 y0"),
    row("bmm", lambda x, y: x @ y, (3, 5, 6), (3, 6, 4), free="x0 x1 x2 y0 y1 y2"),
    row("baddbmm", lambda x, y, z: torch.baddbmm(z, x, y), (3, 5, 6), (3, 6, 4), (4,),
        free="x0 x1 x2 y0 y1 y2 z0"),
    row("grouped", lambda x, y: torch._grouped_mm(x.bfloat16(), y.bfloat16(), offs=constant(ENDS, x)).float(), (4, 8),
        (2, 8, 8), free="x0 x1 y1 y2", fixed="y0"),
    row("linear", functional.linear, TOKENS, (4, 6), (4,), free="x1 x2 y0 y1 z0"),
    row("scores_of_heads", lambda x, y: x.view(5, 2, 3).transpose(0, 1) @ y.view(5, 2, 3).permute(1, 2, 0), (5, 6),
        (5, 6), free="x0 x1 y0 y1"),
    row("one_matrix_for_all_heads", lambda x, y: x.view(1, 2, 3) @ y, (1, 6), (3, 4), free="x1 y1", fixed="y0"),
    row("convolution", lambda x, y, z: functional.conv2d(x, y, z, padding=1), MAP, (8, 6, 3, 3), (8,),
        free="x1 y0 y1 z0", fixed="x2 x3", weights="y"),
    row("strided_sequence", lambda x, y: functional.conv1d(x, y, stride=2), (1, 6, 5), (8, 6, 2), free="x1 y0 y1",
        fixed="x2", weights="y"),
    row("window_of_one", lambda x, y: functional.conv1d(x, y), (1, 6, 5), (8, 6, 1), free="x1 x2 y0 y1", weights="y"),
    row("depthwise", lambda x, y: functional.conv2d(x, y, groups=6), MAP, (6, 1, 3, 3), free="x1 y0", fixed="x2 x3",
        weights="y"),
    row("groups", lambda x, y: functional.conv2d(x, y, groups=3), MAP, (9, 2, 3, 3), free="x1 y0", fixed="x2 x3 y1",
        weights="y"),
    row("transposed", lambda x, y: functional.conv_transpose2d(x, y, stride=2), MAP, (6, 8, 2, 2), free="x1 y0 y1",
        fixed="x2 x3", weights="y"),
    row("transposed_in_groups", lambda x, y: functional.conv_transpose2d(x, y, groups=3), MAP, (6, 2, 2, 2), free="",
        fixed="x1 x2 x3 y0 y1", weights="y"),
    row("kernel_without_channels", lambda x, y: functional.conv2d(x, y), (1, 1, 4, 4), (6, 1, 2, 2), free="y0",
        fixed="x2 x3", weights="y"),
    row("computed_kernel", lambda x, y: functional.conv2d(x, y.view(8, 6, 2, 2)), MAP, (192,), free="",
        fixed="x1 y0"),
    # what no rule knows
    row("unknown", lambda x: torch.linalg.matrix_exp(x), (1, 4, 4), free="", fixed="x1 x2"),
]  # fmt: skip


def outputs_of(result: Any) -> list[Tensor]:
    return [result] if isinstance(result, Tensor) else list(result)


class Followed:
    """An operation that ran without values."""

    def __init__(self, operation: Operation, shapes: Sequence[Shape], weights: str) -> None:
        self.tensors = {letter: torch.empty(shape, device="meta") for letter, shape in zip("xyz", shapes, strict=False)}
        self.tracer = Tracer(self.tensors, set(weights))
        for tensor in self.tensors.values():
            self.tracer.labels(tensor)
        with quiet(), _Functions(self.tracer.on_chunks), self.tracer:
            self.outputs = outputs_of(operation(*self.tensors.values()))
        self.group = list(range(self.tracer.graph.num_atoms))
        for first, second in self.tracer.graph.edges:
            for a, b in zip(first.tolist(), second.tolist(), strict=True):
                one, other = sorted((self.find(a), self.find(b)))
                self.group[other] = one

    def find(self, atom: int) -> int:
        while self.group[atom] != atom:
            atom = self.group[atom]
        return atom

    def channels(self) -> Mapping[str, list[int]]:
        """Axis such as ``x1`` -> what each of its indices is tied to."""
        return {
            f"{source.tensor}{source.axis}": [self.find(source.first + i) for i in range(source.num)]
            for source in self.tracer.sources
        }

    def belongs(self, output: Tensor) -> list[Tensor]:
        """For each array of labels, what every element of an output belongs to."""
        labels: Labels = self.tracer.labels(output)
        return [
            torch.tensor([self.find(atom) for atom in atoms.ravel()]).view(atoms.shape).expand(output.shape)
            for atoms in labels
        ]


def disturbed(operation: Operation, shapes: Sequence[Shape], letter: str, axis: int) -> list[list[Tensor]]:
    """For each index of an axis and each output: which elements change with it."""
    generator = torch.Generator().manual_seed(0)
    values = {
        letter: torch.randn(shape, generator=generator, dtype=torch.float64)
        for letter, shape in zip("xyz", shapes, strict=False)
    }
    with quiet():
        before = outputs_of(operation(*values.values()))
        size = values[letter].shape[axis]
        changes = [[torch.zeros(output.shape, dtype=torch.bool) for output in before] for _ in range(size)]
        for index, per_output in enumerate(changes):
            for _ in range(8):  # a maximum may not notice
                noise = torch.zeros(values[letter].shape, dtype=torch.float64)
                noise.select(axis, index).normal_(std=10, generator=generator)
                after = outputs_of(operation(*{**values, letter: values[letter] + noise}.values()))
                for changed, one, other in zip(per_output, before, after, strict=True):
                    changed |= (one != other) & ~(one.isnan() & other.isnan())
    return changes


@pytest.mark.parametrize(("operation", "shapes", "free", "fixed", "weights", "mixes"), ROWS)
class TestRules:
    def test_what_can_be_narrowed(
        self, operation: Operation, shapes: Any, free: list[str], fixed: list[str], weights: str, mixes: list[str]
    ) -> None:
        channels = Followed(operation, shapes, weights).channels()
        assert sorted(name for name, groups in channels.items() if FIXED not in groups) == sorted(free)
        stay = [name for name, groups in channels.items() if set(groups) == {FIXED}]
        assert set(fixed) <= set(stay)

    def test_labels_tell_what_an_element_depends_on(
        self, operation: Operation, shapes: Any, free: list[str], fixed: list[str], weights: str, mixes: list[str]
    ) -> None:
        followed = Followed(operation, shapes, weights)
        channels = followed.channels()
        for name in free:
            changes = disturbed(operation, shapes, name[0], int(name[1]))
            for number, output in enumerate(followed.outputs):
                changed = torch.stack([per_output[number] for per_output in changes])
                sees_all = changed.all(0)
                belongs = followed.belongs(output)
                for index, group in enumerate(channels[name]):
                    mine = torch.zeros(output.shape, dtype=torch.bool)
                    for array in belongs:
                        mine |= torch.isin(array, torch.tensor(channels[name] if name in mixes else [group]))
                    # What changes with a channel belongs to it, or is made from all channels alike.
                    assert (mine | sees_all)[changed[index]].all(), (name, index)
                    if name in mixes:
                        continue
                    # What belongs to a channel changes with no other, unless they are tied.
                    of_axis = torch.zeros(output.shape, dtype=torch.bool)
                    for other, other_group in enumerate(channels[name]):
                        if other_group != group:
                            of_axis |= changed[other]
                    assert not (of_axis & changed[index] & mine & ~sees_all).any(), (name, index)


class _Names(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.seen: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.seen |= {func.overloadpacket.__name__, func.overloadpacket.__name__.removesuffix("_")}
        return func(*args, **(kwargs or {}))


def is_made_of_others(name: str) -> bool:
    """Whether an operator never runs as itself, save in inference mode."""
    overloads = (getattr(getattr(aten, name), overload) for overload in getattr(aten, name).overloads())
    return any(
        torch._C._dispatch_has_kernel_for_dispatch_key(overload.name(), "CompositeImplicitAutograd")
        for overload in overloads
    )


def test_every_rule_is_tried() -> None:
    generator = torch.Generator().manual_seed(0)
    with quiet(), _Names() as names:
        for case in ROWS:
            operation, shapes = case.values[0], case.values[1]
            operation(*(torch.randn(shape, generator=generator) for shape in shapes))
            operation(*(torch.empty(shape, device="meta") for shape in shapes))
    random = {"rand_like", "randn_like", "bernoulli"}
    assert {name for name in set(RULES) - names.seen - random if not is_made_of_others(name)} == set()


def test_what_is_drawn_is_not_alike() -> None:
    followed = Followed(lambda x: x + torch.rand_like(torch.ones(6, device=x.device)), [TOKENS], "")
    channels = followed.channels()
    assert set(channels["x2"]) == {FIXED} and FIXED not in channels["x1"]


def test_random_tensors_take_labels_from_their_model() -> None:
    for make in (torch.rand_like, torch.randn_like):
        followed = Followed(lambda x, make=make: make(x), [(2, 3)], "")
        assert [array.shape for array in followed.belongs(followed.outputs[0])] == [(2, 3), (2, 3)]
