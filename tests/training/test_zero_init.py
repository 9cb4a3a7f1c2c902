from __future__ import annotations

import pytest
import torch

from ofa.supernet import create_supernet
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
