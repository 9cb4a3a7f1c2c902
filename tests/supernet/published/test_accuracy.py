"""Once-for-All's accuracy predictors, with weights that are simple enough to know what comes out."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from ofa import workflow
from ofa.errors import UsageError
from ofa.search.predictors import PREDICTORS, Features, Prior
from ofa.space import SearchSpace, SpaceError
from ofa.supernet import create_supernet
from ofa.supernet.published.accuracy import accuracy_predictor
from ofa.supernet.published.once_for_all import arch_of
from ofa.supernet.weights import WeightsError
from ofa.training.recipe import ModelConfig, Recipe

KNOWN = (160, 176, 192, 224)


def space_of(preset: str) -> SearchSpace:
    with torch.device("meta"):
        return create_supernet(preset, resolution=list(KNOWN)).space


def counting(path: Path, weights: dict[int, float], *, num_inputs: int) -> Path:
    """A predictor that adds numbers for some of its inputs."""
    first = torch.zeros(400, num_inputs)
    for column, weight in weights.items():
        first[0, column] = weight
    passing = torch.zeros(400, 400)
    passing[0, 0] = 1
    last = torch.zeros(1, 400)
    last[0, 0] = 1
    if num_inputs == 128:
        names = {f"{i}.{kind}" for i in (0, 2, 4, 6) for kind in ("weight", "bias")}
        layers = {"0.weight": first, "2.weight": passing, "4.weight": passing, "6.weight": last}
        tensors = {name: layers.get(name, torch.zeros(1 if name == "6.bias" else 400)) for name in sorted(names)}
        torch.save(tensors, path)
    else:
        biases = {f"layers.{i}.0.bias": torch.zeros(400) for i in range(3)}
        layers = {"layers.0.0.weight": first, "layers.1.0.weight": passing, "layers.2.0.weight": passing}
        base = {"base_acc": torch.tensor([0.5])}
        torch.save({"state_dict": {**base, **layers, **biases, "layers.3.weight": last}}, path)
    return path


def test_inputs_are_in_the_order_of_its_own_code(tmp_path: Path) -> None:
    """Kernels of each block, then ratios, 0 where a block is not there; then resolutions from 112 in steps of 16."""
    space = space_of("ofa_mobilenetv3_w1.2")
    # Kernel 5 of the first block; ratio 6 of the fourth block of the first stage; resolution 192.
    file = counting(tmp_path / "p", {1: 0.1, 60 + 3 * 3 + 2: 0.2, 120 + 5: 0.4}, num_inputs=128)
    predict = accuracy_predictor("ofa_mobilenetv3_w1.2", space, file)

    def value(**config: object) -> float:
        arch = space.arch(arch_of(space, {"ks": 3, "e": 6, "d": 4, "r": 160, **config}))
        return float(predict(space.to_population([arch]))[0])

    assert value() == pytest.approx(20)
    assert value(ks=[5] + [3] * 19) == pytest.approx(30)
    assert value(d=[3, 4, 4, 4, 4]) == pytest.approx(0)
    assert value(r=192, d=[2, 2, 2, 2, 2]) == pytest.approx(40)


def test_inputs_of_the_resnets(tmp_path: Path) -> None:
    """Resolutions, the stem, widths of six places, ratios of eighteen blocks; a base is added."""
    space = space_of("ofa_resnet50d")
    # Resolution 224; the stem as it is; width 1 of the last stage; ratio 0.2 of the sixteenth block.
    weights = {5: 0.01, 9: 0.02, 10 + 15 + 2: 0.04, 28 + 3 * 15: 0.08}
    predict = accuracy_predictor("ofa_resnet50d", space, counting(tmp_path / "p", weights, num_inputs=82))

    def value(**config: object) -> float:
        arch = space.arch(arch_of(space, {"e": 0.35, "d": 0, "w": 0, "r": 160, **config}))
        return float(predict(space.to_population([arch]))[0])

    assert value() == pytest.approx(50)
    assert value(r=224) == pytest.approx(51)
    assert value(d=[2, 0, 0, 0, 0]) == pytest.approx(52)
    assert value(w=[0, 0, 0, 0, 0, 2]) == pytest.approx(54)
    assert value(e=0.2) == pytest.approx(58)


def test_what_does_not_go_together_is_said(tmp_path: Path) -> None:
    file = counting(tmp_path / "p", {}, num_inputs=128)
    with pytest.raises(SpaceError, match=r"of ofa_mobilenetv3_w1.2's subnets, not of ofa_mobilenetv3_w1.0's"):
        accuracy_predictor("ofa_mobilenetv3_w1.0", space_of("ofa_mobilenetv3_w1.0"), file)
    with torch.device("meta"):
        every = create_supernet("ofa_mobilenetv3_w1.2").space
    with pytest.raises(SpaceError, match=r"and not 128, 132, 136, 140: import again with model.resolution=\[160, 176"):
        accuracy_predictor("ofa_mobilenetv3_w1.2", every, file)
    torch.save({"a": torch.zeros(3)}, tmp_path / "q")
    with pytest.raises(WeightsError, match=r"no accuracy predictor of Once-for-All's: it holds a"):
        accuracy_predictor("ofa_mobilenetv3_w1.2", every, tmp_path / "q")


def test_a_prior_keeps_its_order_on_the_scale_of_what_was_evaluated() -> None:
    population = np.arange(6, dtype=np.int16)[:, None]
    prior = Prior(lambda population: population[:, 0] / 10)
    assert prior.fit(population, 70 + 2.0 * np.arange(6)).predict(population) == pytest.approx(70 + 2.0 * np.arange(6))
    # Two that contradict it do not turn it round.
    predicted = prior.fit(population[:2], np.array([75.0, 74.0])).predict(population)
    assert (np.diff(predicted) > 0).all() and predicted[:2].mean() == pytest.approx(74.5)


def test_a_search_knows_it_by_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    space = space_of("ofa_mobilenetv3_w1.2")
    file = counting(tmp_path / "p", {1: 0.1}, num_inputs=128)
    recipe = Recipe(model=ModelConfig(name="ofa_mobilenetv3_w1.2"))
    run = SimpleNamespace(space=space, recipe=recipe, info={"origin": {}})
    monkeypatch.setattr("ofa.Run.open", lambda folder: run)
    name = f"once-for-all:{file}"
    workflow._know_published_predictor(name, tmp_path)
    made = PREDICTORS.pop(name)(Features(space))
    population = space.sample_population(50, np.random.default_rng(0))
    assert made.fit(population, np.zeros(50)).predict(population).shape == (50,)
    run.info = {}
    with pytest.raises(UsageError, match="predicts accuracies of imported weights"):
        workflow._know_published_predictor(name, tmp_path)
