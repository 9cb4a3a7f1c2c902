"""Models that are no timm classifiers: what they take and give, what varies in them, and that it stays exact."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ofa.cost import macs
from ofa.errors import UsageError
from ofa.formats.onnx import to_bytes, to_onnx
from ofa.inputs import Axis, Inputs, InputSpec, tensors_in
from ofa.space import Arch, Dim, SearchSpace
from ofa.supernet import Supernet, elasticize, graph_form
from ofa.supernet.channels import sizes_at
from ofa.supernet.elasticize import NothingElasticError, NotTraceableError


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def assert_same(first: Any, second: Any, *, atol: float = 1e-6) -> None:
    ours, theirs = tensors_in(first), tensors_in(second)
    assert len(ours) == len(theirs) > 0
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other, atol=atol, rtol=1e-5)


def check(model: nn.Module, inputs: Any, *, num: int = 4, **choices: Any) -> Supernet:
    """The largest subnet is the model; random subnets are, extracted, what they are in the supernet."""
    given = inputs.example if isinstance(inputs, InputSpec) else Inputs.of(inputs)
    with torch.no_grad():
        expected = given.call(model.eval())
        supernet = elasticize(model, inputs, **choices).eval()
        assert_same(supernet(*given.args, arch=supernet.space.largest(), **given.kwargs), expected)
        archs = supernet.space.to_archs(supernet.space.sample_population(num, np.random.default_rng(0)))
        for arch in (supernet.space.smallest(), *archs):
            active = supernet(*given.args, arch=arch, **given.kwargs)
            resized = supernet.inputs.resize(given, supernet.inputs.sizes(arch))
            assert_same(resized.call(supernet.extract(arch)), active)
    return supernet


def kinds(supernet: Supernet) -> set[str]:
    return {dim.kind for dim in supernet.dims}


def smallest_share(supernet: Supernet) -> float:
    smallest, largest = macs(supernet).predict(
        supernet.space.to_population([supernet.space.smallest(), supernet.space.largest()])
    )
    return float(smallest / largest)


# -- what models take and give -----------------------------------------------------------------------------------------


class Residual(nn.Module):
    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.norm, self.up, self.down = nn.LayerNorm(width), nn.Linear(width, hidden), nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(F.gelu(self.up(self.norm(x))))


class Tagger(nn.Module):
    """Token ids and a mask by name in, a dict out; without an axis that varies."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(50, 32)
        self.layers = nn.ModuleList(Residual(32, 64) for _ in range(3))
        self.head = nn.Linear(32, 5)

    def forward(self, ids: Tensor, mask: Tensor) -> dict[str, Any]:
        x = self.embedding(ids) * mask[..., None]
        for layer in self.layers:
            x = layer(x)
        return {"logits": self.head(x), "pair": (x.mean(1), [x.amax(1)])}


TOKENS = {"ids": torch.arange(12).view(1, 12), "mask": torch.ones(1, 12)}


def test_inputs_by_name_and_outputs_of_any_kind() -> None:
    supernet = check(Tagger(), TOKENS)
    assert kinds(supernet) == {"depth", "mlp_ratio"}
    assert "resolution" not in supernet.space.names
    assert smallest_share(supernet) < 0.4


def test_what_a_model_gives_keeps_its_width() -> None:
    """Every tensor of the output, not the first alone: the stream is given too, so it cannot vary."""
    supernet = elasticize(Tagger().eval(), TOKENS, width=["50%", "100%"])
    assert kinds(supernet) == {"depth", "mlp_ratio"}


def test_an_axis_of_tokens() -> None:
    axis = Axis("tokens", ((0, 1), (1, 1)))
    supernet = check(Tagger(), InputSpec(Inputs(**TOKENS), (axis,)), tokens=[4, 8, 12])
    assert supernet.space["tokens"].values == (4, 8, 12)
    assert supernet(**TOKENS, arch=supernet.space.smallest())["logits"].shape == (1, 4, 5)
    counted = macs(supernet)
    population = supernet.space.to_population([supernet.space.largest()] * 2)
    population[0, supernet.space.column("tokens")] = 0
    few, many = counted.predict(population)
    assert many == pytest.approx(3 * few)


def test_seconds_are_counted_in_their_own_unit() -> None:
    model = nn.Sequential(
        nn.Conv1d(1, 16, 9, 4, 4),
        *(Conv1dBlock(16) for _ in range(3)),
        nn.AdaptiveAvgPool1d(1),
        nn.Flatten(),
        nn.Linear(16, 3),
    )
    axis = Axis("seconds", ((0, 2),), per_unit=100)
    supernet = check(model, InputSpec(Inputs(torch.randn(1, 1, 400)), (axis,)), seconds=[1.5, 4])
    assert supernet.space["seconds"].values == (1.5, 4)
    assert supernet.inputs.shapes({"seconds": 1.5}) == [(1, 1, 150)]


def test_height_and_width_of_rectangles_vary_apart() -> None:
    model = nn.Sequential(nn.Conv2d(3, 16, 3, 2, 1), *(Conv2dBlock(16) for _ in range(2)))
    axes = (Axis("height", ((0, 2),)), Axis("width_px", ((0, 3),)))
    supernet = check(model, InputSpec(Inputs(torch.randn(1, 3, 24, 32)), axes), height=[12, 24], width_px=[16, 32])
    assert [dim.values for dim in supernet.space.dims[:2]] == [(12, 24), (16, 32)]
    keys = next(slot for slot in supernet.slots if slot.name == "stage0.block1").keys
    per_size = [set(keys[i, j].ravel().tolist()) - {""} for i in range(2) for j in range(2)]
    assert not set.intersection(*per_size) and len(set.union(*per_size)) == sum(map(len, per_size))


class LooksAtValues(nn.Module):
    """What it keeps is for the scores to say, so that it runs with values only."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 16, 3, 2, 1), *(Conv2dBlock(16) for _ in range(3)))
        self.head = nn.Conv2d(16, 5, 1)

    def forward(self, images: list[Tensor]) -> list[dict[str, Tensor]]:
        scores = self.head(self.body(torch.stack(images))).flatten(2).transpose(1, 2)
        return [{"scores": each[each[:, 0] > each[:, 0].mean()]} for each in scores]


def test_code_that_looks_at_values() -> None:
    supernet = check(LooksAtValues(), ([torch.rand(3, 32, 32)],))
    assert supernet.analysis.trace.has_values
    assert {"depth", "expand"} <= kinds(supernet)
    assert all(tensor.is_meta for call in supernet.analysis.trace.calls.values() for tensor in tensors_in(call.args))


def test_maps_follow_the_size_of_the_image() -> None:
    model = nn.Sequential(nn.Conv2d(3, 16, 3, 1, 1), *(Conv2dBlock(16) for _ in range(2)), nn.Conv2d(16, 4, 1))
    supernet = check(model, torch.randn(1, 3, 48, 48), resolution=[24, 48])
    assert supernet.space["resolution"].values == (24, 48)


@pytest.mark.parametrize(
    ("inputs", "message"), [(("text",), "must hold tensors"), (torch.zeros(1, 7), "does not run on")]
)
def test_inputs_that_are_none(inputs: Any, message: str) -> None:
    with pytest.raises(NotTraceableError, match=message):
        elasticize(Tagger(), inputs)


def test_an_output_without_tensors() -> None:
    class Silent(nn.Module):
        def forward(self, x: Tensor) -> str:
            return "done"

    with pytest.raises(NotTraceableError, match="without tensors"):
        elasticize(Silent(), torch.zeros(1, 3, 8, 8))


@dataclass
class Answer:
    logits: Tensor
    hidden: list[Tensor]
    loss: Tensor | None = None


class Answering(nn.Module):
    """A mapping in, as the only argument; a dataclass out."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(*(Residual(16, 32) for _ in range(3)))
        self.head = nn.Linear(16, 3)

    def forward(self, batch: dict[str, Tensor]) -> Answer:
        x = self.layers(batch["values"] + batch["offsets"])
        return Answer(self.head(x), [x])


def test_a_mapping_as_the_last_argument_and_a_dataclass_given_back() -> None:
    given = Inputs({"values": torch.randn(1, 4, 16), "offsets": torch.randn(1, 4, 16)})
    supernet = check(Answering(), given)
    assert kinds(supernet) == {"depth", "mlp_ratio"}
    subnet = supernet.extract(supernet.space.smallest())
    assert isinstance(given.call(subnet), Answer)
    graph = to_onnx(subnet, InputSpec(given, ()))
    assert isinstance(given.call(subnet), Answer)
    assert [each.name for each in graph.graph.output] == ["logits", "hidden_0"]
    session = onnxruntime.InferenceSession(to_bytes(graph), providers=["CPUExecutionProvider"])
    names = [each.name for each in session.get_inputs()]
    feeds = {name: tensor.numpy() for name, tensor in zip(names, given.tensors, strict=True)}
    assert_same([torch.from_numpy(each) for each in session.run(None, feeds)], given.call(subnet), atol=1e-5)


class MultiQuery(nn.Module):
    """Heads of queries that share their keys and values (Shazeer, arXiv:1911.02150)."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.query, self.key, self.value = nn.Linear(width, width), nn.Linear(width, 8), nn.Linear(width, 8)
        self.project = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        query = self.query(x).unflatten(-1, (self.num_heads, 8)).transpose(1, 2)
        found = F.scaled_dot_product_attention(query, self.key(x)[:, None], self.value(x)[:, None])
        return x + self.project(found.transpose(1, 2).flatten(2))


def test_heads_that_share_keys_and_values() -> None:
    model = nn.Sequential(nn.Linear(6, 32), nn.Sequential(*(MultiQuery(32, 4) for _ in range(2))), nn.Linear(32, 3))
    supernet = check(model, torch.randn(1, 5, 6))
    assert kinds(supernet) == {"depth", "heads"}
    block = supernet.extract(supernet.space.smallest())[1][0]
    assert (block.num_heads, block.query.out_features, block.key.out_features) == (2, 16, 8)


def test_why_nothing_can_vary() -> None:
    class Inverse(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Linear(8, 16)

        def forward(self, x: Tensor) -> Tensor:
            return torch.linalg.inv(self.first(x))

    with pytest.raises(NothingElasticError, match=r"only Inverse \(operation linalg_inv_ex"):
        elasticize(Inverse(), torch.randn(1, 16, 8))


# -- what varies in them -----------------------------------------------------------------------------------------------


class Conv1dBlock(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv1d(width, 2 * width, 5, padding=2), nn.BatchNorm1d(2 * width)
        self.last = nn.Conv1d(2 * width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.last(self.norm(self.first(x)).relu())


class Conv2dBlock(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(width, 2 * width, 5, padding=2), nn.Conv2d(2 * width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.last(self.first(x).relu())


class Conv3dBlock(nn.Module):
    """With the attention to channels that a mean over the volume makes."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv3d(width, 2 * width, 5, padding=2), nn.BatchNorm3d(2 * width)
        self.squeeze, self.excite = nn.Conv3d(2 * width, 8, 1), nn.Conv3d(8, 2 * width, 1)
        self.last = nn.Conv3d(2 * width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.norm(self.first(x)).relu()
        return x + self.last(hidden * self.excite(self.squeeze(F.adaptive_avg_pool3d(hidden, 1)).relu()).sigmoid())


@pytest.mark.parametrize(
    ("model", "inputs"),
    [
        (nn.Sequential(nn.Conv1d(4, 16, 7, 2, 3), *(Conv1dBlock(16) for _ in range(3)), nn.Flatten()), (1, 4, 32)),
        (
            nn.Sequential(nn.Conv3d(1, 16, 3, 2, 1), *(Conv3dBlock(16) for _ in range(3)), nn.Flatten()),
            (1, 1, 8, 12, 12),
        ),
    ],
)
def test_convolutions_of_one_and_three_axes(model: nn.Module, inputs: tuple[int, ...]) -> None:
    supernet = check(model, torch.randn(inputs))
    assert kinds(supernet) == {"depth", "kernel", "expand"}
    assert smallest_share(supernet) < 0.35


class Recurrent(nn.Module):
    def __init__(self, layer: type[nn.RNNBase], **settings: Any) -> None:
        super().__init__()
        self.layer = layer(12, 32, num_layers=2, batch_first=True, **settings)
        self.head = nn.Linear(32, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layer(x)[0][:, -1])


@pytest.mark.parametrize("settings", [{}, {"bias": False}])
@pytest.mark.parametrize("layer", [nn.LSTM, nn.GRU, nn.RNN])
def test_the_hidden_width_of_recurrent_layers(layer: type[nn.RNNBase], settings: dict[str, Any]) -> None:
    supernet = check(Recurrent(layer, **settings), torch.randn(2, 7, 12), width=["50%", "100%"])
    assert kinds(supernet) == {"width"}
    subnet = supernet.extract(supernet.space.smallest())
    assert subnet.layer.hidden_size == 16 and subnet.layer.weight_hh_l1.shape[1] == 16
    gates = {nn.LSTM: 4, nn.GRU: 3, nn.RNN: 1}[layer]
    per_step = gates * (12 * 32 + 3 * 32 * 32)
    largest = macs(supernet).predict(supernet.space.to_population([supernet.space.largest()]))
    assert largest.item() == 7 * per_step + 32 * 5


class Projected(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.LSTM(12, 32, 2, batch_first=True, bidirectional=True, proj_size=16)
        self.head = nn.Linear(32, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layer(x)[0].amax(1))


@pytest.mark.filterwarnings("ignore:LSTM with projections")  # which take another kernel
def test_the_projection_of_an_lstm_varies_and_what_it_projects_stays_wider() -> None:
    supernet = check(Projected(), torch.randn(1, 7, 12), width=["50%", "100%"])
    subnet = supernet.extract(supernet.space.smallest())
    assert (subnet.layer.hidden_size, subnet.layer.proj_size) == (32, 8)


class Packed(nn.Module):
    """Sentences of their own lengths, which takes values."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.layer = nn.Embedding(50, 24), nn.GRU(24, 32, 2, batch_first=True)
        self.head = nn.Linear(32, 3)

    def forward(self, ids: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        x = nn.utils.rnn.pack_padded_sequence(self.embedding(ids), lengths, batch_first=True, enforce_sorted=False)
        steps, last = self.layer(x)
        steps, _ = nn.utils.rnn.pad_packed_sequence(steps, batch_first=True)
        return self.head(last[-1]), self.head(steps)


def test_recurrent_layers_on_packed_sequences() -> None:
    supernet = check(Packed(), (torch.randint(0, 50, (2, 7)), torch.tensor([5, 7])), width=["50%", "100%"])
    assert kinds(supernet) == {"width"} and smallest_share(supernet) < 0.4
    assert supernet.extract(supernet.space.smallest()).layer.hidden_size == 16


def test_cells_begin_with_zeros_of_their_width() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cell, self.head = nn.LSTMCell(6, 32), nn.Linear(32, 6)

        def forward(self, x: Tensor) -> Tensor:
            state = None
            for step in x.unbind(1):
                state = self.cell(step, state)
            return self.head(state[0])

    supernet = check(Net(), torch.randn(1, 4, 6), width=["50%", "100%"])
    assert supernet.extract(supernet.space.smallest()).cell.hidden_size == 16


def test_spectral_normalisation_of_a_narrower_layer() -> None:
    norm = nn.utils.parametrizations.spectral_norm
    first, second = norm(nn.Conv2d(3, 32, 3, 2, 1)), norm(nn.Conv2d(32, 64, 3, 2, 1))
    model = nn.Sequential(first, nn.ReLU(), second, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 2))
    supernet = check(model, torch.randn(1, 3, 16, 16), width=["50%", "100%"])
    subnet = supernet.extract(supernet.space.smallest())
    assert subnet[2].weight.shape == (32, 16, 3, 3)
    for vector in (subnet[2].parametrizations.weight[0]._u, subnet[2].parametrizations.weight[0]._v):
        torch.testing.assert_close(vector.norm(), torch.tensor(1.0))


class Routed(nn.Module):
    """Each token goes to one expert, which takes values."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Linear(16, 2)
        self.experts = nn.ModuleList(nn.Sequential(nn.Linear(16, 32), nn.GELU(), nn.Linear(32, 16)) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        flat = x.flatten(0, 1)
        weight, chosen = self.gate(flat).softmax(-1).max(-1)
        out = torch.zeros_like(flat)
        for number, expert in enumerate(self.experts):
            mine = chosen == number
            if mine.any():
                out[mine] = expert(flat[mine]) * weight[mine, None]
        return x + out.view_as(x)


def test_experts_that_see_some_of_the_tokens() -> None:
    model = nn.Sequential(nn.Embedding(50, 16), *(Routed() for _ in range(3)), nn.Linear(16, 2))
    supernet = check(model, torch.randint(0, 50, (1, 24)))
    assert kinds(supernet) == {"depth", "mlp_ratio"}


class Dense(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(width, 32, 1), nn.Conv2d(32, 8, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, self.last(self.first(x).relu())], 1)


def test_why_blocks_whose_outputs_are_concatenated_stay() -> None:
    layers = [nn.Conv2d(3, 8, 1), nn.Sequential(*(Dense(8 + 8 * i) for i in range(3)))]
    supernet = check(nn.Sequential(*layers, nn.Conv2d(32, 4, 1)), torch.randn(1, 3, 8, 8))
    assert "outputs are concatenated" in supernet.analysis.notes["stage0.depth"]
    assert "expand" in kinds(supernet)


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(50, 32)
        self.layers = nn.ModuleList(Residual(32, 64) for _ in range(2))
        self.head = nn.Linear(32, 50, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embedding(ids)
        for layer in self.layers:
            x = layer(x)
        return self.head(x)


def test_tied_parameters_stay_tied() -> None:
    supernet = check(Tied(), TOKENS["ids"], width=["50%", "100%"])
    arch = supernet.space.smallest()
    subnet = supernet.extract(arch)
    assert subnet.embedding.weight is subnet.head.weight
    assert subnet.head.weight.shape == (50, 16)
    from ofa.cost import params

    counted = params(supernet).predict(supernet.space.to_population([arch]))
    assert counted.item() == sum(parameter.numel() for parameter in subnet.parameters())


class Squeezing(nn.Sequential):
    """A block of torchvision's kind: its squeeze-and-excitation is an element of a Sequential, as blocks are."""

    class Gate(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.squeeze, self.excite = nn.Conv2d(width, 8, 1), nn.Conv2d(8, width, 1)

        def forward(self, x: Tensor) -> Tensor:
            return x * self.excite(self.squeeze(x.mean((2, 3), keepdim=True)).relu()).sigmoid()

    class Block(nn.Module):
        def __init__(self, width: int, out: int, stride: int) -> None:
            super().__init__()
            self.has_shortcut = stride == 1 and width == out
            self.body = nn.Sequential(
                nn.Conv2d(width, 48, 1),
                nn.ReLU(),
                nn.Conv2d(48, 48, 5, stride, 2, groups=48),
                Squeezing.Gate(48),
                nn.Conv2d(48, out, 1),
            )

        def forward(self, x: Tensor) -> Tensor:
            return x + self.body(x) if self.has_shortcut else self.body(x)


def test_a_gate_in_a_sequential_is_no_stage() -> None:
    block = Squeezing.Block
    features = [nn.Conv2d(3, 16, 3, 2, 1), block(16, 24, 2), *(block(24, 24, 1) for _ in range(3))]
    supernet = check(
        nn.Sequential(*features, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(24, 4)), torch.randn(1, 3, 32, 32)
    )
    assert kinds(supernet) == {"depth", "expand", "kernel"}
    (stage,) = supernet.stages
    assert [type(supernet.analysis.modules[each.path]).__name__ for each in stage.blocks].count("Block") == 4


def test_weight_normalisation_is_followed() -> None:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.utils.weight_norm(nn.Conv1d(16, 32, 3, padding=1)), nn.Conv1d(32, 16, 1)

        def forward(self, x: Tensor) -> Tensor:
            return x + self.last(self.first(x).relu())

    supernet = check(nn.Sequential(nn.Conv1d(4, 16, 3), *(Block() for _ in range(3))), torch.randn(1, 4, 20))
    assert "depth" in kinds(supernet)
    assert not supernet.analysis.trace.unknown_operations


class PostNorm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up, self.down, self.norm = nn.Linear(32, 64), nn.Linear(64, 32), nn.LayerNorm(32)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x + self.down(F.gelu(self.up(x))))


def test_blocks_that_normalise_behind_their_shortcut_go_only_if_asked() -> None:
    def model() -> nn.Module:
        return nn.Sequential(nn.Linear(8, 32), nn.Sequential(*(PostNorm() for _ in range(4))), nn.Linear(32, 3))

    plain = check(model(), torch.randn(1, 6, 8))
    assert kinds(plain) == {"mlp_ratio", "width"}
    assert "pass depth=[...]" in plain.analysis.notes["stage0.depth"]
    supernet = check(model(), torch.randn(1, 6, 8), depth=["50%", "75%"])
    assert supernet.space["stage0.depth"].values == (2, 3, 4)


# -- modules whose code fixes sizes ------------------------------------------------------------------------------------


class FixedAttention(nn.Module):
    """Attention that counts heads and channels as its constructor did."""

    def __init__(self, width: int, heads: int, rate: float = 0.0) -> None:
        super().__init__()
        self.width, self.count, self.size, self.rate = width, heads, width // heads, rate
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        n, t = x.shape[:2]
        q, k, v = (each.view(n, t, self.count, self.size).transpose(1, 2) for each in self.qkv(x).split(self.width, 2))
        scores = q @ k.transpose(2, 3) / self.size**0.5
        if mask is not None:
            scores = scores.masked_fill(~mask[:, None, None], float("-inf"))
        weights = F.dropout(scores.softmax(3), self.rate, self.training)
        return self.out((weights @ v).transpose(1, 2).reshape(n, t, self.width))


class Layer(nn.Module):
    def __init__(self, width: int, attention: nn.Module) -> None:
        super().__init__()
        self.norm1, self.attention, self.norm2 = nn.LayerNorm(width), attention, nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        x = x + self.attention(self.norm1(x), mask)
        return x + self.mlp(self.norm2(x))


class Transformer(nn.Module):
    def __init__(self, rate: float = 0.0) -> None:
        super().__init__()
        self.embedding = nn.Embedding(50, 32)
        self.layers = nn.ModuleList(Layer(32, FixedAttention(32, 4, rate)) for _ in range(2))
        self.head = nn.Linear(32, 5)

    def forward(self, ids: Tensor, mask: Tensor | None = None) -> Tensor:
        x = self.embedding(ids)
        for layer in self.layers:
            x = layer(x, mask)
        return self.head(x.mean(1))


def without_heads(model: Transformer, supernet: Supernet, arch: Arch) -> Transformer:
    """The whole model with nothing going out of the heads and hidden units that an architecture leaves out."""
    for number, layer in enumerate(model.layers):
        heads = int(arch[f"stage0.block{number}.heads"])
        attention, mlp = layer.attention, layer.mlp
        attention.out.weight.data[:, heads * attention.size :] = 0
        hidden = round(32 * float(arch[f"stage0.block{number}.mlp_ratio"]))
        mlp[2].weight.data[:, hidden:] = 0
    return model


def test_attention_that_counts_its_heads_itself() -> None:
    ids = torch.randint(0, 50, (3, 9))
    model = Transformer()
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    supernet = check(model, ids)
    assert kinds(supernet) == {"depth", "heads", "mlp_ratio"}
    assert set(supernet.analysis.forms) == {"layers.0.attention", "layers.1.attention"}
    arch = supernet.space.arch(
        {
            **supernet.space.smallest(),
            "stage0.depth": 2,
            **{f"stage0.block1.{k}": v for k, v in {"heads": 3, "mlp_ratio": 1}.items()},
        }
    )
    twin = Transformer().eval()
    twin.load_state_dict(state)
    assert_same(supernet(ids, arch), without_heads(twin, supernet, arch)(ids), atol=1e-5)
    # Other lengths, batches and masks than it was taken apart with.
    mask = torch.ones(5, 13, dtype=torch.bool)
    mask[:, 10:] = False
    longer = torch.randint(0, 50, (5, 13))
    assert_same(supernet(longer, mask, arch), twin(longer, mask), atol=1e-5)
    assert_same(supernet(longer[:1, :1], arch), twin(longer[:1, :1]), atol=1e-5)
    assert_same(supernet.double()(longer, mask, arch), twin.double()(longer, mask), atol=1e-12)


def test_graphs_are_made_in_inference_mode_too() -> None:
    supernet = check(nn.Sequential(nn.Embedding(50, 32), Attending()), torch.randint(0, 50, (1, 9)))
    arch, ids = supernet.space.smallest(), torch.randint(0, 50, (5, 7))
    expected = supernet.eval()(ids, arch)
    twin = elasticize(supernet.model, ids[:1]).eval()
    with torch.inference_mode():
        assert_same(twin(ids, arch), expected)


class Attending(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(32, 4, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.attention(x, x, x, need_weights=False)[0]


def test_what_is_alike_is_written_down_once() -> None:
    supernet = check(Transformer(), torch.randint(0, 50, (3, 9)))
    forms = list(supernet.analysis.forms.values())
    assert len({id(form.written) for form in forms}) == 1
    assert all(len(form.variants) <= 3 for form in forms)


def test_the_fused_kernel_of_encoder_layers_leaves_narrowed_heads_alone() -> None:
    layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True, norm_first=True)
    model = nn.Sequential(
        nn.Linear(8, 32), nn.TransformerEncoder(layer, 3, enable_nested_tensor=False), nn.Linear(32, 2)
    )
    supernet = check(model, torch.randn(2, 6, 8))
    assert "heads" in kinds(supernet) and len(supernet.analysis.forms) == 3


def test_training_through_a_graph_is_training_the_module() -> None:
    """Three hundred steps at all heads but one that is nothing, in float64, beside the module's own code."""
    model, twin = Transformer().double(), Transformer().double()
    twin.load_state_dict(model.state_dict())
    supernet = elasticize(model, torch.randint(0, 50, (2, 9)))
    arch = supernet.space.arch({**supernet.space.largest(), "stage0.block0.heads": 3, "stage0.block1.heads": 3})
    for each in (model, twin):  # without its last head the twin computes what the subnet does
        for layer in each.layers:
            layer.attention.out.weight.data[:, 24:] = 0
    optimizers = [torch.optim.SGD(each.parameters(), 0.1) for each in (supernet, twin)]
    supernet.train(), twin.train()
    for step in range(300):
        ids = torch.randint(0, 50, (4, 9), generator=torch.Generator().manual_seed(step))
        losses = [F.cross_entropy(out, ids[:, 0] % 5) for out in (supernet(ids, arch), twin(ids))]
        for loss, optimizer in zip(losses, optimizers, strict=True):
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        for layer in twin.layers:
            layer.attention.out.weight.data[:, 24:] = 0
    assert abs(losses[0].item() - losses[1].item()) < 1e-6
    for mine, other in zip(supernet.model.parameters(), twin.parameters(), strict=True):
        kept = other.abs() > 0
        torch.testing.assert_close(mine[kept], other[kept], atol=1e-6, rtol=0)


def test_dropout_in_a_graph_is_on_in_training_only() -> None:
    supernet = elasticize(Transformer(rate=0.5), torch.randint(0, 50, (2, 9)))
    ids, arch = torch.randint(0, 50, (4, 9)), supernet.space.smallest()
    supernet.train()
    assert not torch.equal(supernet(ids, arch), supernet(ids, arch))
    supernet.eval()
    assert torch.equal(supernet(ids, arch), supernet(ids, arch))


class PaddedEncoder(nn.Module):
    """torch's own encoder; a causal mask in the code, if wanted, beside that of the padding."""

    def __init__(self, *, is_causal: bool, batch_first: bool = True) -> None:
        super().__init__()
        self.is_causal, self.batch_first = is_causal, batch_first
        layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=batch_first, norm_first=True)
        self.embedding = nn.Embedding(50, 32)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(32, 5)

    def forward(self, ids: Tensor) -> Tensor:
        ones = torch.ones(ids.shape[1], ids.shape[1], dtype=torch.bool, device=ids.device)
        mask = ones.triu(1) if self.is_causal else None
        x = self.embedding(ids) if self.batch_first else self.embedding(ids).transpose(0, 1)
        x = self.encoder(x, mask=mask, src_key_padding_mask=ids == 0)
        return self.head(x)


@pytest.mark.parametrize("settings", [{}, {"batch_first": False}, {"is_causal": True}])
def test_heads_of_attention_that_is_told_of_padding(settings: dict[str, bool]) -> None:
    """The mask is spread over the heads: over fewer in a subnet, in any batch."""
    ids = torch.randint(1, 50, (1, 9))
    model = PaddedEncoder(**{"is_causal": False, **settings})
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    supernet = check(model, ids)
    assert kinds(supernet) == {"depth", "heads", "mlp_ratio"}
    arch = supernet.space.arch(
        {**supernet.space.largest(), "stage0.block0.heads": 2, "stage0.block1.heads": 3, "stage0.block1.mlp_ratio": 1}
    )
    twin = PaddedEncoder(**{"is_causal": False, **settings}).eval()
    twin.load_state_dict(state)
    for layer, heads in zip(twin.encoder.layers, (2, 3), strict=True):
        layer.self_attn.out_proj.weight.data[:, heads * 8 :] = 0
    twin.encoder.layers[1].linear2.weight.data[:, 32:] = 0
    for shape in ((1, 9), (3, 9), (5, 6)):
        ids = torch.randint(1, 50, shape)
        ids[-1, 4:] = 0
        assert_same(supernet(ids, arch), twin(ids), atol=1e-5)
        assert_same(supernet.extract(arch)(ids), twin(ids), atol=1e-5)


class MaskOverHeads(nn.Module):
    """Attention whose batch is sequences × heads, and whose mask is repeated for each of them."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how, self.count = how, 4
        self.qkv, self.out = nn.Linear(32, 96), nn.Linear(32, 32)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        n, t, _ = x.shape
        q, k, v = self.qkv(x).view(n, t, 3, self.count, 8).permute(2, 0, 3, 1, 4).reshape(3, n * self.count, t, 8)
        bias = mask.masked_fill(mask > 0, -1e4)[:, None, None]
        if self.how == "repeat":
            bias = bias.repeat(1, self.count, t, 1).view(n * self.count, t, t)
        elif self.how == "expand":
            bias = bias.expand(n, self.count, t, t).reshape(n * self.count, t, t)
        else:
            bias = bias[:, 0].repeat_interleave(self.count, 0)
        y = torch.baddbmm(bias.expand(-1, t, -1), q, k.transpose(1, 2)).softmax(-1) @ v
        return x + self.out(y.view(n, self.count, t, 8).transpose(1, 2).reshape(n, t, 32))


@pytest.mark.parametrize("how", ["repeat", "expand", "repeat_interleave"])
def test_masks_that_code_repeats_for_every_head(how: str) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleList(MaskOverHeads(how) for _ in range(2))

        def forward(self, x: Tensor, mask: Tensor) -> Tensor:
            for layer in self.layers:
                x = layer(x, mask)
            return x

    supernet = check(Net(), (torch.randn(1, 6, 32), torch.zeros(1, 6)))
    assert kinds(supernet) == {"depth", "heads"} and len(supernet.analysis.forms) == 2
    arch = supernet.space.arch({**supernet.space.largest(), "stage0.block1.heads": 2})
    x, mask = torch.randn(3, 5, 32), torch.tensor([[0.0, 0, 0, 1, 1], [0, 0, 0, 0, 1], [0, 0, 0, 0, 0]])
    found = supernet(x, mask, arch)
    supernet.model.layers[1].out.weight.data[:, 16:] = 0
    assert_same(found, supernet.model(x, mask), atol=1e-5)


class HandWrittenLSTM(nn.Module):
    """Its states begin as zeros of a width that its code says; it is no element of anything, and no block."""

    def __init__(self) -> None:
        super().__init__()
        self.width = 32
        self.inputs, self.states = nn.Linear(8, 128), nn.Linear(32, 128, bias=False)
        self.head = nn.Linear(32, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = c = torch.zeros(len(x), self.width, device=x.device)
        for step in x.unbind(1):
            i, f, g, o = (self.inputs(step) + self.states(h)).chunk(4, 1)
            c = f.sigmoid() * c + i.sigmoid() * g.tanh()
            h = o.sigmoid() * c.tanh()
        return self.head(h)


def test_a_recurrent_network_by_hand_runs_as_one_graph() -> None:
    supernet = check(HandWrittenLSTM(), torch.randn(1, 5, 8))
    assert kinds(supernet) == {"width"} and set(supernet.analysis.forms) == {""}
    arch, x = supernet.space.smallest(), torch.randn(3, 7, 8)
    found = supernet(x, arch)
    for name in ("inputs.weight", "inputs.bias", "states.weight"):
        supernet.model.get_parameter(name).data.unflatten(0, (4, 32))[:, 16:] = 0
    supernet.model.states.weight.data[:, 16:] = 0
    supernet.model.head.weight.data[:, 16:] = 0
    assert_same(found, supernet.model(x))
    graph = to_onnx(supernet.extract(arch), InputSpec(Inputs(torch.randn(1, 5, 8)), ()))
    assert [each.name for each in graph.graph.input] == ["x"]


class RecurrentMaps(nn.Module):
    """States of convolutions in groups, normalised in groups, concatenated to what comes."""

    def __init__(self) -> None:
        super().__init__()
        self.mix, self.norm = nn.Conv2d(3 + 32, 32, 3, padding=1), nn.GroupNorm(4, 32)
        self.depthwise, self.head = nn.Conv2d(32, 32, 3, padding=1, groups=32), nn.Conv2d(32, 2, 1)

    def forward(self, frames: Tensor) -> Tensor:
        n, t, _, height, width = frames.shape
        state = torch.zeros(n, 32, height, width, device=frames.device)
        for i in range(t):
            state = self.norm(self.depthwise(self.mix(torch.cat([frames[:, i], state], 1)))).tanh()
        return self.head(state)


def test_groups_of_convolutions_and_norms_in_a_graph() -> None:
    supernet = check(RecurrentMaps(), torch.randn(1, 3, 3, 8, 8))
    assert set(supernet.analysis.forms) == {""} and supernet.space["stem.width"].values == (16, 24, 32)
    frames, model = torch.randn(2, 4, 3, 6, 6), supernet.model
    found = supernet(frames, supernet.space.smallest())
    for tensor in (model.mix.weight, model.mix.bias, model.norm.weight, model.norm.bias, model.depthwise.weight):
        tensor.data[16:] = 0
    model.depthwise.bias.data[16:] = 0
    model.mix.weight.data[:, 19:] = 0
    model.head.weight.data[:, 16:] = 0
    assert_same(found, model(frames))


class Scanned(nn.Module):
    """A state that begins as zeros of the width of what it is added to."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.up, self.down = nn.LayerNorm(24), nn.Linear(24, 48), nn.Linear(48, 24)
        self.decay = nn.Parameter(torch.rand(48))

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.up(self.norm(x))
        state, states = torch.zeros(len(x), hidden.shape[-1], device=x.device), []
        for step in hidden.unbind(1):
            state = self.decay * state + step
            states.append(state)
        return x + self.down(torch.stack(states, 1).relu())


def test_states_that_begin_as_zeros() -> None:
    supernet = check(nn.Sequential(nn.Linear(6, 24), *(Scanned() for _ in range(3))), torch.randn(1, 5, 6))
    assert {"depth", "mlp_ratio"} <= kinds(supernet) and not supernet.analysis.forms


class Annotated(nn.Module):
    """The Annotated Transformer's way: layers in a list, shortcuts in modules of their own that are given functions."""

    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linears = nn.ModuleList(nn.Linear(32, 32) for _ in range(4))

        def forward(self, x: Tensor, mask: Tensor) -> Tensor:
            n = x.size(0)
            q, k, v = (f(x).view(n, -1, 4, 8).transpose(1, 2) for f in self.linears[:3])
            weights = (q @ k.transpose(2, 3) / 8**0.5).masked_fill(mask[:, None, None] == 0, -1e9).softmax(-1)
            return self.linears[3]((weights @ v).transpose(1, 2).contiguous().view(n, -1, 32))

    class Shortcut(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.LayerNorm(32)

        def forward(self, x: Tensor, function: Any) -> Tensor:
            return x + function(self.norm(x))

    class Layer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention = Annotated.Attention()
            self.mlp = nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 32))
            self.shortcuts = nn.ModuleList(Annotated.Shortcut() for _ in range(2))

        def forward(self, x: Tensor, mask: Tensor) -> Tensor:
            x = self.shortcuts[0](x, lambda x: self.attention(x, mask))
            return self.shortcuts[1](x, self.mlp)

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.layers = nn.Embedding(50, 32), nn.ModuleList(Annotated.Layer() for _ in range(3))

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        x = self.embedding(ids)
        for layer in self.layers:
            x = layer(x, mask)
        return x


def test_shortcuts_in_modules_of_their_own() -> None:
    supernet = check(Annotated(), {"ids": torch.randint(0, 50, (1, 7)), "mask": torch.ones(1, 7)})
    (stage,) = supernet.stages
    assert [block.path for block in stage.blocks] == ["layers.0", "layers.1", "layers.2"]
    assert kinds(supernet) == {"depth", "heads", "mlp_ratio"}
    assert set(supernet.analysis.forms) == {f"layers.{i}.attention" for i in range(3)}


# -- costs and parts ---------------------------------------------------------------------------------------------------


class Twice(nn.Module):
    """Most of it is one module that runs twice, which no part of a latency table stands for."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, 2, 1)
        self.body = nn.Sequential(*(Conv2dBlock(16) for _ in range(2)))
        self.head = nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(self.body(self.stem(x))).mean((2, 3)))


def test_the_share_of_a_network_that_parts_stand_for() -> None:
    once = check(
        nn.Sequential(nn.Conv2d(3, 16, 3, 2, 1), *(Conv2dBlock(16) for _ in range(3))), torch.randn(1, 3, 16, 16)
    )
    assert once.measurable_share == 1
    assert check(Twice(), torch.randn(1, 3, 16, 16)).measurable_share < 0.3


class Towers(nn.Module):
    """All of its layers run twice, and are in no block."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(50, 32)
        self.first, self.second, self.last = nn.Linear(32, 64), nn.Linear(64, 48), nn.Linear(48, 16)

    def tower(self, ids: Tensor) -> Tensor:
        return self.last(self.second(self.first(self.embedding(ids).mean(1)).relu()).relu())

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        return (self.tower(left) * self.tower(right)).sum(1)


def test_costs_of_layers_that_run_twice_follow_all_their_widths() -> None:
    ids = torch.randint(0, 50, (1, 6))
    supernet = check(Towers(), (ids, ids), width=["50%", "75%", "100%"])
    archs = [supernet.space.smallest(), supernet.space.largest(), supernet.space.sample(np.random.default_rng(1))]
    predicted = macs(supernet).predict(supernet.space.to_population(archs))
    for arch, found in zip(archs, predicted.tolist(), strict=True):
        assert found == sum(sizes_at(supernet.extract(arch), supernet.analysis.example()).macs)


def test_a_space_of_before_more_was_found() -> None:
    ids = torch.randint(0, 50, (3, 9))
    supernet = elasticize(Transformer(), ids)
    before = SearchSpace(tuple(dim for dim in supernet.space.dims if not dim.name.endswith("heads")))
    assert supernet.keep_whole(before) and supernet.space == before
    assert kinds(supernet) == {"depth", "mlp_ratio"}
    subnet = supernet.extract(before.smallest())
    assert subnet.layers[0].attention.qkv.out_features == 3 * 32
    assert macs(supernet).predict(before.to_population([before.smallest()])).item() > 0
    assert supernet.slots
    other = SearchSpace((*before.dims, Dim("stage9.depth", (1, 2))))
    assert not supernet.keep_whole(other) and supernet.space == before


@pytest.mark.parametrize("free", [(), ("tokens",)])
def test_a_graph_is_exported_with_free_axes_too(free: tuple[str, ...]) -> None:
    ids = torch.randint(0, 50, (1, 9))
    spec = InputSpec(Inputs(ids), (Axis("tokens", ((0, 1),)),))
    supernet = elasticize(Transformer(), spec)
    subnet = supernet.extract(supernet.space.smallest())
    graph = to_onnx(subnet, spec, batch=None if free else 1, free=free)
    session = onnxruntime.InferenceSession(to_bytes(graph), providers=["CPUExecutionProvider"])
    (given,) = session.get_inputs()
    assert (given.name, given.shape) == ("ids", ["batch", "tokens"] if free else [1, 9])
    for shape in [(1, 9), (3, 13)] if free else [(1, 9)]:
        ids = torch.randint(0, 50, shape)
        (found,) = session.run(None, {"ids": ids.numpy()})
        torch.testing.assert_close(torch.from_numpy(found), subnet(ids), atol=1e-5, rtol=1e-4)


def test_a_graph_for_all_sizes_once_there_were_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graph_form, "NUM_PLAIN", 0)
    supernet = check(Transformer(), torch.randint(0, 50, (2, 9)))
    (first, *_) = supernet.analysis.forms.values()
    before = len(first.variants)
    arch = supernet.space.smallest()
    for batch, length in ((2, 9), (4, 7), (5, 11)):
        assert supernet(torch.randint(0, 50, (batch, length)), arch).shape == (batch, 5)
    assert len(first.variants) <= before + 1


def test_axes_that_a_file_cannot_leave_free() -> None:
    with pytest.raises(UsageError, match="unknown axis to leave free 'token'; did you mean 'tokens'"):
        to_onnx(Transformer().eval(), InputSpec(Inputs(TOKENS["ids"]), (Axis("tokens", ((0, 1),)),)), free=["token"])


class Named(nn.Module):
    """Layers are called by name, and its head takes a mapping."""

    class Head(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.low, self.high = nn.Conv2d(16, 4, 1), nn.Conv2d(16, 4, 1)

        def forward(self, features: dict[str, Tensor]) -> Tensor:
            return self.low(features["low"]) + self.high(features["high"])

    class Block(Conv2dBlock):
        def forward(self, hidden: Tensor, scale: float = 1.0) -> Tensor:  # type: ignore[override]
            return scale * super().forward(hidden)

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, 16, 3, 2, 1), Named.Head()
        self.body = nn.ModuleList(Named.Block(16) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        low = x = self.stem(x)
        for block in self.body:
            x = block(hidden=x, scale=0.5)
        return self.head({"low": low, "high": x})


def test_parts_of_what_is_called_by_name_or_with_a_mapping() -> None:
    supernet = check(Named(), torch.randn(1, 3, 16, 16))
    assert supernet.measurable_share == 1
    for slot in supernet.slots:
        for key in {key for key in slot.keys.ravel().tolist() if key}:
            part = supernet.part(key)
            assert part.module(torch.randn(1, *part.input_shape)).ndim == 4


class Padded(nn.Module):
    """Looks at lengths, so that it runs with values, where torch would take a fused kernel for its attention."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Attending() for _ in range(2))

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        x = x[:, : int(lengths.max())]
        for layer in self.layers:
            x = layer(x)
        return x


def test_products_of_attention_are_counted_with_values_too() -> None:
    supernet = check(Padded(), (torch.randn(1, 9, 32), torch.tensor([7])))
    assert supernet.analysis.trace.has_values and kinds(supernet) == {"depth", "heads"}
    largest = macs(supernet).predict(supernet.space.to_population([supernet.space.largest()]))
    assert largest.item() == 2 * (4 * 7 * 32 * 32 + 2 * 7 * 7 * 32)


class Caching(nn.Module):
    """Hands an object of its own to its attention, which might change it."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(50, 32)
        self.layers = nn.ModuleList(Caching.Layer() for _ in range(2))

    class Layer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention = Caching.Attention(32, 4)

        def forward(self, x: Tensor, cache: object) -> Tensor:
            return x + self.attention(x, cache=cache)

    class Attention(FixedAttention):
        def forward(self, x: Tensor, cache: object = None) -> Tensor:  # type: ignore[override]
            return super().forward(x)

    def forward(self, ids: Tensor, cache: object = None) -> Tensor:
        x = self.embedding(ids)
        for layer in self.layers:
            x = layer(x, cache)
        return x


def test_objects_are_nothing_that_a_graph_is_for() -> None:
    ids = torch.randint(0, 50, (2, 9))
    supernet = elasticize(Caching(), ids)
    assert kinds(supernet) == {"depth", "heads"}
    with pytest.raises(UsageError, match=r"Attention runs as a graph .* called with a SimpleNamespace"):
        supernet(ids, SimpleNamespace(), supernet.space.smallest())
    supernet(ids, SimpleNamespace(), supernet.space.largest())
    assert kinds(elasticize(Caching(), Inputs(ids, cache=SimpleNamespace()))) == {"depth"}
