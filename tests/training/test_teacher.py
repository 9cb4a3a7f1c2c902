from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torchvision.ops import StochasticDepth

from ofa.config import ConfigError
from ofa.supernet import create_supernet
from ofa.supernet.model_sources import ModelCodeError
from ofa.supernet.presets import UnknownModelError, create_model
from ofa.supernet.weights import WeightsError
from ofa.tasks import Classification
from ofa.training.strategy import Strategy
from ofa.training.teacher import frozen_copy, load_teacher, without_dropout


def test_a_frozen_copy_does_not_follow_and_has_no_dropout() -> None:
    supernet = create_supernet("ofa_mobilenetv3_tiny", num_classes=10, drop_rate=0.5, drop_path_rate=0.5).train()
    frozen = frozen_copy(supernet)
    images = torch.randn(4, 3, 20, 20, generator=torch.Generator().manual_seed(0))
    said = lambda: Classification().teaching(frozen(images))  # noqa: E731
    before = said()
    assert torch.equal(said(), before)
    torch.testing.assert_close(before.sum(1), torch.ones(4))
    with torch.no_grad():
        for parameter in supernet.parameters():
            parameter.add_(1)
    assert torch.equal(said(), before)
    assert not any(parameter.requires_grad for parameter in frozen.parameters())
    assert supernet.model.drop_rate == 0.5


def test_without_dropout_training_mode_is_repeatable() -> None:
    model = create_model("vit_tiny", num_classes=10, drop_rate=0.5, drop_path_rate=0.5).train()
    images = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    torch.nn.init.normal_(model.head.weight, generator=torch.Generator().manual_seed(1))  # type: ignore[union-attr, arg-type]
    with torch.no_grad():
        assert not torch.equal(model(images), model(images))
        without_dropout(model)
        assert torch.equal(model(images), model(images))


def test_without_dropout_knows_torchvision() -> None:
    with torch.device("meta"):
        model = create_model("torchvision:efficientnet_b0", drop_rate=0.5, drop_path_rate=0.5)
    without_dropout(model)
    rates = [module.p for module in model.modules() if isinstance(module, (StochasticDepth, torch.nn.Dropout))]
    assert len(rates) > 10 and set(rates) == {0.0}


def test_a_teacher_of_torchvision_or_of_a_file_needs_weights(tmp_path: Path) -> None:
    file, code = str(tmp_path / "weights.safetensors"), tmp_path / "mine.py"
    save_file(create_model("torchvision:mobilenet_v3_small", num_classes=5).state_dict(), file)
    strategy = Strategy(teacher="torchvision:mobilenet_v3_small", teacher_weights=file)
    assert load_teacher(strategy, num_classes=5) is not None
    with pytest.raises(WeightsError, match=r"'classifier.3.bias' is \(10,\) in the model and \(5,\) in the file"):
        load_teacher(strategy, num_classes=10)
    code.write_text("from torch import nn\n\n\ndef make(num_classes):\n    return nn.Linear(2, num_classes)\n")
    with pytest.raises(ModelCodeError, match=r"make in .*mine.py has no argument pretrained"):
        load_teacher(Strategy(teacher=f"{code}:make"), num_classes=5)


def test_teachers_are_checked(tmp_path: Path) -> None:
    assert load_teacher(Strategy(), num_classes=10) is None
    with pytest.raises(ConfigError, match="teacher 'vit_tiny' has no weights of its own; give teacher_weights"):
        load_teacher(Strategy(teacher="vit_tiny"), num_classes=10)
    file = str(tmp_path / "weights.safetensors")
    save_file(create_model("ofa_mobilenetv3_tiny", num_classes=5).state_dict(), file)
    strategy = Strategy(teacher="ofa_mobilenetv3_tiny", teacher_weights=file)
    teacher = load_teacher(strategy, num_classes=5)
    assert teacher is not None
    assert not teacher.training
    with pytest.raises(WeightsError, match=r"'classifier.bias' is \(10,\) in the model and \(5,\) in the file"):
        load_teacher(strategy, num_classes=10)


def test_a_teacher_without_weights_for_these_classes_is_refused_before_anything_is_fetched() -> None:
    with pytest.raises(ConfigError, match="teacher 'resnet18' knows 1000 classes, not 10; give teacher_weights of one"):
        load_teacher(Strategy(teacher="resnet18"), num_classes=10)
    with pytest.raises(ConfigError, match=r"teacher 'resnet18\.tv_in1k' knows 1000 classes, not 10"):
        load_teacher(Strategy(teacher="resnet18.tv_in1k"), num_classes=10)
    with pytest.raises(ConfigError, match="teacher 'efficientnet_b8' has no weights of its own; give teacher_weights"):
        load_teacher(Strategy(teacher="efficientnet_b8"), num_classes=1000)


def test_an_unknown_teacher_names_the_nearest() -> None:
    with pytest.raises(UnknownModelError, match=r"unknown .*'resnet19'; did you mean 'resnet\d+'\? the nearest of"):
        load_teacher(Strategy(teacher="resnet19"), num_classes=10)


def test_a_teacher_has_no_gradients_and_keeps_its_statistics(tmp_path: Path) -> None:
    file = str(tmp_path / "weights.safetensors")
    save_file(create_model("ofa_mobilenetv3_tiny", num_classes=5).state_dict(), file)
    teacher = load_teacher(Strategy(teacher="ofa_mobilenetv3_tiny", teacher_weights=file), num_classes=5)
    assert teacher is not None
    before = {name: tensor.clone() for name, tensor in teacher.state_dict().items()}
    images = torch.randn(4, 3, 20, 20, generator=torch.Generator().manual_seed(0))
    said = Classification().teaching(teacher(images))
    assert not said.requires_grad
    assert not any(parameter.requires_grad for parameter in teacher.parameters())
    assert all(torch.equal(tensor, before[name]) for name, tensor in teacher.state_dict().items())


@pytest.mark.parametrize("name", ["ofa_mobilenetv3_tiny", "vit_tiny", "ofa_resnet50d"])
def test_a_subnet_without_dropout_leaves_it_to_the_supernet(name: str) -> None:
    def rates(module: torch.nn.Module) -> list[float]:
        found = (getattr(m, key, 0) for m in module.modules() for key in ("p", "drop_prob", "drop_rate"))
        return [rate for rate in found if rate]

    with torch.device("meta"):
        supernet = create_supernet(name, num_classes=10, drop_rate=0.3, drop_path_rate=0.2).train()
        subnet = supernet.subnet(supernet.space.smallest())
    before = rates(supernet.model)
    assert rates(subnet)
    without_dropout(subnet)
    assert rates(subnet) == []
    assert rates(supernet.model) == before


def test_a_frozen_copy_is_on_the_device_of_its_supernet(torch_device: str, full_fp32: None) -> None:
    supernet = create_supernet("ofa_mobilenetv3_tiny", num_classes=10).train()
    images = torch.randn(8, 3, 20, 20, generator=torch.Generator().manual_seed(0))
    teach = Classification().teaching
    expected = teach(frozen_copy(supernet)(images))
    found = teach(frozen_copy(supernet.to(torch_device))(images.to(torch_device)))
    assert found.device.type == torch_device
    torch.testing.assert_close(found.cpu(), expected, atol=1e-4, rtol=1e-3)
