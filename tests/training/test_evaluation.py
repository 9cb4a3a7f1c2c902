from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from ofa.tasks import Classification
from ofa.training import Run, SubnetEvaluator, calibrate_bn, judge


def test_top1_by_hand() -> None:
    logits = torch.tensor([[1.0, 2.0], [3.0, 0.0], [0.0, 1.0]])
    batches = [(logits[:2], torch.tensor([1, 1])), (logits[2:], torch.tensor([1]))]
    score = judge(nn.Identity(), batches, Classification().scorer(None))
    assert score.value == pytest.approx(200 / 3) and score.low < score.value < score.high and score.num_images == 3
    with pytest.raises(ValueError, match="at least one image"):
        judge(nn.Identity(), [], Classification().scorer(None))


def test_evaluator_extracts_calibrates_and_counts(trained: Run) -> None:
    supernet, data = trained.supernet(), trained.data()
    before = {name: tensor.clone() for name, tensor in supernet.state_dict().items()}
    space = supernet.space
    archs = [space.largest(), space.smallest(), space.sample(np.random.default_rng(0))]
    calls: list[tuple[int, int, str]] = []
    evaluator = SubnetEvaluator(supernet, data, batch_size=16, num_calibration_images=32)
    scores = evaluator.values(archs, progress=lambda *call: calls.append(call))
    assert [call[:2] for call in calls] == [(1, 3), (2, 3), (3, 3)]
    for arch, score in zip(archs, scores, strict=True):
        size = int(arch["resolution"])
        module = supernet.extract(arch)
        batches = [images for images, _ in data.batches("calibration", batch_size=16, image_size=size)]
        calibrate_bn(module, batches[:2])
        ((images, labels),) = data.batches("search", batch_size=32, image_size=size)
        with torch.no_grad():
            right = (module(images).argmax(dim=1) == labels).float().mean().item()
        assert score == pytest.approx(100 * right)
    assert np.array_equal(evaluator.values(archs), scores)
    assert all(torch.equal(tensor, before[name]) for name, tensor in supernet.state_dict().items())


def test_what_each_class_is_worth_makes_the_whole(trained: Run) -> None:
    evaluator = SubnetEvaluator(trained.supernet(), trained.data(), batch_size=16)
    archs = [evaluator.supernet.space.largest(), evaluator.supernet.space.smallest()]
    ((_, labels),) = trained.data().batches("search", batch_size=32, image_size=16)
    counts = np.bincount(labels.numpy())
    for of_class, top1_percent in zip(evaluator.by_class(archs), evaluator.values(archs), strict=True):
        assert list(of_class) == list(trained.data().classes)
        shares = [of_class[name] or 0.0 for name in list(of_class)[: len(counts)]]
        assert np.average(shares, weights=counts) == pytest.approx(top1_percent, abs=1e-3)


def test_a_short_last_batch_does_not_count_in_calibration(trained: Run) -> None:
    evaluator = SubnetEvaluator(trained.supernet(), trained.data(), batch_size=24)  # 64 images: 24 + 24 + 16
    assert [len(images) for images in evaluator._calibration_inputs({"resolution": 16})] == [24, 24]
    evaluator = SubnetEvaluator(trained.supernet(), trained.data(), batch_size=100)
    assert [len(images) for images in evaluator._calibration_inputs({"resolution": 16})] == [64]


def test_accuracy_does_not_depend_on_the_device(trained: Run, torch_device: str) -> None:
    expected, found = (
        SubnetEvaluator(trained.supernet().to(device), trained.data(), batch_size=16)
        for device in ("cpu", torch_device)
    )
    space = expected.supernet.space
    archs = [space.largest(), space.smallest(), space.sample(np.random.default_rng(0))]
    ((inputs, labels), *_) = found.batches("search", archs[0])
    (images,) = inputs.tensors
    assert images.device.type == labels.device.type == torch_device
    assert images.is_contiguous(memory_format=torch.channels_last)
    # Two of 32 images may be a matter of rounding: hardly trained, some logits are close to each other.
    difference = np.abs(found.values(archs) - expected.values(archs))
    assert difference.max() <= (0 if torch_device == "cpu" else 100 * 2 / 32)


def test_prepared_samples_are_kept_up_to_a_limit_the_latest_ones(trained: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    evaluator = SubnetEvaluator(trained.supernet(), trained.data(), batch_size=16)
    each = 32 * 3 * 20 * 20 * 4  # bytes of the search split at 20 pixels
    monkeypatch.setattr(SubnetEvaluator, "_fits", lambda self, split, sizes: self._num_bytes(split, sizes) <= each)
    monkeypatch.setattr("ofa.training.evaluation.CACHE_BYTES", 2 * each)

    def kept(size: int) -> bool:
        return evaluator.batches("search", {"resolution": size}) is evaluator.batches("search", {"resolution": size})

    assert kept(16) and kept(20) and kept(16)
    assert list(evaluator._cache) == [("search", 20), ("search", 16)]
    assert kept(18) and list(evaluator._cache) == [("search", 16), ("search", 18)]
    assert not isinstance(evaluator.batches("calibration", {"resolution": 20}), list)  # 64 images
    assert sum(each.num_bytes for each in evaluator._cache.values()) <= 2 * each
