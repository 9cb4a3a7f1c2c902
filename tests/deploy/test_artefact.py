"""One subnet in the form that a device runs."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from ofa.deploy.artefact import _accuracy
from ofa.deploy.targets.network import HalfPrecision
from ofa.training import SubnetEvaluator


def test_half_precision_leaves_the_module_as_it_is() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(64, 5)).eval()
    images = torch.linspace(0, 1, 96).reshape(2, 3, 4, 4).repeat(1, 1, 2, 2)[:, :, :6, :6]
    half = HalfPrecision(module)
    assert {parameter.dtype for parameter in module.parameters()} == {torch.float32}
    found = half(images)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, module(images), rtol=1e-2, atol=1e-2)
    assert not torch.equal(found, module(images))


def test_the_accuracy_that_int8_is_held_against_is_of_the_search_split(evaluator: SubnetEvaluator) -> None:
    accuracy = _accuracy(evaluator, evaluator.task.feed(evaluator.data, {"resolution": 32}), 0.5)
    labels = evaluator.data.labels("search").numpy()
    assert len(accuracy.images) == len(labels)
    assert accuracy.worth(np.eye(10, dtype=np.float32)[labels]) == 100
    assert accuracy.worth(np.eye(10, dtype=np.float32)[(labels + 1) % 10]) == 0
