"""Every sampler keeps the contract; each does what its paper says."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from contextlib import nullcontext as nothing
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from test_space import spaces

from ofa.config import ConfigError
from ofa.cost import macs, params
from ofa.space import Arch, Dim, Population, SearchSpace, SpaceError
from ofa.supernet import create_supernet
from ofa.training.samplers import SAMPLERS, Sampler
from ofa.training.samplers.attentive import Attentive
from ofa.training.samplers.multi_arch import MultiArch
from ofa.training.samplers.sandwich import Sandwich
from ofa.training.samplers.single import Single
from ofa.training.samplers.sorted import Sorted, nested_chain
from ofa.training.samplers.uniform import Uniform
from ofa.training.schedules.progressive_shrinking import ProgressiveShrinking

SPACE = SearchSpace(
    (
        Dim("resolution", (16, 20, 24)),
        Dim("stage0.depth", (1, 2, 3)),
        Dim("stage0.block0.kernel", (3, 5, 7)),
        Dim("stage0.block1.kernel", (3, 5, 7), ("stage0.depth", (2, 3))),
        Dim("stage0.block2.kernel", (3, 5, 7), ("stage0.depth", (3,))),
    )
)
CLOSED = SPACE.restrict({"stage0.depth": (3,), "resolution": (20, 24)})
COUPLED = SearchSpace((*SPACE.dims, Dim("stage0.block0.expand", (2, 3, 4), follows="stage0.depth")))
ONLY_LARGEST = SPACE.restrict({dim.name: dim.values[-1:] for dim in SPACE.dims})


@dataclass
class FakeStep:
    space: SearchSpace
    rng: np.random.Generator = field(default_factory=lambda: np.random.default_rng(0))
    asked: list[Arch] = field(default_factory=list)

    def macs(self, population: Population) -> npt.NDArray[np.float64]:
        return np.array([sum(map(float, arch.values())) for arch in self.space.to_archs(population)])  # type: ignore[arg-type]

    def label_loss(self, arch: Arch) -> float:
        self.asked.append(arch)
        return float(len(self.asked) % 3)


@pytest.mark.parametrize("space", [SPACE, CLOSED, ONLY_LARGEST, COUPLED], ids=["whole", "part", "one", "coupled"])
@pytest.mark.parametrize("name", SAMPLERS)
def test_contract(name: str, space: SearchSpace) -> None:
    sampler: Sampler = SAMPLERS[name]()
    for seed in range(10):
        draws = sampler.draw(FakeStep(space, np.random.default_rng(seed)))
        assert draws == sampler.draw(FakeStep(space, np.random.default_rng(seed)))
        for draw in draws:
            assert space.arch(draw.arch) == draw.arch
            whole = COUPLED if space is COUPLED else SPACE
            assert whole.arch(draw.arch) == draw.arch  # an architecture of the whole space as well
            if draw.role != "random":
                assert draw.arch == {"largest": space.largest(), "smallest": space.smallest()}[draw.role]
        # Parts of the mini-batch: all of it for everybody, or each its own.
        parts = [draw.part for draw in draws]
        assert set(parts) == {(0, 1)} or parts == [(i, len(draws)) for i in range(len(draws))]
        if sampler.teaches:
            assert draws[0].role == "largest"
    assert sampler.name == name


@pytest.mark.parametrize("name", SAMPLERS)
def test_another_number_of_random_subnets(name: str) -> None:
    sampler = SAMPLERS[name]().with_num_random(3)
    assert getattr(sampler, "num_random", 3) == 3
    num_bounds = 2 if sampler.teaches else 0
    assert len(sampler.draw(FakeStep(SPACE))) == (1 if name == "single" else 3 + num_bounds)


def test_the_sandwich_holds_both_bounds() -> None:
    draws = Sandwich(num_random=2).draw(FakeStep(SPACE))
    assert [draw.role for draw in draws] == ["largest", "random", "random", "smallest"]
    assert [draw.role for draw in Sandwich(num_random=0).draw(FakeStep(SPACE))] == ["largest", "smallest"]
    with pytest.raises(ConfigError, match="num_random must be at least 0, not -1"):
        Sandwich(num_random=-1)


@pytest.mark.parametrize(("choose", "position"), [("worst", 1), ("best", 2)])  # losses 1, 2, 0
def test_attentive_takes_the_worst_or_the_best_of_candidates_of_one_cost(choose: str, position: int) -> None:
    step = FakeStep(SPACE)
    draws = Attentive(num_random=1, num_candidates=3, choose=choose).draw(step)  # type: ignore[arg-type]
    assert len(step.asked) == 3
    assert draws[1].arch == step.asked[position]
    macs = step.macs(SPACE.to_population(step.asked))
    assert np.ptp(macs) <= 4  # of 21 to 48


def test_the_sorted_chain_is_nested() -> None:
    chain = nested_chain(SPACE, 160)
    archs = SPACE.to_archs(chain)
    assert (archs[0], archs[-1]) == (SPACE.smallest(), SPACE.largest())
    assert len(set(archs)) == len(archs)
    for smaller, larger in itertools.pairwise(archs):
        assert all(larger[name] >= value for name, value in smaller.items())  # type: ignore[operator]
    short = SPACE.to_archs(nested_chain(SPACE, 4))
    assert len(short) == 4
    assert [short[0], short[-1]] == [SPACE.smallest(), SPACE.largest()]


def test_multi_arch_shares_the_mini_batch() -> None:
    assert [draw.part for draw in MultiArch(num_random=3).draw(FakeStep(SPACE))] == [(0, 3), (1, 3), (2, 3)]


def test_a_single_subnet() -> None:
    arch = dict(SPACE.sample(np.random.default_rng(3)))
    assert [dict(draw.arch) for draw in Single(arch=arch).draw(FakeStep(SPACE))] == [arch]
    assert Single(bound="smallest").draw(FakeStep(SPACE))[0].arch == SPACE.smallest()
    with pytest.raises(SpaceError, match="unknown dim 'depth'"):
        Single(arch={"depth": 3}).draw(FakeStep(SPACE))
    with pytest.raises(ConfigError, match="bound must be largest or smallest, not 'middle'"):
        Single(bound="middle")


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_sampler_teaches_exactly_where_the_largest_always_comes_before_others(name: str) -> None:
    steps = [SAMPLERS[name]().draw(FakeStep(SPACE, np.random.default_rng(seed))) for seed in range(40)]
    always_first = all(len(draws) > 1 and draws[0].arch == SPACE.largest() for draws in steps)
    assert SAMPLERS[name].teaches == always_first


@pytest.mark.parametrize("name", SAMPLERS)
def test_settings_below_their_minimum(name: str) -> None:
    with pytest.raises(ConfigError, match=r"num_random must be at least \d, not -1") if name != "single" else nothing():
        SAMPLERS[name]().with_num_random(-1)
    if name == "sorted":
        with pytest.raises(ConfigError, match="num_models must be at least 2, not 1"):
            Sorted(num_models=1)
    if name == "attentive":
        with pytest.raises(ConfigError, match="num_candidates must be at least 1, not 0"):
            Attentive(num_candidates=0)


@pytest.mark.parametrize("choose", ["worst", "best"])
def test_attentive_draws_no_more_candidates_than_a_part_of_the_space_has(choose: str) -> None:
    step = FakeStep(SPACE.restrict({name: SPACE[name].values[-1:] for name in SPACE.names[1:]}))
    Attentive(num_random=1, num_candidates=50, choose=choose).draw(step)  # type: ignore[arg-type]
    assert sorted(arch["resolution"] for arch in step.asked) == [16, 20, 24]


@pytest.mark.parametrize("space", [SPACE, CLOSED, COUPLED, ONLY_LARGEST], ids=["whole", "part", "coupled", "one"])
@pytest.mark.parametrize("num_models", [2, 5, 160])
def test_every_chain_only_grows(space: SearchSpace, num_models: int) -> None:
    chain = nested_chain(space, num_models)
    assert len(chain) <= num_models
    assert (np.diff(chain, axis=0) >= 0).all()
    assert (np.diff(chain, axis=0).sum(1) > 0).all()
    np.testing.assert_array_equal(space.canonical(chain), chain)
    archs = space.to_archs(chain)
    assert (archs[0], archs[-1]) == (space.smallest(), space.largest())
    with pytest.raises(ValueError, match="read-only"):
        chain[0] = 0


def test_sorted_draws_distinct_models_of_the_chain_from_the_smallest_up() -> None:
    chain = SPACE.to_archs(nested_chain(SPACE, 160))
    for seed in range(10):
        rows = [
            chain.index(draw.arch) for draw in Sorted(num_random=4).draw(FakeStep(SPACE, np.random.default_rng(seed)))
        ]
        assert len(rows) == 4
        assert rows == sorted(set(rows))
    everything = Sorted(num_models=3, num_random=9).draw(FakeStep(SPACE))
    assert [draw.role for draw in everything] == ["smallest", "random", "largest"]


def test_uniform_draws_every_depth_equally_often() -> None:
    archs = [draw.arch for draw in Uniform(num_random=3000).draw(FakeStep(SPACE))]
    counts = np.bincount([int(arch["stage0.depth"]) for arch in archs])[1:]
    np.testing.assert_allclose(counts / 3000, 1 / 3, atol=0.04)


def test_a_single_subnet_that_contradicts_a_coupled_dim() -> None:
    arch = {**COUPLED.largest(), "stage0.block0.expand": 2}
    with pytest.raises(SpaceError, match=r"follows 'stage0\.depth' and must be 4 here, not 2"):
        Single(arch=arch).draw(FakeStep(COUPLED))


@given(spaces(), st.sampled_from(sorted(SAMPLERS)), st.integers(0, 100))
def test_any_space_will_do(space: SearchSpace, name: str, seed: int) -> None:
    """Spaces of one architecture, of coupled dims, of dims that are never active."""
    draws = SAMPLERS[name]().draw(FakeStep(space, np.random.default_rng(seed)))
    assert draws
    assert all(space.arch(dict(draw.arch)) == draw.arch for draw in draws)


@pytest.mark.parametrize("name", SAMPLERS)
def test_what_a_phase_has_closed_is_not_drawn(name: str) -> None:
    with torch.device("meta"):
        whole = create_supernet("ofa_mobilenetv3_tiny").space
    for stretch in ProgressiveShrinking().plan(whole, 100):
        for draw in SAMPLERS[name]().draw(FakeStep(stretch.space)):
            assert whole.arch(dict(draw.arch)) == draw.arch
            assert all(value in stretch.space[dim].values for dim, value in draw.arch.items())


@pytest.mark.parametrize("sampler", [Sandwich(num_random=2), Uniform(num_random=2), MultiArch(num_random=2)])
def test_random_subnets_vary_in_everything(sampler: Sampler) -> None:
    step = FakeStep(SPACE)
    drawn = [draw.arch for _ in range(50) for draw in sampler.draw(step) if draw.role == "random"]
    assert len(drawn) == 100
    for dim in SPACE.dims:
        assert {arch.get(dim.name) for arch in drawn} - {None} == set(dim.values)


class CostIsLoss(FakeStep):
    def label_loss(self, arch: Arch) -> float:
        self.asked.append(arch)
        return float(self.macs(self.space.to_population(arch))[0])


@pytest.mark.parametrize(("choose", "pick"), [("worst", max), ("best", min)])
def test_attentive_chooses_anew_for_each_of_its_subnets(choose: str, pick: Callable[..., float]) -> None:
    step = CostIsLoss(SPACE, np.random.default_rng(5))
    draws = Attentive(num_random=3, num_candidates=4, choose=choose).draw(step)  # type: ignore[arg-type]
    assert [draw.role for draw in draws] == ["largest", *["random"] * 3, "smallest"]
    costs = step.macs(SPACE.to_population(step.asked)).reshape(3, 4)
    chosen = step.macs(SPACE.to_population([draw.arch for draw in draws[1:-1]]))
    assert chosen.tolist() == [pick(row) for row in costs.tolist()]
    assert len({tuple(row) for row in costs.tolist()}) > 1  # a cost is drawn each time
    for start in (0, 4, 8):
        assert len(set(step.asked[start : start + 4])) == 4


@given(spaces(more_means_more=True), st.integers(2, 6))
def test_the_chain_of_any_space_is_nested(space: SearchSpace, num_models: int) -> None:
    chain = nested_chain(space, num_models)
    assert 1 <= len(chain) <= num_models
    np.testing.assert_array_equal(space.canonical(chain), chain)
    archs = space.to_archs(chain)
    assert (archs[0], archs[-1]) == (space.smallest(), space.largest())
    assert len(set(archs)) == len(archs)
    for smaller, larger in itertools.pairwise(archs):
        assert all(larger[name] >= value for name, value in smaller.items())  # type: ignore[operator]


def test_each_of_the_chain_holds_the_tensors_of_the_one_before() -> None:
    with torch.device("meta"):
        supernet = create_supernet("ofa_mobilenetv3_tiny")
        chain = nested_chain(supernet.space, 160)
        some = [supernet.subnet(arch).state_dict() for arch in supernet.space.to_archs(chain[::8])]
    assert len(some) > 4
    for smaller, larger in itertools.pairwise(some):
        for name, tensor in smaller.items():
            assert all(a <= b for a, b in zip(tensor.shape, larger[name].shape, strict=True))
    for cost in (macs(supernet), params(supernet)):
        assert (np.diff(cost.predict(chain)) >= 0).all()
