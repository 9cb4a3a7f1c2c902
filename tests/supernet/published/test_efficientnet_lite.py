from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch

from ofa.supernet import create_supernet
from ofa.supernet.presets import create_model
from ofa.supernet.published.efficientnet_lite import converted, preset_of
from ofa.supernet.weights import WeightsError


def test_tensors_stand_in_timms_order(tmp_path: Path) -> None:
    model = timm.create_model("tf_efficientnet_lite0").eval()
    theirs = {f"_{i}" if i else "_conv_stem.weight": each for i, each in enumerate(model.state_dict().values())}
    assert preset_of(theirs) == "tf_efficientnet_lite0"
    assert all(torch.equal(tensor, model.state_dict()[name]) for name, tensor in converted(theirs).items())
    torch.save(theirs, tmp_path / "lite0.pth")
    weights = f"efficientnet-lite:{tmp_path / 'lite0.pth'}"
    images = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(create_model("tf_efficientnet_lite0", weights=weights).eval()(images), model(images))
    ten = create_supernet("tf_efficientnet_lite0", num_classes=10, weights=weights)
    assert torch.equal(ten.model.get_parameter("conv_stem.weight"), model.get_parameter("conv_stem.weight"))


def test_other_weights_are_refused() -> None:
    with pytest.raises(
        WeightsError, match=r"no weights of efficientnet-lite0, .*: there are 1 tensors, the first is 'a'"
    ):
        preset_of({"a": torch.zeros(1)})
