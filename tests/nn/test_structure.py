from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from ofa.nn.structure import clone_structure, detach_buffers, own_hooks, own_tensors


@pytest.fixture
def model() -> Any:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Sequential(nn.ReLU(), nn.Conv2d(4, 2, 1)))


def storages(module: nn.Module) -> set[int]:
    return {tensor.untyped_storage().data_ptr() for tensor in module.state_dict(keep_vars=True).values()}


def test_clone_shares_tensors_but_no_module(model: Any) -> None:
    clone = clone_structure(model)
    assert repr(clone) == repr(model)
    for (name, mine), (other_name, theirs) in zip(clone.named_modules(), model.named_modules(), strict=True):
        assert name == other_name
        assert mine is not theirs
        assert type(mine) is type(theirs)
    for mine, theirs in zip(clone.parameters(), model.parameters(), strict=True):
        assert mine is theirs
    for mine, theirs in zip(clone.buffers(), model.buffers(), strict=True):
        assert mine is theirs


def test_what_is_done_to_a_clone_leaves_the_original_alone(model: Any) -> None:
    before = repr(model)
    clone = clone_structure(model)
    del clone[2]
    clone[0].stride = (2, 2)
    clone[0]._parameters["bias"] = None
    clone[1].register_buffer("extra", torch.zeros(1))
    own_hooks(clone)
    clone[0].register_forward_hook(lambda *_: None)
    clone.eval()
    assert repr(model) == before
    assert model[0].bias is not None
    assert "extra" not in dict(model.named_buffers())
    assert not model[0]._forward_hooks
    assert all(module.training for module in model.modules())


def test_gradients_reach_the_original(model: Any) -> None:
    clone_structure(model)(torch.randn(2, 3, 8, 8)).sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_a_module_in_two_places_stays_one() -> None:
    shared = nn.Linear(2, 2)
    clone: Any = clone_structure(nn.Sequential(shared, nn.Sequential(shared)))
    assert clone[0] is clone[1][0]
    assert clone[0] is not shared


class Choosing(nn.Module):
    """Chooses its ``forward`` when it is made, as FasterNet's partial convolution does, and has its child know it."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(2, 2)
        self.linear.scale = self.scale  # type: ignore[assignment]
        self.factor = 1
        self.forward = self.forward_scaled

    def scale(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.factor

    def forward_scaled(self, x: torch.Tensor) -> torch.Tensor:
        return self.scale(self.linear(x))


def test_methods_kept_as_attributes_are_those_of_the_clone() -> None:
    model: Any = nn.Sequential(Choosing())
    clone = clone_structure(model)
    own_tensors(clone)
    with torch.no_grad():
        clone[0].linear.weight.fill_(1)
        clone[0].linear.bias.fill_(0)
    clone[0].factor = 3
    assert clone(torch.ones(1, 2)).tolist() == [[6, 6]]
    assert clone[0].linear.scale(1) == 3
    assert model[0].linear.scale(1) == 1
    child: Any = clone_structure(model[0].linear)  # whose method's owner is no part of the clone
    assert child.scale(1) == 1


def test_detached_buffers_take_no_shared_statistics(model: Any) -> None:
    clone = clone_structure(model)
    detach_buffers(clone)
    clone(torch.randn(2, 3, 8, 8) + 5)
    assert (model[1].running_mean == 0).all()
    assert model[1].num_batches_tracked == 0
    assert clone[1].num_batches_tracked == 1
    assert clone[0].weight is model[0].weight


def test_own_tensors_leaves_no_sharing_and_no_views(model: Any) -> None:
    clone = clone_structure(model)
    clone[0]._parameters["weight"] = model[0].weight[:2, :, ::2].transpose(2, 3)
    own_tensors(clone)
    assert not storages(clone) & storages(model)
    for parameter in clone.parameters():
        assert isinstance(parameter, nn.Parameter)
        assert parameter.is_leaf
        assert parameter.is_contiguous()
        assert parameter.untyped_storage().nbytes() == parameter.numel() * parameter.element_size()


# -- caches ------------------------------------------------------------------------------------------------------------


class Caching(nn.Module):
    """Keeps a tensor per shape, as LeViT's attention does with its biases."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(4))
        self.attention_bias_cache: dict[str, torch.Tensor] = {}
        self.options = {"eps": 1e-5}
        self.sizes = (1, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        key = str(tuple(x.shape))
        if key not in self.attention_bias_cache:
            self.attention_bias_cache[key] = self.scale.detach() * 2
        return x * self.attention_bias_cache[key]


def test_a_clone_has_caches_of_its_own() -> None:
    model: Any = nn.Sequential(Caching(), nn.Sequential(Caching()))
    x = torch.ones(1, 4)
    model(x)
    clone = clone_structure(model)
    for mine, theirs in ((clone[0], model[0]), (clone[1][0], model[1][0])):
        assert mine.attention_bias_cache == {}
        assert mine.options == {"eps": 1e-5}
        assert mine.options is not theirs.options
        assert list(theirs.attention_bias_cache) == ["(1, 4)"]
    clone[0]._parameters["scale"] = model[0].scale * 3
    assert torch.equal(clone(x), torch.full((1, 4), 12.0))
    assert torch.equal(model(x), torch.full((1, 4), 4.0))


def test_a_cloned_cache_keeps_what_is_no_tensor() -> None:
    module = Caching()
    module.options.update(limit=3)
    kept = module.attention_bias_cache
    module(torch.ones(1, 4))
    vars(module)["options"]["table"] = torch.ones(1)
    assert clone_structure(module).options == {"eps": 1e-5, "limit": 3}
    assert module.attention_bias_cache is kept
    assert len(kept) == 1
