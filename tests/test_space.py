"""Spaces against brute force and slow references."""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
import pickle
import subprocess
import sys
from collections.abc import Mapping
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ofa.space import Arch, Dim, Population, SearchSpace, SpaceError, Value


@st.composite
def spaces(draw: st.DrawFn, *, more_means_more: bool = False) -> SearchSpace:
    """Up to five dims of one to three values, each free, or dependent on or coupled to one that stands before it.

    Args:
        more_means_more: A dim that depends on another is active from some of the other's values up, as a block is from
            some depth up.
    """
    dims: list[Dim] = []
    for number in range(draw(st.integers(1, 5))):
        values: tuple[Value, ...] = tuple(range(draw(st.integers(1, 3))))
        requires, follows = None, None
        parents = [dim for dim in dims if dim.follows is None]
        if parents and draw(st.integers(0, 1)):
            parent = draw(st.sampled_from(parents))
            if more_means_more:
                enough = parent.values[draw(st.integers(0, len(parent.values) - 1)) :]
            else:
                enough = tuple(draw(st.sets(st.sampled_from(parent.values), min_size=1)))
            requires = (parent.name, enough)
        leaders = [dim for dim in parents if dim.requires is None]
        if leaders and not draw(st.integers(0, 2)):
            follows = draw(st.sampled_from(leaders)).name
        dims.append(Dim(f"dim{number}", values, requires, follows))
    return SearchSpace(tuple(dims))


seeds = st.integers(0, 2**32 - 1)


def published_space(resolutions: tuple[int, ...]) -> SearchSpace:
    """Once-for-All's space (arXiv:1908.09791, sec. 3.1): five stages of two to four blocks, 9 choices a block."""
    dims = [Dim("resolution", resolutions)]
    for stage in range(5):
        depth = Dim(f"stage{stage}.depth", (2, 3, 4))
        dims.append(depth)
        for block in range(4):
            requires = (depth.name, tuple(d for d in (2, 3, 4) if d > block))
            dims.append(Dim(f"stage{stage}.block{block}.kernel", (3, 5, 7), requires))
            dims.append(Dim(f"stage{stage}.block{block}.expand", (3, 4, 6), requires))
    return SearchSpace(tuple(dims))


SPACE = SearchSpace(
    (
        Dim("resolution", (24, 32)),
        Dim("depth", (1, 2)),
        Dim("block0.kernel", (3, 5)),
        Dim("block1.kernel", (3, 5, 7), ("depth", (2,))),
        Dim("block1.act", ("relu", "swish"), ("block1.kernel", (5, 7))),
    )
)


def is_active(space: SearchSpace, choice: Mapping[str, Value], dim: Dim) -> bool:
    """The rule of ``Dim.requires``, word for word."""
    if dim.requires is None:
        return True
    parent, parent_values = dim.requires
    return is_active(space, choice, space[parent]) and choice[parent] in parent_values


def settled(space: SearchSpace, choice: Mapping[str, Value]) -> dict[str, Value]:
    """The choice with each coupled dim as far along its values as the other is along its own."""
    result = dict(choice)
    for dim in space.dims:
        if dim.follows is not None:
            others = space[dim.follows].values
            share = Fraction(others.index(choice[dim.follows]), len(others) - 1) if len(others) > 1 else Fraction(1)
            result[dim.name] = dim.values[round(share * (len(dim.values) - 1))]
    return result


def network(space: SearchSpace, choice: Mapping[str, Value]) -> dict[str, Value]:
    """What is left of a full choice when coupled dims are settled and everything inactive is forgotten."""
    choice = settled(space, choice)
    return {dim.name: choice[dim.name] for dim in space.dims if is_active(space, choice, dim)}


def all_choices(space: SearchSpace) -> list[dict[str, Value]]:
    names = [dim.name for dim in space.dims]
    return [dict(zip(names, values, strict=True)) for values in itertools.product(*(dim.values for dim in space.dims))]


def choices_of(space: SearchSpace, population: Population) -> list[dict[str, Value]]:
    return [{dim.name: dim.values[int(gene)] for dim, gene in zip(space.dims, row, strict=True)} for row in population]


def assert_canonical(space: SearchSpace, population: Population) -> None:
    assert population.shape[1] == len(space)
    for row, choice in zip(population, choices_of(space, population), strict=True):
        left = network(space, choice)
        assert all(gene == 0 for dim, gene in zip(space.dims, row, strict=True) if dim.name not in left)
        assert all(choice[name] == value for name, value in left.items())


# -- counting ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("resolutions", [(224,), tuple(range(128, 225, 4))])
def test_count_of_the_published_space(resolutions: tuple[int, ...]) -> None:
    assert published_space(resolutions).num_archs == (9**2 + 9**3 + 9**4) ** 5 * len(resolutions)


@given(spaces())
def test_count_equals_enumeration(space: SearchSpace) -> None:
    distinct = {tuple(network(space, choice).items()) for choice in all_choices(space)}
    assert space.num_archs == len(distinct)


@given(spaces())
def test_enumeration_gives_as_many_rows_and_archs(space: SearchSpace) -> None:
    everything = np.array(list(itertools.product(*(range(num) for num in space.num_values))), dtype=np.int64)
    canonical = space.canonical(everything)
    assert len(np.unique(space.row_keys(canonical))) == space.num_archs
    assert len(set(space.to_archs(everything))) == space.num_archs


@given(spaces())
def test_every_architecture_is_listed_once(space: SearchSpace) -> None:
    every = space.every()
    assert_canonical(space, every)
    assert len(every) == len(np.unique(space.row_keys(every))) == space.num_archs
    assert len(set(space.to_archs(every))) == space.num_archs


def test_too_many_are_not_listed() -> None:
    with pytest.raises(SpaceError, match=r"holds 2.18e\+19 architectures, too many to list"):
        published_space((224,)).every()


@given(spaces(), seeds)
def test_neighbours_are_one_choice_away(space: SearchSpace, seed: int) -> None:
    population = space.sample_population(2, np.random.default_rng(seed))
    neighbours = space.neighbours(population)
    assert len(neighbours) == 2 * int((space.num_values - 1).sum())
    assert_canonical(space, neighbours)
    for arch in space.to_archs(population):
        near = set(space.to_archs(space.neighbours(space.to_population(arch))))
        for name in arch:
            for value in space[name].values:
                if value != arch[name] and space[name].follows is None:
                    assert any(other[name] == value for other in near if name in other)


# -- architectures -----------------------------------------------------------------------------------------------------


def test_two_spellings_of_one_network_are_one() -> None:
    rows = np.array([[1, 0, 1, 2, 1], [1, 0, 1, 0, 0]])  # depth 1: nothing of block1 counts
    first, second = SPACE.to_archs(rows)
    assert first == second
    assert hash(first) == hash(second)
    assert dict(first) == {"resolution": 32, "depth": 1, "block0.kernel": 5}
    assert np.array_equal(SPACE.canonical(rows)[0], SPACE.canonical(rows)[1])


def test_equality_takes_numbers_as_numbers() -> None:
    space = SearchSpace((Dim("expand", (1, 1.5, 2)),))
    assert space.arch({"expand": 2.0}) == space.arch({"expand": 2})
    assert space.arch({"expand": 2}) != space.arch({"expand": 1})
    assert space.arch({"expand": 2}) != {"expand": 2}


@given(spaces(), seeds)
def test_arch_json_and_population_round_trips(space: SearchSpace, seed: int) -> None:
    population = space.sample_population(5, np.random.default_rng(seed))
    archs = space.to_archs(population)
    assert np.array_equal(space.to_population(archs), population)
    for arch, row in zip(archs, population, strict=True):
        assert space.arch(dict(arch)) == arch
        assert space.arch(json.loads(arch.to_json())) == arch
        assert np.array_equal(space.to_population(arch)[0], row)


@given(spaces())
def test_space_json_round_trip(space: SearchSpace) -> None:
    again = SearchSpace.from_json(json.loads(json.dumps(space.to_json())))
    assert again == space
    assert hash(again) == hash(space)
    assert again.fingerprint == space.fingerprint


def test_fingerprint_changes_with_any_value_name_or_condition() -> None:
    dims = SPACE.dims
    others = [
        dims[:-1],
        (Dim("resolution", (24, 28)), *dims[1:]),
        (Dim("size", (24, 32)), *dims[1:]),
        (*dims[:-1], dataclasses.replace(dims[-1], requires=("block1.kernel", (7,)))),
    ]
    assert len({SearchSpace(other).fingerprint for other in others} | {SPACE.fingerprint}) == len(others) + 1


def test_arch_cannot_be_changed() -> None:
    arch = SPACE.largest()
    with pytest.raises(TypeError):
        arch["depth"] = 1  # type: ignore[index]
    with pytest.raises(AttributeError):
        arch.depth = 1  # type: ignore[attr-defined]


def test_arch_is_a_mapping_that_explains_what_it_lacks() -> None:
    arch = SPACE.smallest()
    assert "depth" in arch
    assert "block1.kernel" not in arch
    assert arch.get("block1.kernel", 7) == 7
    assert len(arch) == 3
    assert repr(arch) == "Arch({'resolution': 24, 'depth': 1, 'block0.kernel': 3})"
    with pytest.raises(SpaceError, match=r"inactive dim 'block1.kernel'.*known: resolution, depth, block0.kernel"):
        arch["block1.kernel"]


def test_arch_that_was_pickled_elsewhere_has_the_hash_of_its_equal_here() -> None:
    # Worker processes hash strings with another seed; a hash that travels with an Arch would be wrong there.
    arch = SPACE.largest()
    hash(arch)
    script = (
        "import sys, pickle; from ofa.space import Arch; arch = pickle.load(sys.stdin.buffer);"
        "assert arch in {Arch(dict(arch))}"
    )
    for hash_seed in ("1", "2"):
        subprocess.run(
            [sys.executable, "-c", script],
            input=pickle.dumps(arch),
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            check=True,
        )


def test_largest_and_smallest() -> None:
    assert dict(SPACE.largest()) == {
        "resolution": 32, "depth": 2, "block0.kernel": 5, "block1.kernel": 7, "block1.act": "swish"
    }  # fmt: skip
    assert dict(SPACE.smallest()) == {"resolution": 24, "depth": 1, "block0.kernel": 3}


# -- active dims -------------------------------------------------------------------------------------------------------


@given(spaces(), seeds)
def test_active_mask_follows_the_rule(space: SearchSpace, seed: int) -> None:
    rng = np.random.default_rng(seed)
    population = rng.integers(space.num_values, size=(6, len(space)))
    expected = [
        [is_active(space, choice, dim) for dim in space.dims] for choice in choices_of(space, population)
    ]  # fmt: skip
    assert np.array_equal(space.active(population), np.array(expected))
    due = np.array(
        [
            [dim.values.index(choice[dim.name]) for dim in space.dims]
            for choice in (settled(space, choice) for choice in choices_of(space, population))
        ]
    )
    canonical = space.canonical(population)
    assert np.array_equal(canonical, due * np.array(expected))
    assert np.array_equal(space.canonical(canonical), canonical)


@given(spaces(), seeds)
def test_encoding_is_one_hot_of_the_active_dims(space: SearchSpace, seed: int) -> None:
    population = np.random.default_rng(seed).integers(space.num_values, size=(6, len(space)))
    rows = []
    for choice in choices_of(space, population):
        left = network(space, choice)
        rows.append([float(left.get(dim.name, None) == value) for dim in space.dims for value in dim.values])
    encoded = space.encode(population)
    assert encoded.dtype == np.float32
    assert np.array_equal(encoded, np.array(rows))
    assert np.array_equal(space.encode(space.to_archs(population)), encoded)


# -- random operators --------------------------------------------------------------------------------------------------


@given(spaces(), seeds, st.floats(0, 1))
def test_random_operators_give_canonical_rows(space: SearchSpace, seed: int, probability: float) -> None:
    rng = np.random.default_rng(seed)
    mothers, fathers = space.sample_population(8, rng), space.sample_population(8, rng)
    assert_canonical(space, mothers)
    assert_canonical(space, space.mutate(mothers, rng, probability=probability))
    assert_canonical(space, space.crossover(mothers, fathers, rng))


@given(spaces(), seeds)
def test_mutation_with_probability_zero_changes_nothing(space: SearchSpace, seed: int) -> None:
    rng = np.random.default_rng(seed)
    population = space.sample_population(8, rng)
    assert np.array_equal(space.mutate(population, rng, probability=0.0), population)


@given(spaces(), seeds)
def test_every_gene_of_a_child_is_active_in_the_parent_that_it_comes_from(space: SearchSpace, seed: int) -> None:
    rng = np.random.default_rng(seed)
    mothers, fathers = space.sample_population(8, rng), space.sample_population(8, rng)
    children = space.crossover(mothers, fathers, rng)
    for child, mother, father in zip(*map(space.to_archs, (children, mothers, fathers)), strict=True):
        for name, value in child.items():
            if space[name].follows is not None:
                continue  # comes with the dim that it follows
            assert value in [parent[name] for parent in (mother, father) if name in parent]


def test_mutation_with_probability_one_is_a_fresh_draw() -> None:
    rng = np.random.default_rng(0)
    start = np.repeat(SPACE.to_population(SPACE.largest()), 4000, axis=0)
    assert_same_distribution(SPACE.mutate(start, rng, probability=1.0), SPACE.sample_population(4000, rng))


def test_a_dim_that_mutation_activates_is_drawn_afresh() -> None:
    start = np.repeat(SPACE.to_population(SPACE.smallest()), 4000, axis=0)
    mutated = SPACE.mutate(start, np.random.default_rng(0), probability=0.5)
    kernels = mutated[mutated[:, 1] == 1, 3]
    assert np.allclose(np.bincount(kernels, minlength=3) / len(kernels), 1 / 3, atol=0.06)


def test_crossover_takes_from_both_parents() -> None:
    mothers = np.repeat(SPACE.to_population(SPACE.largest()), 4000, axis=0)
    fathers = np.repeat(SPACE.to_population(SPACE.smallest()), 4000, axis=0)
    children = SPACE.crossover(mothers, fathers, np.random.default_rng(0))
    assert np.allclose(children[:, :3].mean(axis=0), 0.5, atol=0.04)
    # Only the mother has a second block, so a child that has one has hers.
    assert (children[children[:, 1] == 1, 3:] == [2, 1]).all()


def test_sampling_draws_every_dim_uniformly() -> None:
    population = SPACE.sample_population(6000, np.random.default_rng(0))
    deep = population[:, 1] == 1
    for column, mask in [(0, slice(None)), (1, slice(None)), (2, slice(None)), (3, deep)]:
        genes = population[mask, column]
        num_values = len(SPACE.dims[column].values)
        assert np.allclose(np.bincount(genes, minlength=num_values) / len(genes), 1 / num_values, atol=0.04)


def test_equal_generators_give_equal_results() -> None:
    def draw(seed: int) -> tuple[Arch, Population, Population, Population]:
        rng = np.random.default_rng(seed)
        population = SPACE.sample_population(50, rng)
        mutated = SPACE.mutate(population, rng, probability=0.3)
        return SPACE.sample(rng), population, mutated, SPACE.crossover(population, mutated, rng)

    first, again, other = draw(1), draw(1), draw(2)
    assert first[0] == again[0]
    assert all(np.array_equal(a, b) for a, b in zip(first[1:], again[1:], strict=True))
    assert not any(np.array_equal(a, b) for a, b in zip(first[1:], other[1:], strict=True))


def assert_same_distribution(first: Population, second: Population) -> None:
    assert np.allclose(SPACE.encode(first).mean(axis=0), SPACE.encode(second).mean(axis=0), atol=0.06)


def test_row_keys_are_equal_exactly_where_rows_are() -> None:
    population = SPACE.sample_population(200, np.random.default_rng(0))
    keys = SPACE.row_keys(population)
    assert keys.shape == (200,)
    assert len(np.unique(keys)) == len({tuple(row) for row in population.tolist()})
    assert np.isin(SPACE.row_keys(population[:3]), keys).all()


def test_an_empty_population_is_fine() -> None:
    population = SPACE.sample_population(0, np.random.default_rng(0))
    assert SPACE.to_archs(population) == []
    assert SPACE.to_population([]).shape == (0, len(SPACE))
    assert SPACE.encode([]).shape == (0, 11)


# -- what is refused ---------------------------------------------------------------------------------------------------


def test_misspelt_dim_names_the_nearest() -> None:
    with pytest.raises(
        SpaceError, match=r"unknown dim 'resolutoin'; did you mean 'resolution'\? known: resolution, depth"
    ):
        SPACE.arch({"resolutoin": 24})
    with pytest.raises(SpaceError, match=r"unknown dim 'dept'; did you mean 'depth'\?"):
        SPACE["dept"]
    with pytest.raises(SpaceError, match="unknown dim 'zzz'; known: resolution"):
        SPACE.column("zzz")


def test_inactive_dim_lists_the_active_ones() -> None:
    message = (
        r"dim 'block1.kernel' is inactive in this architecture; active dims: resolution, depth, block0.kernel$"
    )  # fmt: skip
    with pytest.raises(SpaceError, match=message):
        SPACE.arch({"resolution": 24, "depth": 1, "block0.kernel": 3, "block1.kernel": 3})


def test_missing_dim_lists_its_values() -> None:
    with pytest.raises(SpaceError, match=r"dim 'block0.kernel' is missing; give it one of \[3, 5\]"):
        SPACE.arch({"resolution": 24, "depth": 1})


@pytest.mark.parametrize("value", [9, "5", None, 5.5, [5]])
def test_bad_value_lists_the_choices(value: object) -> None:
    with pytest.raises(SpaceError, match=r"dim 'block0.kernel' cannot be .*; choices: \[3, 5\]"):
        SPACE.arch({"resolution": 24, "depth": 1, "block0.kernel": value})  # type: ignore[dict-item]


@pytest.mark.parametrize(
    ("population", "message"),
    [
        (np.zeros(5, dtype=int), r"has shape \(N, 5\), not \(5,\)"),
        (np.zeros((2, 4), dtype=int), r"has shape \(N, 5\), not \(2, 4\)"),
        (np.zeros((2, 5)), "holds integers, not float64"),
        (np.array([[0, 0, 0, 0, 0], [0, 2, 0, 0, 0]]), r"dim 'depth' has indices outside 0\.\.1"),
        (np.array([[0, 0, 0, -1, 0]]), r"dim 'block1.kernel' has indices outside 0\.\.2"),
    ],
)
def test_bad_population_is_refused(population: npt.NDArray[np.int64], message: str) -> None:
    for use in (SPACE.to_archs, SPACE.to_population, SPACE.encode):
        with pytest.raises(SpaceError, match=message):
            use(population)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"resolution": 24, "depth": 2, "block0.kernel": 3}, "dim 'block1.kernel' is missing"),
        ({"resolution": 24, "depth": 1, "block0.kernel": 3, "block1.kernel": 5}, "dim 'block1.kernel' is inactive"),
        ({"resolution": 24, "depth": 1, "block0.kernel": 3, "width": 5}, "unknown dim 'width'"),
    ],
)
def test_an_arch_of_another_space_is_refused(values: dict[str, Value], message: str) -> None:
    with pytest.raises(SpaceError, match=message):
        SPACE.to_population([Arch(values)])


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ((), "dim 'k' has no values"),
        ((3, 3), "dim 'k' repeats a value"),
        ((5, 3), r"dim 'k' must list its values in ascending order, not \(5, 3\)"),
        (([1],), r"dim 'k' cannot have value \[1\]; give it numbers or text"),
        ((1, None), "dim 'k' cannot have value None"),
        ((1, float("nan")), "dim 'k' cannot have value nan"),
        ((1, 1 << 70), "dim 'k' cannot have value 1180591620717411303424"),
        ((False, True), "dim 'k' cannot have value False"),
        (tuple(range(40_000)), "repeats a value, or has too many"),
    ],
)
def test_bad_dim_is_refused(values: tuple[Value, ...], message: str) -> None:
    with pytest.raises(SpaceError, match=message):
        Dim("k", values)


@pytest.mark.parametrize(
    ("dims", "message"),
    [
        ((Dim("a", (1,)), Dim("a", (1, 2))), "dim 'a' stands twice"),
        ((Dim("a", (1,), ("b", (1,))), Dim("b", (1,))), "dim 'a' requires 'b', which must stand before it"),
        ((Dim("a", (1,), ("a", (1,))),), "dim 'a' requires 'a', which must stand before it"),
        ((Dim("b", (1, 2)), Dim("a", (1,), ("b", (3,)))), r"dim 'b' cannot be 3; choices: \[1, 2\]"),
        (
            (Dim("a", (1, 2)), Dim("b", (1, 2), follows="a"), Dim("c", (1, 2), ("b", (2,)))),
            "dim 'c' requires 'b', which follows 'a'; let it require that one",
        ),
    ],
)
def test_bad_space_is_refused(dims: tuple[Dim, ...], message: str) -> None:
    with pytest.raises(SpaceError, match=message):
        SearchSpace(dims)


@pytest.mark.parametrize("entry", [{"name": "a"}, {"values": [1]}, {"name": "a", "values": [1], "value": 2}])
def test_bad_space_json_is_refused(entry: dict[str, object]) -> None:
    with pytest.raises(SpaceError, match="needs 'name' and 'values'"):
        SearchSpace.from_json([entry])


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (None, "a space is a list of dims, not None"),
        ({"name": "a"}, "a space is a list of dims"),
        ([], "a space needs a dim at least"),
        ([5], "but this is 5"),
        ([{"name": "a", "values": "abc"}], "needs 'name' and 'values' .a list.*but this is"),
        ([{"name": ["a"], "values": [1]}], "names of dims are text"),
        ([{"name": "a", "values": [1], "follows": 3}], "names of dims are text"),
        ([{"name": "a", "values": [1], "requires": "b"}], "may have 'requires'"),
        ([{"name": "a", "values": [1], "requires": ["b"]}], "may have 'requires'"),
        ([{"name": "a", "values": [1], "requires": ["b", [{}]]}], "cannot have value {}"),
    ],
)
def test_what_is_no_space_is_refused(data: Any, message: str) -> None:
    with pytest.raises(SpaceError, match=message):
        SearchSpace.from_json(data)


@pytest.mark.parametrize("text", [None, 5.0, "", "[1]", "{", '{"a": [1]}', '{"a": NaN}', '{"a": null}', '{"a":' * 9000])
def test_what_is_no_architecture_is_refused(text: object) -> None:
    assert Arch.from_json(Arch({"a": 1, "b": "x"}).to_json()) == Arch({"a": 1, "b": "x"})
    with pytest.raises(SpaceError, match="an architecture is a JSON object of numbers and text, not"):
        Arch.from_json(text)
    with pytest.raises(SpaceError, match="an architecture maps dims to values, and is not 5"):
        SPACE.arch(5)  # type: ignore[arg-type]


# -- parts of a space, and coupled dims ------------------------------------------------------------------------------


def all_archs(space: SearchSpace) -> set[Arch]:
    """By brute force."""
    genes = np.array(list(itertools.product(*(range(num) for num in space.num_values))), dtype=np.int16)
    return set(space.to_archs(genes))


def test_a_part_of_a_space_has_architectures_of_the_whole() -> None:
    part = SPACE.restrict({"depth": (2,), "block1.kernel": (5, 7)})
    assert part.names == SPACE.names
    expected = {arch for arch in all_archs(SPACE) if arch["depth"] == 2 and arch.get("block1.kernel", 5) in (5, 7)}
    assert all_archs(part) == expected
    assert part.num_archs == len(expected)
    assert {SPACE.arch(arch) for arch in all_archs(part)} == expected
    assert SPACE.restrict({}) == SPACE


@given(spaces(), st.data())
def test_a_part_has_exactly_the_architectures_that_are_left(space: SearchSpace, data: st.DataObject) -> None:
    coupled = {dim.name for dim in space.dims if dim.follows} | {dim.follows for dim in space.dims}
    kept = {
        dim.name: dim.values[data.draw(st.integers(0, len(dim.values) - 1)) :]
        for dim in space.dims
        if dim.name not in coupled and data.draw(st.booleans())
    }
    part = space.restrict(kept)
    expected = {
        arch
        for arch in all_archs(space)
        if all(arch[name] in choices for name, choices in kept.items() if name in arch)
    }
    assert all_archs(part) == expected
    assert part.num_archs == len(expected)
    for arch in expected:
        assert space.arch(dict(arch)) == part.arch(dict(arch)) == arch


def test_a_dim_can_become_inactive_for_good() -> None:
    part = SPACE.restrict({"depth": (1,)})
    assert part.num_archs == len(all_archs(part)) == 2 * 2
    assert "block1.kernel" not in part.largest()


def test_a_part_must_be_a_part() -> None:
    with pytest.raises(SpaceError, match=r"dim 'depth' cannot be 3; choices: \[1, 2\]"):
        SPACE.restrict({"depth": (3,)})
    with pytest.raises(SpaceError, match="unknown dim 'depht'"):
        SPACE.restrict({"depht": (1,)})
    with pytest.raises(SpaceError, match="dim 'depth' has no values"):
        SPACE.restrict({"depth": ()})
    with pytest.raises(SpaceError, match=r"must list its values in ascending order, not \(2, 1\)"):
        SPACE.restrict({"depth": (2, 1)})
    with pytest.raises(SpaceError, match=r"'depth' and 'block0\.expand' are coupled; neither can be restricted"):
        COUPLED.restrict({"depth": (2,)})
    with pytest.raises(SpaceError, match=r"'depth' and 'block0\.heads' are coupled; neither can be restricted"):
        COUPLED.restrict({"block0.heads": (2,)})
    assert COUPLED.restrict({"resolution": (32,)}).num_archs == 3


COUPLED = SearchSpace(
    (
        Dim("resolution", (24, 32)),
        Dim("depth", (2, 3, 4)),
        Dim("block0.expand", (3, 4, 6), follows="depth"),
        Dim("block3.expand", (3, 4, 6), ("depth", (4,)), follows="depth"),
        Dim("block0.heads", (2, 4), follows="depth"),
    )
)


def test_coupled_dims_are_no_choices_of_their_own() -> None:
    archs = all_archs(COUPLED)
    assert COUPLED.num_archs == len(archs) == 2 * 3
    assert {(arch["depth"], arch["block0.expand"], arch.get("block3.expand")) for arch in archs} == {
        (2, 3, None),
        (3, 4, None),
        (4, 6, 6),
    }
    assert {arch["block0.heads"] for arch in archs if arch["depth"] in (2, 4)} == {2, 4}
    assert SearchSpace.from_json(json.loads(json.dumps(COUPLED.to_json()))) == COUPLED


@pytest.mark.parametrize(
    ("num_others", "num_own", "indices"),
    [
        (3, 3, [0, 1, 2]),
        (2, 3, [0, 2]),
        (3, 2, [0, 0, 1]),  # half way, which rounds to even
        (4, 2, [0, 0, 1, 1]),
        (2, 5, [0, 4]),
        (4, 3, [0, 1, 1, 2]),
        (3, 1, [0, 0, 0]),
        (1, 3, [2]),  # one value is the whole way
    ],
)
def test_how_far_along_a_coupled_dim_is(num_others: int, num_own: int, indices: list[int]) -> None:
    space = SearchSpace((Dim("depth", tuple(range(num_others))), Dim("expand", tuple(range(num_own)), follows="depth")))
    rows = np.array([[index, 0] for index in range(num_others)])
    assert space.canonical(rows)[:, 1].tolist() == indices
    assert space.largest()["expand"] == num_own - 1
    assert space.num_archs == num_others


def test_a_coupling_is_part_of_the_fingerprint() -> None:
    free = SearchSpace(tuple(dataclasses.replace(dim, follows=None) for dim in COUPLED.dims))
    assert free.fingerprint != COUPLED.fingerprint
    assert free.num_archs > COUPLED.num_archs


@given(seeds)
def test_coupled_dims_stay_so(seed: int) -> None:
    rng = np.random.default_rng(seed)
    first, second = (COUPLED.sample_population(5, rng) for _ in range(2))
    for population in (
        first,
        COUPLED.mutate(first, rng, probability=0.5),
        COUPLED.crossover(first, second, rng),
        COUPLED.to_population(COUPLED.to_archs(first)),
    ):
        np.testing.assert_array_equal(COUPLED.canonical(population), population)
        assert set(COUPLED.to_archs(population)) <= all_archs(COUPLED)


def test_a_contradiction_of_coupled_dims_is_named() -> None:
    arch = dict(COUPLED.smallest())
    assert COUPLED.arch(arch) == COUPLED.smallest()
    message = r"dim 'block0\.expand' follows 'depth' and must be 3 here, not 6"
    with pytest.raises(SpaceError, match=message):
        COUPLED.arch({**arch, "block0.expand": 6})
    with pytest.raises(SpaceError, match=message):
        COUPLED.to_population([Arch({**arch, "block0.expand": 6})])


@pytest.mark.parametrize(
    ("dims", "message"),
    [
        ((Dim("a", (1,), follows="b"),), "dim 'a' follows 'b', which must stand before it"),
        (
            (Dim("a", (1, 2)), Dim("b", (1, 2), ("a", (2,))), Dim("c", (1, 2), follows="b")),
            "dim 'c' follows 'b', which must be free and always active",
        ),
    ],
)
def test_what_can_be_followed(dims: tuple[Dim, ...], message: str) -> None:
    with pytest.raises(SpaceError, match=message):
        SearchSpace(dims)


# -- numbers and categories --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "ordered"), [((3, 5), True), ((1, 1.5), True), (("conv", "pool"), False), (("all", 2, 4), False)]
)
def test_numbers_have_an_order_and_text_has_none_unless_told(values: tuple[Value, ...], ordered: bool) -> None:
    untold, told = Dim("k", values), Dim("k", values, ordered=not ordered)
    assert (untold.ordered, told.ordered) == (ordered, not ordered)
    assert untold == Dim("k", values, ordered=ordered) != told
    space = SearchSpace((untold, Dim("other", values, ordered=not ordered)))
    assert space.is_ordered.tolist() == [ordered, not ordered]
    # The key stands in files only where it says something.
    assert space.to_json() == [
        {"name": "k", "values": list(values)},
        {"name": "other", "values": list(values), "ordered": not ordered},
    ]
    assert SearchSpace.from_json(json.loads(json.dumps(space.to_json()))) == space


def test_a_part_keeps_what_is_ordered() -> None:
    space = SearchSpace((Dim("level", ("low", "mid", "high"), ordered=True), Dim("op", (1, 2, 3), ordered=False)))
    part = space.restrict({"level": ("low", "mid"), "op": (1, 3)})
    assert part.is_ordered.tolist() == space.only(space.largest()).is_ordered.tolist() == [True, False]


def test_what_is_neither_ordered_nor_not_is_refused() -> None:
    with pytest.raises(SpaceError, match="dim 'k' is ordered or not: True or False, not 'yes'"):
        SearchSpace.from_json([{"name": "k", "values": [1, 2], "ordered": "yes"}])


def test_every_other_category_is_a_neighbour_and_is_drawn_alike() -> None:
    space = SearchSpace((Dim("op", ("a", "b", "c", "d")),))
    assert [arch["op"] for arch in space.to_archs(space.neighbours(np.array([[0]])))] == ["b", "c", "d"]
    mutated = space.mutate(np.zeros((4000, 1), dtype=np.int16), np.random.default_rng(0), probability=1.0)
    assert np.bincount(mutated[:, 0]) / 4000 == pytest.approx(np.full(4, 0.25), abs=0.03)
