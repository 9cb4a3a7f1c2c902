from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from ofa.config import ConfigError
from ofa.supernet import create_supernet
from ofa.supernet.presets import WeightsError, create_model
from ofa.training.strategy import Strategy
from ofa.training.teacher import frozen_copy, load_teacher, probabilities, without_dropout


def test_a_frozen_copy_does_not_follow_and_has_no_dropout() -> None:
    supernet = create_supernet("ofa_mobilenetv3_tiny", num_classes=10, drop_rate=0.5, drop_path_rate=0.5).train()
    frozen = frozen_copy(supernet)
    images = torch.randn(4, 3, 20, 20, generator=torch.Generator().manual_seed(0))
    before = probabilities(frozen, images)
    assert torch.equal(probabilities(frozen, images), before)
    torch.testing.assert_close(before.sum(1), torch.ones(4))
    with torch.no_grad():
        for parameter in supernet.parameters():
            parameter.add_(1)
    assert torch.equal(probabilities(frozen, images), before)
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
