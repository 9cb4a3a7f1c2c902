"""Where a subnet's weights lie in the supernet's: the same elements that extraction copies."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from ofa.deploy.elastic_weights import WeightMap, boxes_around
from ofa.supernet import Supernet, create_supernet


def seeded(name: str, **choices: object) -> Supernet:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return create_supernet(name, num_classes=10, **choices).eval()


# Channels and kernels; heads, whose queries, keys and values are three runs; widths of a whole network.
NETWORKS = {
    "ofa_mobilenetv3_tiny": {},
    "vit_tiny": {},
    "resnet18": {"width": ("50%", "100%")},
    "regnety_002": {},
}


@pytest.mark.parametrize("name", NETWORKS)
def test_parts_are_what_extraction_copies(name: str) -> None:
    supernet = seeded(name, **NETWORKS[name])
    weight_map, space = WeightMap(supernet), supernet.space
    archs = [space.smallest(), *(space.sample(np.random.default_rng(seed)) for seed in range(2)), space.largest()]
    structures = [weight_map.structure(arch) for arch in archs]
    parts = [weight_map.parts(structure) for structure in structures]
    boxes, whole = boxes_around(parts), dict(supernet.model.named_parameters())
    for arch, subnet, structure in zip(archs, parts, structures, strict=True):
        extracted = dict(supernet.extract(arch).named_parameters())
        assert subnet.keys() == extracted.keys()
        for path, parameter in extracted.items():
            assert torch.equal(subnet[path].take(whole[path]), parameter), path
            common = boxes[path].take(whole[path])
            assert torch.equal(subnet[path].within(boxes[path]).take(common), parameter), path
        assert [type(module) for module in structure.modules()] == [
            type(module) for module in supernet.extract(arch).modules()
        ]


def test_the_box_is_no_larger_than_what_is_used() -> None:
    supernet = seeded("ofa_mobilenetv3_tiny")
    weight_map, smallest = WeightMap(supernet), supernet.space.smallest()
    parts = weight_map.parts(weight_map.structure(smallest))
    boxes, whole = boxes_around([parts]), dict(supernet.model.named_parameters())
    for path, parameter in supernet.extract(smallest).named_parameters():
        assert torch.equal(boxes[path].take(whole[path]), parameter)


def test_the_supernet_stays_as_it_is() -> None:
    supernet = seeded("ofa_mobilenetv3_tiny", kernel_transforms=True)
    before = {name: tensor.clone() for name, tensor in supernet.state_dict().items()}
    weight_map = WeightMap(supernet)
    structure = weight_map.structure(supernet.space.largest())
    for module in structure.modules():
        module._forward_hooks.clear()
        for name in list(module._parameters):
            del module._parameters[name]
    assert all(isinstance(parameter, nn.Parameter) for parameter in supernet.parameters())
    assert before.keys() == supernet.state_dict().keys()
    assert all(torch.equal(before[name], tensor) for name, tensor in supernet.state_dict().items())
    weight_map.parts(weight_map.structure(supernet.space.largest()))  # nor does one structure disturb another
