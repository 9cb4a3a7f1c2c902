"""Groups of whole models, against what narrowing means.

Two oracles. A unit that is left out is one that nobody reads: the narrowed model must give what the full one gives once
the weights that read the dropped units are zero. And where the kept units come first everywhere, the narrowed model
must be the model that is built with smaller sizes, its tensors the first entries of the full one's. A third one is for
sorting: units of a group can change places without changing the output.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
import torch
from timm.layers import ScaledStdConv2d
from torch import Tensor, nn
from torch.nn import functional

from ofa.inputs import InputSpec
from ofa.nn.structure import own_tensors
from ofa.supernet.channels import Trace, find_groups, trace
from ofa.supernet.channels.groups import Groups
from ofa.supernet.dims import Narrowing
from ofa.supernet.narrowing import Narrower
from ofa.supernet.supernet import build

from ..helpers import disagreement

SIZE = 8
TOLERANCE: dict[str, Any] = {"atol": 1e-5, "rtol": 1e-5}


def images(num: int = 2) -> Tensor:
    return torch.randn(num, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(7))


@torch.no_grad()
def randomised(model: nn.Module) -> Any:
    generator = torch.Generator().manual_seed(0)
    for name, parameter in model.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        parameter.copy_(noise / max(1, parameter[0].numel()) ** 0.5 if parameter.ndim > 1 else 1 + 0.3 * noise)
        assert name
    for name, buffer in model.named_buffers():
        if buffer.is_floating_point() and name.rpartition(".")[2] in ("running_mean", "running_var"):
            buffer.copy_(torch.rand(buffer.shape, generator=generator) + 0.5)
    return model.eval()


def groups_of(model: nn.Module) -> Groups:
    return find_groups(trace(model, InputSpec.images(3, SIZE).example))


def told(groups: Groups) -> set[tuple[str, frozenset[str]]]:
    """Every group as its number of units and where they are."""
    return {
        (
            str(group.num_units),
            frozenset(
                f"{s.tensor}/{s.axis}" + f"*{s.indices.shape[1]}" * (s.indices.shape[1] > 1) for s in group.sites
            ),
        )
        for group in groups.all
    }


def narrowed(model: nn.Module, groups: Groups, units: Mapping[int, int]) -> Any:
    return build(model, Narrower(model, {n: groups.all[n] for n in units}), Narrowing(units=dict(units)))


@torch.no_grad()
def masked(model: nn.Module, groups: Groups, units: Mapping[int, int]) -> nn.Module:
    """A copy in which no layer reads the dropped units."""
    twin = copy.deepcopy(model)
    modules = dict(twin.named_modules())
    for number, kept in units.items():
        for site in groups.all[number].sites:
            path, _, name = site.tensor.rpartition(".")
            layer = modules[path]
            reads = 0 if isinstance(layer, nn.ConvTranspose2d) else 1
            if name == "weight" and site.axis == reads and layer.get_parameter(name).ndim > 1:
                layer.get_parameter(name).index_fill_(reads, torch.from_numpy(site.indices[kept:].ravel()), 0)
    return twin


@torch.no_grad()
def reversed_units(model: nn.Module, groups: Groups) -> nn.Module:
    """A copy in which the units of every group stand in the opposite order."""
    twin = copy.deepcopy(model)
    tensors = {**dict(twin.named_parameters()), **dict(twin.named_buffers())}
    for group in groups.all:
        for site in group.sites:
            tensor = tensors[site.tensor]
            order = np.arange(tensor.shape[site.axis])
            order[site.indices.ravel()] = site.indices[::-1].ravel()
            tensor.copy_(tensor.index_select(site.axis, torch.from_numpy(order)))
    return twin


def choices(groups: Groups) -> list[dict[int, int]]:
    """Each group alone at several numbers of units, and all at once."""
    each = [{g.number: k} for g in groups.all for k in sorted({1, g.num_units // 2, g.num_units - 1}) if k]
    return [*each, {group.number: max(1, group.num_units // 2) for group in groups.all}]


class Net(nn.Module):
    """A model from its layers and a function of them and the image."""

    def __init__(self, run: Callable[[Any, Tensor], Tensor], **layers: nn.Module | Tensor) -> None:
        super().__init__()
        self.run, self.in_chans = run, 3
        for name, layer in layers.items():
            setattr(self, name, nn.Parameter(layer) if isinstance(layer, Tensor) else layer)

    def forward(self, x: Tensor) -> Tensor:
        return self.run(self, x)


def pooled(x: Tensor) -> Tensor:
    return x.mean((2, 3))


def conv(i: int, o: int, k: int = 1, **options: Any) -> nn.Conv2d:
    return nn.Conv2d(i, o, k, padding=k // 2, **options)


class Attention(nn.Module):
    """As in timm: query, key and value side by side in one layer."""

    def __init__(self, dim: int, num_heads: int, head_dim: int = 4, *, is_fused: bool = False) -> None:
        super().__init__()
        self.num_heads, self.is_fused, self.head_dim = num_heads, is_fused, head_dim
        self.qkv = nn.Linear(dim, 3 * num_heads * head_dim)
        self.proj = nn.Linear(num_heads * head_dim, dim)

    def scores(self, scores: Tensor) -> Tensor:
        return scores.softmax(-1)

    def forward(self, x: Tensor) -> Tensor:
        b, n, _ = x.shape
        q, k, v = self.qkv(x).view(b, n, 3, self.num_heads, self.head_dim).permute(2, 0, 3, 1, 4).unbind(0)
        if self.is_fused:
            y = functional.scaled_dot_product_attention(q, k, v)
        else:
            y = self.scores(q @ k.transpose(-2, -1) * self.head_dim**-0.5) @ v
        return self.proj(y.transpose(1, 2).reshape(b, n, -1))


class TalkingHeads(Attention):
    """CaiT: heads mix before and after the softmax."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__(dim, num_heads)
        self.before = nn.Linear(num_heads, num_heads)
        self.after = nn.Linear(num_heads, num_heads)

    def scores(self, scores: Tensor) -> Tensor:
        scores = self.before(scores.permute(0, 2, 3, 1)).permute(0, 3, 1, 2).softmax(-1)
        return self.after(scores.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class BiasedAttention(Attention):
    """Swin: a bias per head from a table of relative positions."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__(dim, num_heads)
        self.table = nn.Parameter(torch.zeros(7, num_heads))
        self.register_buffer("places", torch.arange(16)[:, None].sub(torch.arange(16)).remainder(7))

    def scores(self, scores: Tensor) -> Tensor:
        bias = self.table[self.places.view(-1)].view(16, 16, -1).permute(2, 0, 1)
        return (scores + bias.unsqueeze(0)).softmax(-1)


def attend(m: Any, x: Tensor) -> Tensor:
    tokens = m.patches(x).flatten(2).transpose(1, 2)
    return m.head(m.attn(tokens).mean(1))


def attention(block: nn.Module) -> Net:
    return Net(attend, patches=nn.Conv2d(3, 6, 2, 2), attn=block, head=nn.Linear(6, 5))


def squeeze_excite(m: Any, x: Tensor) -> Tensor:
    y = m.conv(x).relu()
    return m.head(pooled(y * m.expand(m.reduce(y.mean((2, 3), keepdim=True)).relu()).sigmoid()))


def mixer(m: Any, x: Tensor) -> Tensor:
    tokens = m.patches(x).flatten(2).transpose(1, 2)
    tokens = tokens + m.back(m.mix(tokens.transpose(1, 2)).relu()).transpose(1, 2)
    return m.head(tokens.mean(1))


def shuffled(x: Tensor, num: int) -> Tensor:
    b, c, h, w = x.shape
    return x.view(b, num, c // num, h, w).transpose(1, 2).reshape(b, c, h, w)


def gated(m: Any, x: Tensor) -> Tensor:
    a, b = m.conv(x).chunk(2, 1)
    return m.head(pooled(a * b.sigmoid()))


def in_batch(m: Any, x: Tensor) -> Tensor:
    """One convolution for all heads, which stand in the batch."""
    y = m.local(m.a(x).reshape(-1, 3, SIZE, SIZE)).relu()
    return m.head(m.over_heads(pooled(y).view(len(x), -1, y.shape[1]).transpose(1, 2)).squeeze(-1))


# Name -> a model and its groups: "units: tensor/axis*indices per unit ...".
MODELS: dict[str, tuple[Callable[[], Net], list[str]]] = {
    "two_convolutions": (
        lambda: Net(lambda m, x: pooled(m.b(m.a(x).relu())), a=conv(3, 8, 3), b=conv(8, 5)),
        ["8: a.weight/0 a.bias/0 b.weight/1"],
    ),
    "batch_norm_and_activation": (
        lambda: Net(
            lambda m, x: pooled(m.b(m.act(m.norm(m.a(x))))),
            a=conv(3, 8, bias=False),
            norm=nn.BatchNorm2d(8),
            act=nn.PReLU(8),
            b=conv(8, 5),
        ),
        ["8: a.weight/0 norm.weight/0 norm.bias/0 norm.running_mean/0 norm.running_var/0 act.weight/0 b.weight/1"],
    ),
    "depthwise_between": (
        lambda: Net(
            lambda m, x: pooled(m.b(m.dw(m.a(x).relu()).relu())),
            a=conv(3, 8),
            dw=conv(8, 8, 3, groups=8),
            b=conv(8, 5),
        ),
        ["8: a.weight/0 a.bias/0 dw.weight/0 dw.bias/0 b.weight/1"],
    ),
    "depthwise_with_multiplier": (
        lambda: Net(
            lambda m, x: pooled(m.b(m.dw(m.a(x).relu()).relu())),
            a=conv(3, 4),
            dw=conv(4, 12, 3, groups=4),
            b=conv(12, 5),
        ),
        ["4: a.weight/0 a.bias/0 dw.weight/0*3 dw.bias/0*3 b.weight/1*3"],
    ),
    "grouped_convolution": (
        lambda: Net(
            lambda m, x: pooled(m.b(m.g(m.a(x).relu()).relu())),
            a=conv(3, 12),
            g=conv(12, 8, 3, groups=4),
            b=conv(8, 5),
        ),
        ["4: a.weight/0*3 a.bias/0*3 g.weight/0*2 g.bias/0*2 b.weight/1*2"],
    ),
    "transposed_convolution": (
        lambda: Net(lambda m, x: pooled(m.b(m.t(x).relu())), t=nn.ConvTranspose2d(3, 8, 2, 2), b=conv(8, 5)),
        ["8: t.weight/1 t.bias/0 b.weight/1"],
    ),
    "into_a_transposed_convolution": (
        lambda: Net(lambda m, x: pooled(m.t(m.a(x).relu()).relu()), a=conv(3, 8), t=nn.ConvTranspose2d(8, 5, 2, 2)),
        ["8: a.weight/0 a.bias/0 t.weight/0"],
    ),
    "residual": (
        lambda: Net(
            lambda m, x: (lambda y: m.head(pooled(y + m.b(m.a(y).relu()))))(m.stem(x)),
            stem=conv(3, 6),
            a=conv(6, 8, 3),
            b=conv(8, 6),
            head=nn.Linear(6, 5),
        ),
        [
            "6: stem.weight/0 stem.bias/0 a.weight/1 b.weight/0 b.bias/0 head.weight/1",
            "8: a.weight/0 a.bias/0 b.weight/1",
        ],
    ),
    "residual_in_place": (
        lambda: Net(
            lambda m, x: (lambda y: m.head(pooled(m.a(y).add_(y).relu_())))(m.stem(x)),
            stem=conv(3, 6),
            a=conv(6, 6, 3),
            head=nn.Linear(6, 5),
        ),
        ["6: stem.weight/0 stem.bias/0 a.weight/1 a.weight/0 a.bias/0 head.weight/1"],
    ),
    "squeeze_excite": (
        lambda: Net(squeeze_excite, conv=conv(3, 8), reduce=conv(8, 4), expand=conv(4, 8), head=nn.Linear(8, 5)),
        [
            "8: conv.weight/0 conv.bias/0 reduce.weight/1 expand.weight/0 expand.bias/0 head.weight/1",
            "4: reduce.weight/0 reduce.bias/0 expand.weight/1",
        ],
    ),
    "concatenated_branches": (
        lambda: Net(
            lambda m, x: m.head(pooled(torch.cat([m.a(x).relu(), m.b(x), m.c(x)], 1))),
            a=conv(3, 4),
            b=conv(3, 6, 3),
            c=conv(3, 4),
            head=nn.Linear(14, 5),
        ),
        [
            "4: a.weight/0 a.bias/0 head.weight/1",
            "6: b.weight/0 b.bias/0 head.weight/1",
            "4: c.weight/0 c.bias/0 head.weight/1",
        ],
    ),
    "concatenated_with_the_image": (
        lambda: Net(lambda m, x: m.head(pooled(torch.cat([x, m.a(x)], 1))), a=conv(3, 4), head=nn.Linear(7, 5)),
        ["4: a.weight/0 a.bias/0 head.weight/1"],
    ),
    "dense_connections": (
        lambda: Net(
            lambda m, x: (
                lambda y: (lambda z: m.head(pooled(torch.cat([y, z, m.b(torch.cat([y, z], 1))], 1))))(m.a(y))
            )(m.stem(x)),
            stem=conv(3, 6),
            a=conv(6, 4),
            b=conv(10, 4),
            head=nn.Linear(14, 5),
        ),
        [
            "6: stem.weight/0 stem.bias/0 a.weight/1 b.weight/1 head.weight/1",
            "4: a.weight/0 a.bias/0 b.weight/1 head.weight/1",
            "4: b.weight/0 b.bias/0 head.weight/1",
        ],
    ),
    "shortcut_padded_with_zeros": (
        lambda: Net(
            lambda m, x: (lambda y: m.head(pooled(m.a(y) + functional.pad(y, (0, 0, 0, 0, 0, 2)))))(m.stem(x)),
            stem=conv(3, 6),
            a=conv(6, 8),
            head=nn.Linear(8, 5),
        ),
        ["6: stem.weight/0 stem.bias/0 a.weight/1 a.weight/0 a.bias/0 head.weight/1"],
    ),
    "gate_of_two_halves": (
        lambda: Net(gated, conv=conv(3, 12), head=nn.Linear(6, 5)),
        ["6: conv.weight/0*2 conv.bias/0*2 head.weight/1"],
    ),
    "gated_linear_unit": (
        lambda: Net(lambda m, x: m.head(pooled(functional.glu(m.conv(x), 1))), conv=conv(3, 12), head=nn.Linear(6, 5)),
        ["6: conv.weight/0*2 conv.bias/0*2 head.weight/1"],
    ),
    "halves_that_go_different_ways": (
        lambda: Net(
            lambda m, x: (lambda h: m.head(pooled(torch.cat([h[0].tanh(), h[1].relu()], 1))))(m.conv(x).chunk(2, 1)),
            conv=conv(3, 8),
            head=nn.Linear(8, 5),
        ),
        ["4: conv.weight/0*2 conv.bias/0*2 head.weight/1*2"],
    ),
    "attention": (
        lambda: attention(Attention(6, 4)),
        [
            "6: patches.weight/0 patches.bias/0 attn.qkv.weight/1",
            "4: attn.qkv.weight/0*12 attn.qkv.bias/0*12 attn.proj.weight/1*4",
            "6: attn.proj.weight/0 attn.proj.bias/0 head.weight/1",
        ],
    ),
    "fused_attention": (
        lambda: attention(Attention(6, 4, is_fused=True)),
        [
            "6: patches.weight/0 patches.bias/0 attn.qkv.weight/1",
            "4: attn.qkv.weight/0*12 attn.qkv.bias/0*12 attn.proj.weight/1*4",
            "6: attn.proj.weight/0 attn.proj.bias/0 head.weight/1",
        ],
    ),
    "attention_with_relative_positions": (
        lambda: attention(BiasedAttention(6, 4)),
        [
            "6: patches.weight/0 patches.bias/0 attn.qkv.weight/1",
            "4: attn.qkv.weight/0*12 attn.qkv.bias/0*12 attn.table/1 attn.proj.weight/1*4",
            "6: attn.proj.weight/0 attn.proj.bias/0 head.weight/1",
        ],
    ),
    "pixel_shuffle": (
        lambda: Net(
            lambda m, x: m.head(pooled(functional.pixel_shuffle(m.a(x).relu(), 2))), a=conv(3, 24), head=nn.Linear(6, 5)
        ),
        ["6: a.weight/0*4 a.bias/0*4 head.weight/1"],
    ),
    "flattened_into_a_linear_layer": (
        lambda: Net(
            lambda m, x: m.head(functional.max_pool2d(m.a(x), 2).flatten(1)), a=conv(3, 6), head=nn.Linear(96, 5)
        ),
        ["6: a.weight/0 a.bias/0 head.weight/1*16"],
    ),
    "flattened_with_channels_last": (
        lambda: Net(
            lambda m, x: m.head(functional.avg_pool2d(m.a(x), 4).permute(0, 2, 3, 1).reshape(len(x), -1)),
            a=conv(3, 6),
            head=nn.Linear(24, 5),
        ),
        ["6: a.weight/0 a.bias/0 head.weight/1*4"],
    ),
    "patches_unfolded": (
        lambda: Net(
            lambda m, x: m.head(functional.unfold(m.a(x), 2, stride=2).transpose(1, 2)).mean(1),
            a=conv(3, 6),
            head=nn.Linear(24, 5),
        ),
        ["6: a.weight/0 a.bias/0 head.weight/1*4"],
    ),
    "group_norm": (
        lambda: Net(
            lambda m, x: m.head(pooled(m.norm(m.a(x)).relu())),
            a=conv(3, 12),
            norm=nn.GroupNorm(4, 12),
            head=nn.Linear(12, 5),
        ),
        ["4: a.weight/0*3 a.bias/0*3 norm.weight/0*3 norm.bias/0*3 head.weight/1*3"],
    ),
    "instance_norm": (
        lambda: Net(
            lambda m, x: m.head(pooled(m.norm(m.a(x)).relu())),
            a=conv(3, 6),
            norm=nn.InstanceNorm2d(6, affine=True),
            head=nn.Linear(6, 5),
        ),
        ["6: a.weight/0 a.bias/0 norm.weight/0 norm.bias/0 head.weight/1"],
    ),
    "scales_and_positions": (
        lambda: Net(
            lambda m, x: m.head(
                ((m.a(x) * m.maps).flatten(2).transpose(1, 2) * m.gamma + m.positions + m.first[None]).mean(1)
            ),
            a=conv(3, 6),
            maps=torch.ones(1, 6, 1, 1),
            gamma=torch.ones(6),
            positions=torch.ones(1, SIZE * SIZE, 6),
            first=torch.ones(1, 6),
            head=nn.Linear(6, 5),
        ),
        [
            "6: a.weight/0 a.bias/0 maps/1 gamma/0 positions/2 first/1 head.weight/1",
        ],
    ),
    "standardised_weights": (
        lambda: Net(lambda m, x: m.head(pooled(m.a(x).relu())), a=ScaledStdConv2d(3, 8, 3), head=nn.Linear(8, 5)),
        ["8: a.weight/0 a.bias/0 a.gain/0 head.weight/1"],
    ),
    "talking_heads": (
        lambda: attention(TalkingHeads(6, 4)),
        [
            "6: patches.weight/0 patches.bias/0 attn.qkv.weight/1",
            "4: attn.qkv.weight/0*12 attn.qkv.bias/0*12 attn.before.weight/1 attn.after.weight/0 attn.after.bias/0 "
            "attn.proj.weight/1*4",
            "4: attn.before.weight/0 attn.before.bias/0 attn.after.weight/1",
            "6: attn.proj.weight/0 attn.proj.bias/0 head.weight/1",
        ],
    ),
    "heads_in_the_batch": (
        lambda: Net(in_batch, a=conv(3, 12), local=conv(3, 2, 3), over_heads=nn.Linear(4, 1), head=nn.Linear(2, 5)),
        ["4: a.weight/0*3 a.bias/0*3 over_heads.weight/1", "2: local.weight/0 local.bias/0 head.weight/1"],
    ),
    "token_mixing": (
        lambda: Net(
            mixer, patches=nn.Conv2d(3, 6, 2, 2), mix=nn.Linear(16, 10), back=nn.Linear(10, 16), head=nn.Linear(6, 5)
        ),
        [
            "6: patches.weight/0 patches.bias/0 head.weight/1",
            "10: mix.weight/0 mix.bias/0 back.weight/1",
        ],
    ),
    "resized": (
        lambda: Net(
            lambda m, x: m.head(pooled(functional.interpolate(m.a(x), scale_factor=2, mode="bilinear"))),
            a=conv(3, 6),
            head=nn.Linear(6, 5),
        ),
        ["6: a.weight/0 a.bias/0 head.weight/1"],
    ),
    "repeated_and_flipped": (
        lambda: Net(
            lambda m, x: m.head(pooled(m.a(x).flip(1).repeat(1, 2, 1, 1))), a=conv(3, 6), head=nn.Linear(12, 5)
        ),
        ["6: a.weight/0 a.bias/0 head.weight/1*2"],
    ),
    "einsum": (
        lambda: Net(
            lambda m, x: torch.einsum("bchw,oc->bo", m.a(x), m.head.weight),
            a=conv(3, 6),
            head=nn.Linear(6, 5, bias=False),
        ),
        ["6: a.weight/0 a.bias/0 head.weight/1"],
    ),
    "summed_over_stacked_branches": (
        lambda: Net(
            lambda m, x: m.head(pooled(torch.stack([m.a(x), m.b(x)], 1).sum(1))),
            a=conv(3, 6),
            b=conv(3, 6, 3),
            head=nn.Linear(6, 5),
        ),
        ["6: a.weight/0 a.bias/0 b.weight/0 b.bias/0 head.weight/1"],
    ),
    "channel_shuffle": (
        lambda: Net(
            lambda m, x: m.head(pooled(m.b(shuffled(m.a(x).relu(), 2)))),
            a=conv(3, 8),
            b=conv(8, 6),
            head=nn.Linear(6, 5),
        ),
        [
            "4: a.weight/0*2 a.bias/0*2 b.weight/1*2",
            "6: b.weight/0 b.bias/0 head.weight/1",
        ],
    ),
}


@pytest.fixture(params=sorted(MODELS))
def named(request: pytest.FixtureRequest) -> tuple[str, Any, Groups]:
    name: str = request.param
    model = randomised(MODELS[name][0]())
    return name, model, groups_of(model)


def test_groups_are_those_written_down(named: tuple[str, Any, Groups]) -> None:
    name, _, groups = named
    written = [text.partition(": ") for text in MODELS[name][1]]
    assert told(groups) == {(units, frozenset(where.split())) for units, _, where in written}
    assert [group.number for group in groups.all] == list(range(len(written)))


def test_narrowing_is_leaving_out_what_nobody_reads(named: tuple[str, Any, Groups]) -> None:
    _, model, groups = named
    with torch.no_grad():
        full = model(images())
        for units in choices(groups):
            expected = masked(model, groups, units)(images())
            assert not torch.allclose(expected, full, **TOLERANCE)  # the masks do something
            torch.testing.assert_close(narrowed(model, groups, units)(images()), expected, **TOLERANCE)
        assert torch.equal(model(images()), full)


def test_units_can_change_places(named: tuple[str, Any, Groups]) -> None:
    _, model, groups = named
    with torch.no_grad():
        torch.testing.assert_close(reversed_units(model, groups)(images()), model(images()), **TOLERANCE)


def test_finding_groups_leaves_the_trace_alone(named: tuple[str, Any, Groups]) -> None:
    _, model, groups = named
    traced = trace(model, InputSpec.images(3, SIZE).example)
    before = len(traced.graph.edges), len(traced.graph.reasons)
    assert told(find_groups(traced)) == told(find_groups(traced)) == told(groups)
    assert (len(traced.graph.edges), len(traced.graph.reasons)) == before


def test_every_atom_belongs_to_the_unit_that_its_site_says(named: tuple[str, Any, Groups]) -> None:
    _, model, _ = named
    traced = trace(model, InputSpec.images(3, SIZE).example)
    groups = find_groups(traced)
    first = {(source.tensor, source.axis): source.first for source in traced.sources}
    seen = np.full(len(groups.group_of), -1)
    for group in groups.all:
        for site in group.sites:
            atoms = first[site.tensor, site.axis] + site.indices
            seen[atoms] = group.number
            assert (groups.unit_of[atoms] == np.arange(group.num_units)[:, None]).all()
    assert (seen == groups.group_of).all()


# -- what mixes all channels: the narrowed model is the smaller model -----------------------------------------------


def normalised(norm: Callable[[int], nn.Module]) -> Callable[[int], Net]:
    return lambda width: Net(
        lambda m, x: m.head(m.norm(m.a(x).flatten(2).transpose(1, 2)).mean(1)),
        a=conv(3, width),
        norm=norm(width),
        head=nn.Linear(width, 5),
    )


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1, self.attn = nn.LayerNorm(width), Attention(width, 2)
        self.norm2, self.fc1, self.fc2 = nn.LayerNorm(width), nn.Linear(width, 10), nn.Linear(10, width)
        self.gamma = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.gamma * self.fc2(self.fc1(self.norm2(x)).relu())


def transformer(width: int) -> Net:
    def run(m: Any, x: Tensor) -> Tensor:
        tokens = m.patches(x).flatten(2).transpose(1, 2)
        tokens = torch.cat([m.token.expand(len(x), -1, -1), tokens], 1) + m.positions
        return m.head(m.norm(m.blocks(tokens))[:, 0])

    return Net(
        run,
        patches=nn.Conv2d(3, width, 2, 2),
        token=torch.zeros(1, 1, width),
        positions=torch.zeros(1, 17, width),
        blocks=nn.Sequential(Block(width), Block(width)),
        norm=nn.LayerNorm(width),
        head=nn.Linear(width, 5),
    )


def channel_attention(width: int) -> Net:
    """ECA: a convolution that slides over the pooled channels."""

    def run(m: Any, x: Tensor) -> Tensor:
        y = m.a(x).relu()
        gate = m.slide(pooled(y).view(len(x), 1, -1)).sigmoid()
        return m.head(pooled(y * gate.view(len(x), -1, 1, 1)))

    return Net(run, a=conv(3, width), slide=nn.Conv1d(1, 1, 3, padding=1, bias=False), head=nn.Linear(width, 5))


def response_norm(width: int) -> Net:
    """ConvNeXt V2: each channel's norm over the mean of all of them."""

    def run(m: Any, x: Tensor) -> Tensor:
        y = m.a(x).permute(0, 2, 3, 1)
        norms = y.norm(p=2, dim=(1, 2), keepdim=True)
        y = y + y * (norms / norms.mean(-1, keepdim=True)) * m.weight.view(1, 1, 1, -1)
        return m.head(y.mean((1, 2)))

    return Net(run, a=conv(3, width), weight=torch.ones(width), head=nn.Linear(width, 5))


# Name -> a model of a width, and the number of sites of its group of as many units.
WIDTHS: dict[str, tuple[Callable[[int], Net], int]] = {
    "layer_norm": (normalised(nn.LayerNorm), 5),
    "rms_norm": (normalised(nn.RMSNorm), 4),
    "transformer": (transformer, 2 + 1 + 1 + 2 * (2 + 1 + 2 + 2 + 1 + 2 + 1) + 2 + 1),
    "one_group": (
        lambda width: Net(
            lambda m, x: m.head(pooled(m.norm(m.a(x)).relu())),
            a=conv(3, width),
            norm=nn.GroupNorm(1, width),
            head=nn.Linear(width, 5),
        ),
        5,
    ),
    "softmax_over_channels": (
        lambda width: Net(lambda m, x: m.head(pooled(m.a(x).softmax(1))), a=conv(3, width), head=nn.Linear(width, 5)),
        3,
    ),
    "statistics_over_channels": (
        lambda width: Net(
            lambda m, x: (
                lambda y: m.head(pooled(torch.cat([y.mean(1, True), y.amax(1, True), y.var(1, False, True)], 1)))
            )(m.a(x)),
            a=conv(3, width),
            head=nn.Linear(3, 5),
        ),
        2,
    ),
    "cumulative_sum": (
        lambda width: Net(lambda m, x: m.head(pooled(m.a(x).cumsum(1))), a=conv(3, width), head=nn.Linear(width, 5)),
        3,
    ),
    "attention_over_channels": (
        lambda width: Net(
            lambda m, x: (lambda y: m.head(((y @ y.transpose(1, 2)).softmax(-1) @ y).mean(2)))(m.a(x).flatten(2)),
            a=conv(3, width),
            head=nn.Linear(width, 5),
        ),
        3,
    ),
    "products_of_channels": (
        lambda width: Net(
            lambda m, x: (lambda y: m.head((y @ y.transpose(1, 2)).mean(1)))(m.a(x).flatten(2)),
            a=conv(3, width),
            head=nn.Linear(width, 5),
        ),
        3,
    ),
    "mean_of_channels": (
        lambda width: Net(
            lambda m, x: m.head(pooled(m.a(x).transpose(1, 2))), a=conv(3, width), head=nn.Linear(SIZE, 5)
        ),
        2,
    ),
    "efficient_channel_attention": (channel_attention, 3),
    "global_response_norm": (response_norm, 4),
}
ORDERED = {"cumulative_sum", "efficient_channel_attention"}


@pytest.mark.parametrize("name", sorted(WIDTHS))
def test_a_narrower_stream_is_a_smaller_model(name: str) -> None:
    make, num_sites = WIDTHS[name]
    model = randomised(make(8))
    groups = groups_of(model)
    (group,) = [group for group in groups.all if group.num_units == 8]
    assert len(group.sites) == num_sites
    assert group.is_ordered is (name in ORDERED)
    for width in (1, 3, 7):
        smaller = make(width).eval()
        shapes = smaller.state_dict()
        smaller.load_state_dict(
            {key: full[tuple(slice(size) for size in shapes[key].shape)] for key, full in model.state_dict().items()}
        )
        narrow = narrowed(model, groups, {group.number: width})
        with torch.no_grad():
            torch.testing.assert_close(narrow(images()), smaller(images()), equal_nan=True, **TOLERANCE)
    if not group.is_ordered:
        with torch.no_grad():
            torch.testing.assert_close(reversed_units(model, groups)(images()), model(images()), **TOLERANCE)


# -- what must stay ----------------------------------------------------------------------------------------------------


def between(function: Callable[[Tensor], Tensor], *, before: int = 8, after: int | None = None) -> Net:
    """Something between two layers that says nothing of itself."""
    return Net(lambda m, x: m.head(pooled(function(m.a(x)))), a=conv(3, before), head=nn.Linear(after or before, 5))


def unflattened(x: Tensor, *sizes: int) -> Tensor:
    return x.view(len(x), *sizes, *x.shape[2:])


def constant(*shape: int) -> Tensor:
    return torch.arange(float(np.prod(shape)), device="meta").view(shape)


PINNED: dict[str, tuple[Net, str]] = {
    "constant_of_fixed_size": (
        between(lambda x: x + torch.arange(8.0, device=x.device).view(1, 8, 1, 1)),
        "a constant of fixed size",
    ),
    "multiplied_with_a_constant": (
        between(lambda x: torch.einsum("bchw,cd->bdhw", x, torch.eye(8, device=x.device))),
        "multiplied with something of fixed size",
    ),
    "unknown_operation": (
        between(lambda x: torch.linalg.matrix_exp(x.flatten(2) @ x.flatten(2).transpose(1, 2))[..., None]),
        "operation linalg_matrix_exp",
    ),
    "picked_by_constant_indices": (
        between(lambda x: x[:, torch.arange(7, -1, -1, device=x.device)]),
        "picked by constant indices",
    ),
    "rolled": (between(lambda x: x.roll(1, 1)), "rolled"),
    "rolled_flat": (between(lambda x: x.roll(1)), "rolled"),
    "sorted": (between(lambda x: x.sort(1)[0]), "sorted"),
    "layer_norm_without_weights": (
        between(lambda x: functional.layer_norm(x.transpose(1, 3), (8,)).transpose(1, 3)),
        "layer normalisation without weights",
    ),
    "group_norm_without_weights": (between(nn.GroupNorm(4, 8, affine=False)), "group normalisation without weights"),
    "written_into_another_tensor": (
        between(lambda x: torch.empty(x.shape, device=x.device).copy_(x)),
        "written into another tensor",
    ),
    "windows_over_channels": (between(lambda x: x.unfold(1, 4, 4).mean(-1), after=2), "cut into windows"),
    "channels_resized": (
        between(lambda x: functional.interpolate(x.transpose(1, 3), size=(8, 4)).transpose(1, 3), after=4),
        "pooled over channels",
    ),
    "pixels_into_one_channel": (
        between(lambda x: functional.pixel_shuffle(x, 2), before=4, after=1),
        "pixels shuffled into one channel",
    ),
}


@pytest.mark.parametrize("name", sorted(PINNED))
def test_what_cannot_be_narrowed_stays_and_says_why(name: str) -> None:
    model, reason = PINNED[name]
    groups = groups_of(model)
    assert groups.all == ()
    assert reason in groups.reasons["a.weight", 0]
    assert (groups.group_of == -1).all()


def test_the_output_stays() -> None:
    groups = groups_of(between(torch.relu))
    assert [group.num_units for group in groups.all] == [8]
    assert groups.reasons["head.weight", 0] == "the output of the model"
    assert groups.reasons["a.weight", 1] == "a convolution of something of fixed size"


# Whatever the groups, what runs must be right. None of these is written as models usually are.
ODD: dict[str, Callable[[], Net]] = {
    "last_channels": lambda: between(lambda x: x[:, -4:], after=4),
    "all_but_the_last": lambda: between(lambda x: x[:, :-2], after=6),
    "one_channel": lambda: between(lambda x: x[:, 3:4] * x),
    "last_channel": lambda: between(lambda x: x[:, -1:] * x),
    "last_channel_selected": lambda: between(lambda x: x[:, -1].unsqueeze(1) * x),
    "every_other": lambda: between(lambda x: x[:, 1::2], after=4),
    "halves_swapped": lambda: between(lambda x: torch.cat([x[:, 4:], x[:, :4]], 1)),
    "halves_by_split": lambda: between(lambda x: torch.cat([x.split(4, 1)[0].tanh(), x.split(4, 1)[1].relu()], 1)),
    "parts_by_sizes": lambda: between(lambda x: torch.cat([x.split([2, 6], 1)[0].tanh(), x[:, 2:].relu()], 1)),
    "three_chunks": lambda: between(lambda x: torch.cat([part.tanh() * i for i, part in enumerate(x.chunk(3, 1))], 1)),
    "chunks_by_tensor_split": lambda: between(
        lambda x: torch.cat([p * i for i, p in enumerate(x.tensor_split(2, 1))], 1)
    ),
    "channels_unbound": lambda: between(lambda x: torch.stack(x.unbind(1), 1)),
    "channels_added": lambda: between(lambda x: sum(p.sigmoid() for p in x.split(1, 1)), after=1),
    "pairs": lambda: between(
        lambda x: (lambda y: torch.stack([-y[:, :, 1], y[:, :, 0]], 2).flatten(1, 2))(
            unflattened(x, x.shape[1] // 2, 2)
        )
    ),
    "half_pairs": lambda: between(
        lambda x: (lambda y: torch.cat([-y[:, 1], y[:, 0]], 1))(unflattened(x, 2, x.shape[1] // 2))
    ),
    "gate_between_halves": lambda: between(lambda x: x[:, : x.shape[1] // 2] * x[:, x.shape[1] // 2 :], after=4),
    "softmax_in_groups_of_two": lambda: between(lambda x: unflattened(x, x.shape[1] // 2, 2).softmax(2).flatten(1, 2)),
    "outer_product": lambda: between(lambda x: (x[:, :, None] * x[:, None]).flatten(1, 2), after=64),
    "strided_again": lambda: between(lambda x: x.contiguous().as_strided(x.shape, (512, 1, 64, 8))),
    "written_in_place": lambda: between(lambda x: x.index_fill(1, torch.tensor([1], device=x.device), 0.0)),
    "halves_of_the_map": lambda: between(lambda x: torch.cat([x[:, :, 4:], x[:, :, :4]], 2)),
    "reflected": lambda: between(
        lambda x: functional.pad(x.transpose(1, 3), (2, 2, 0, 0), mode="reflect").transpose(1, 3), after=12
    ),
}


@pytest.mark.parametrize("name", sorted(ODD))
def test_what_runs_is_right(name: str) -> None:
    model = randomised(ODD[name]())
    groups = groups_of(model)
    with torch.no_grad():
        for units in choices(groups):
            try:
                output = narrowed(model, groups, units)(images())
            except (RuntimeError, ValueError, IndexError):  # the supernet tries every dim and leaves out what fails
                continue
            torch.testing.assert_close(output, masked(model, groups, units)(images()), **TOLERANCE)
        if not any(group.is_ordered for group in groups.all):
            torch.testing.assert_close(reversed_units(model, groups)(images()), model(images()), **TOLERANCE)


# -- a second look at the narrowed model -------------------------------------------------------------------------------


def group_deviation(x: Tensor) -> Tensor:
    """EvoNorm: the deviation within each of four groups, however many channels there are."""
    groups = x.view(len(x), 4, -1)
    return (groups / groups.std(2, keepdim=True)).view(x.shape)


def retraced(model: nn.Module, groups: Groups, units: Mapping[int, int]) -> Trace:
    narrow = narrowed(model, groups, units)
    own_tensors(narrow)
    return trace(narrow, InputSpec.images(3, SIZE).example)


FOUR_OF_ANY_SIZE: dict[str, Callable[[], Net]] = {
    "two_shuffles": lambda: between(lambda x: shuffled(shuffled(x, 2), 4)),
    "four_groups": lambda: between(group_deviation, before=16),
    "four_softmaxes": lambda: between(lambda x: x.view(len(x), 4, -1, SIZE, SIZE).softmax(2).flatten(1, 2), before=16),
}


@pytest.mark.parametrize("name", sorted(FOUR_OF_ANY_SIZE))
def test_code_that_makes_a_fixed_number_of_groups_is_found_out(name: str) -> None:
    model = randomised(FOUR_OF_ANY_SIZE[name]())
    full = trace(model, InputSpec.images(3, SIZE).example)
    groups = find_groups(full)
    units = {0: 2}
    narrow = narrowed(model, groups, units)
    with torch.no_grad():  # it runs, and is wrong
        assert not torch.allclose(narrow(images()), masked(model, groups, units)(images()), **TOLERANCE)
    message = disagreement(full, groups, units, retraced(model, groups, units))
    assert message is not None
    assert "belong together in another way" in message


def test_narrowed_models_agree_with_the_full_one(named: tuple[str, Any, Groups]) -> None:
    _, model, groups = named
    full = trace(model, InputSpec.images(3, SIZE).example)
    for units in choices(groups):
        assert disagreement(full, groups, units, retraced(model, groups, units)) is None


def test_other_sizes_than_expected_disagree() -> None:
    model = randomised(between(torch.relu))
    full = trace(model, InputSpec.images(3, SIZE).example)
    groups = find_groups(full)
    message = disagreement(full, groups, {0: 4}, retraced(model, groups, {0: 6}))
    assert message == "a.weight has 6 entries on axis 0 instead of 4"
