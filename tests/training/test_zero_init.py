from __future__ import annotations

import pytest
import timm
import torch

from ofa.supernet import create_supernet, elasticize
from ofa.training.zero_init import zero_init


@pytest.mark.parametrize("name", ["ofa_mobilenetv3_tiny", "resnet26", "convnext_atto"])
def test_blocks_with_a_shortcut_begin_as_the_identity(name: str) -> None:
    supernet = create_supernet(name, num_classes=10).train()
    changed = zero_init(supernet)
    removable = [stage.blocks[position].path for stage in supernet.stages for position in stage.removable]
    assert removable
    assert len(changed) >= len(removable)
    seen = []

    def compare(module: torch.nn.Module, inputs: tuple[torch.Tensor], output: torch.Tensor) -> None:
        seen.append(torch.equal(output, inputs[0]))

    for path in removable:
        supernet.model.get_submodule(path).register_forward_hook(compare)  # type: ignore[arg-type]
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    supernet.model(images).square().sum().backward()
    assert seen == [True] * len(removable)
    for parameter in changed:
        gradient = supernet.model.get_parameter(parameter).grad
        assert gradient is not None
        assert gradient.abs().sum() > 0


def test_every_branch_of_a_transformer_block_is_silent() -> None:
    model = timm.create_model(
        "deit3_small_patch16_224", img_size=32, embed_dim=48, num_heads=3, depth=4, num_classes=10
    )
    supernet = elasticize(model, depth=[2, 4], resolution=[32])
    expected = {f"blocks.{block}.{scale}.gamma" for block in (1, 2, 3) for scale in ("ls1", "ls2")}
    assert set(zero_init(supernet)) == expected
    tokens = torch.randn(2, 5, 48, generator=torch.Generator().manual_seed(0))
    for block in (1, 2, 3):
        assert torch.equal(model.get_submodule(f"blocks.{block}")(tokens), tokens)


def test_the_largest_begins_as_its_own_shallow_subnet() -> None:
    supernet = create_supernet("ofa_mobilenetv3_tiny", num_classes=10).eval()
    space = supernet.space
    largest = dict(space.largest())
    shallow = {**largest, **{name: 1 for name in space.names if name.endswith("depth")}}
    shallow = {name: value for name, value in shallow.items() if name in space.smallest()}
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert not torch.allclose(supernet(images, largest), supernet(images, shallow))
        zero_init(supernet)
        torch.testing.assert_close(supernet(images, largest), supernet(images, shallow))


def test_blocks_without_a_scale_are_left_alone() -> None:
    supernet = create_supernet("vit_tiny", num_classes=10)
    before = {name: tensor.clone() for name, tensor in supernet.state_dict().items()}
    assert zero_init(supernet) == []
    assert all(torch.equal(tensor, before[name]) for name, tensor in supernet.state_dict().items())


def test_on_any_device(torch_device: str) -> None:
    supernet = create_supernet("ofa_mobilenetv3_tiny", num_classes=10).to(torch_device)
    for name in zero_init(supernet):
        parameter = supernet.model.get_parameter(name)
        assert parameter.device.type == torch_device and not parameter.any()
