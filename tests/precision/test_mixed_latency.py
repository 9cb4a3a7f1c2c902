from __future__ import annotations

import dataclasses

import numpy as np
import pandas as pd
import pytest

from ofa.cost import LatencyTable, MissingLatencyError
from ofa.cost.correction import Correction
from ofa.cost.latency_table import TableSlot
from ofa.precision import (
    BoundaryCost,
    MixedLatency,
    place_of,
    split_precision,
    standing_slots,
    with_precision,
)
from ofa.space import Arch, Dim, SearchSpace, SpaceError
from tests.precision.helpers import join_precision

SIDES = {20: 10, 24: 12}
SPACE = SearchSpace(
    (
        Dim("resolution", (20, 24)),
        Dim("width", (8, 16)),
        Dim("stage1.depth", (1, 2, 3)),
        Dim("stage1.block0.kernel", (3, 5)),
        Dim("stage1.block1.kernel", (3, 5), requires=("stage1.depth", (2, 3))),
        Dim("stage1.block2.kernel", (3, 5), requires=("stage1.depth", (3,))),
    )
)
BLOCKS = ("stage1.block0", "stage1.block1", "stage1.block2")


def _slot(name: str, dims: tuple[str, ...], needs: int = 0) -> TableSlot:
    """A slot whose keys tell place, resolution, width and kernel."""
    keys = np.full([len(SPACE[dim].values) for dim in dims], "", dtype=object)
    for index in np.ndindex(keys.shape):
        values = {dim: SPACE[dim].values[at] for dim, at in zip(dims, index, strict=True)}
        if values.get("stage1.depth", 9) >= needs:
            words = [f"{dim.split('.')[-1][0]}{value}" for dim, value in values.items() if dim != "stage1.depth"]
            keys[index] = "_".join([name.split(".")[0], *words])
    return TableSlot(name, dims, keys)


SLOTS = (
    _slot("stem", ("resolution", "width")),
    _slot("stem.1", ("resolution", "width")),
    _slot("stage1.block0", ("resolution", "width", "stage1.block0.kernel")),
    _slot("stage1.block1", ("resolution", "stage1.depth", "width", "stage1.block1.kernel"), needs=2),
    _slot("stage1.block2", ("resolution", "stage1.depth", "width", "stage1.block2.kernel"), needs=3),
    _slot("head", ("resolution", "width")),
)
PLACES = ("stem", *BLOCKS, "head")
BOUNDARY = BoundaryCost(
    quantize_ms=0.01, quantize_ms_per_million=5.0, dequantize_ms=0.02, dequantize_ms_per_million=7.0
)


def make_table(precision: str, *, without: str | None = None, **changes: object) -> LatencyTable:
    keys = list(dict.fromkeys(key for slot in SLOTS for key in slot.keys.ravel() if key and key != without))
    rng = np.random.default_rng({"fp32": 0, "int8": 1}[precision])
    ms = rng.uniform(0.1, 0.3, len(keys)) * {"fp32": 2, "int8": 1}[precision]
    entries = pd.DataFrame(
        {
            "key": keys,
            "latency_ms_p10": ms,
            "latency_ms_p50": ms,
            "latency_ms_p90": ms,
            "num_runs": 9,
        }
    )
    call = {"fp32": 0.01, "int8": 0.02}[precision]
    defaults = {
        "space": SPACE,
        "slots": SLOTS,
        "entries": entries,
        "correction": Correction(call, {"stage1": 0.9}, {"stage1": 0.003, "head": 0.001}),
        "device": f"{precision}-1t",
        "fingerprint": {"id": precision, "cpu": "Example", "precision": precision},
    }
    return LatencyTable(**{**defaults, **changes})  # type: ignore[arg-type]


def num_elements(key: str) -> float:
    """Of what a part takes in: its width at its resolution."""
    values = {word[0]: int(word[1:]) for word in key.split("_")[1:]}
    return values["w"] * SIDES[values["r"]] ** 2


def mix(fp32: LatencyTable, int8: LatencyTable, boundary: BoundaryCost | None = None) -> MixedLatency:
    boundary = boundary or BoundaryCost()
    return MixedLatency(fp32=fp32, int8=int8, per="block", num_elements=num_elements, boundary=boundary)


@pytest.fixture(scope="module")
def mixed() -> MixedLatency:
    return mix(make_table("fp32"), make_table("int8"), boundary=BOUNDARY)


def by_hand(mixed: MixedLatency, arch: Arch) -> float:
    """Walks through the network, block after block."""
    plain = {name: value for name, value in arch.items() if "precision" not in name}
    tables = {"fp32": mixed.fp32, "int8": mixed.int8}
    ms = {name: dict(zip(t.entries["key"], t.entries["latency_ms_p10"], strict=True)) for name, t in tables.items()}
    total = tables[str(arch["stem.precision"])].correction.call_overhead_ms
    before = str(arch["stem.precision"])
    num_elements = int(arch["width"]) * SIDES[int(arch["resolution"])] ** 2
    for slot in SLOTS:
        key = slot.keys[tuple(SPACE[dim].index(plain[dim]) if dim in plain else 0 for dim in slot.dims)]
        if not key:
            continue
        precision = str(arch[f"{place_of(slot.name)}.precision"])
        correction = tables[precision].correction
        alone = ms[precision][key] - correction.call_overhead_ms
        stage = slot.name.split(".")[0]
        total += alone * correction.scale.get(stage, 1.0) + correction.offset_ms.get(stage, 0.0)
        if (before, precision) == ("fp32", "int8"):
            total += 0.01 + 5e-6 * num_elements
        elif (before, precision) == ("int8", "fp32"):
            total += 0.02 + 7e-6 * num_elements
        before = precision
    return total


# -- the space ---------------------------------------------------------------------------------------------------------


def test_one_dim_for_the_network_doubles_the_space() -> None:
    space = with_precision(SPACE, SLOTS, per="network")
    assert space.names == (*SPACE.names, "precision")
    assert space["precision"].values == ("int8", "fp32")
    assert space.num_archs == 2 * SPACE.num_archs == len(space.every())


def test_one_dim_for_each_block_that_is_there() -> None:
    space = with_precision(SPACE, SLOTS, per="block")
    assert space.names == (*SPACE.names, *(f"{place}.precision" for place in PLACES))
    requires = {name: space[f"{name}.precision"].requires for name in PLACES}
    assert requires == {
        "stem": None,
        "stage1.block0": None,
        "stage1.block1": ("stage1.depth", (2, 3)),
        "stage1.block2": ("stage1.depth", (3,)),
        "head": None,
    }
    # Resolution, width, precision of stem and head; each block there has two kernels in two precisions.
    assert space.num_archs == 2 * 2 * 2 * 2 * (4 + 4**2 + 4**3)
    assert len(space.every()) == space.num_archs


def test_slots_outside_blocks_share_a_place() -> None:
    names = ("stem", "stem.1", "head.12", "stage2.entry", "stage2.entry1", "stage2.block1", "stage10.block11")
    places = ["stem", "stem", "head", "stage2.entry", "stage2.entry", "stage2.block1", "stage10.block11"]
    assert list(map(place_of, names)) == places


@pytest.mark.parametrize("per", ["network", "block"])
def test_split_and_join_are_inverse(per: str) -> None:
    space = with_precision(SPACE, SLOTS, per=per)  # type: ignore[arg-type]
    seen = set()
    for arch in space.to_archs(space.every()):
        plain, precisions = split_precision(space, SLOTS, arch)
        float_slots = frozenset(name for name, precision in precisions.items() if precision == "fp32")
        assert SPACE.arch(plain) == plain
        assert list(precisions) == standing_slots(SPACE, SLOTS, plain)
        assert set(precisions.values()) <= {"int8", "fp32"}
        assert join_precision(space, SLOTS, plain, float_slots) == arch
        seen.add((plain, float_slots))
    assert len(seen) == space.num_archs


def test_which_slots_stay_in_fp32() -> None:
    space = with_precision(SPACE, SLOTS, per="block")
    plain = {"resolution": 20, "width": 8, "stage1.depth": 2, "stage1.block0.kernel": 3, "stage1.block1.kernel": 5}
    chosen = {"stem": "fp32", "stage1.block0": "int8", "stage1.block1": "fp32", "head": "int8"}
    arch = space.arch({**plain, **{f"{place}.precision": value for place, value in chosen.items()}})
    precisions = {"stem": "fp32", "stem.1": "fp32", **chosen}
    assert split_precision(space, SLOTS, arch) == (Arch(plain), precisions)
    whole = with_precision(SPACE, SLOTS, per="network")
    found = split_precision(whole, SLOTS, whole.arch({**plain, "precision": "fp32"}))
    assert found == (Arch(plain), dict.fromkeys(precisions, "fp32"))


def test_a_space_without_precision_cannot_be_split() -> None:
    with pytest.raises(SpaceError, match="no dims of precision"):
        split_precision(SPACE, SLOTS, SPACE.smallest())


def test_spaces_that_cannot_be_extended() -> None:
    with pytest.raises(SpaceError, match="has a dim 'precision' already"):
        with_precision(with_precision(SPACE, SLOTS, per="network"), SLOTS, per="block")
    with pytest.raises(ValueError, match=r"unknown granularity of precision 'blok'; did you mean 'block'"):
        with_precision(SPACE, SLOTS, per="blok")  # type: ignore[arg-type]
    keys = np.array([["", ""], ["", "a"]], dtype=object)
    odd = TableSlot("stage1.block0", ("resolution", "width"), keys)
    with pytest.raises(SpaceError, match=r"depends on resolution, width.*per='network'"):
        with_precision(SPACE, (odd,), per="block")


# -- latency -----------------------------------------------------------------------------------------------------------


def test_prediction_equals_a_walk_through_the_network(mixed: MixedLatency) -> None:
    population = mixed.space.every()
    expected = [by_hand(mixed, arch) for arch in mixed.space.to_archs(population)]
    np.testing.assert_allclose(mixed.predict_ms(population), expected)


@pytest.mark.parametrize("per", ["network", "block"])
@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_one_precision_is_what_its_table_says(mixed: MixedLatency, per: str, precision: str) -> None:
    mixed = dataclasses.replace(mixed, per=per)
    plain = SPACE.to_archs(SPACE.every())
    archs = []
    for arch in plain:
        float_slots = set(standing_slots(SPACE, SLOTS, arch)) if precision == "fp32" else set()
        archs.append(join_precision(mixed.space, SLOTS, arch, float_slots))
    np.testing.assert_allclose(mixed.predict_ms(archs), getattr(mixed, precision).predict_ms(plain))
    assert not mixed.boundary_counts(archs).any()


def test_boundary_costs_are_recovered(mixed: MixedLatency) -> None:
    rng = np.random.default_rng(0)
    population = mixed.space.sample_population(60, rng)
    measured_ms = mixed.predict_ms(population)
    unknown = dataclasses.replace(mixed, boundary=BoundaryCost())
    fitted = unknown.fit(population[:40], measured_ms[:40])
    np.testing.assert_allclose(dataclasses.astuple(fitted.boundary), dataclasses.astuple(BOUNDARY), rtol=1e-6)
    errors = fitted.held_out(population[40:], measured_ms[40:])
    assert errors["num"] == 20
    assert errors["mape_percent"] < 1e-6 < 0.1 < errors["without_boundaries_mape_percent"]
    assert errors["spearman"] == pytest.approx(1)
    noisy = unknown.fit(population[:40], measured_ms[:40] * rng.normal(1, 0.002, 40))
    assert noisy.held_out(population[40:], measured_ms[40:])["mape_percent"] < 1


def test_boundary_costs_are_never_negative(mixed: MixedLatency) -> None:
    population = mixed.space.sample_population(40, np.random.default_rng(0))
    free = dataclasses.replace(mixed, boundary=BoundaryCost())
    fitted = free.fit(population, 0.9 * free.predict_ms(population))
    assert fitted.boundary == BoundaryCost()


def test_numbers_of_elements_are_what_is_given(mixed: MixedLatency) -> None:
    counts = dataclasses.replace(mixed, num_elements=lambda key: 2e6).boundary_counts(mixed.space.every())
    np.testing.assert_array_equal(counts[:, 1], 2 * counts[:, 0])
    np.testing.assert_array_equal(counts[:, 3], 2 * counts[:, 2])
    assert np.abs(counts[:, 0] - counts[:, 2]).max() == 1  # precisions alternate


def test_a_part_that_was_not_measured_in_its_precision_is_named(mixed: MixedLatency) -> None:
    broken = dataclasses.replace(mixed, int8=make_table("int8", without="stem_r24_w16"))
    space, plain = broken.space, SPACE.largest()
    fp32 = join_precision(space, SLOTS, plain, set(standing_slots(SPACE, SLOTS, plain)))
    np.testing.assert_allclose(broken.predict_ms(fp32), broken.fp32.predict_ms(plain))
    with pytest.raises(MissingLatencyError, match=r"'stem_r24_w16' on device 'int8-1t'"):
        broken.predict_ms(join_precision(space, SLOTS, plain, set()))


def test_what_cannot_be_fitted(mixed: MixedLatency) -> None:
    population = mixed.space.sample_population(40, np.random.default_rng(0))
    measured_ms = mixed.predict_ms(population)
    with pytest.raises(ValueError, match="nothing to fit with per='network'"):
        dataclasses.replace(mixed, per="network").fit([], [])
    with pytest.raises(ValueError, match="at least 8 networks that mix precisions, not "):
        mixed.fit(population[:5], measured_ms[:5])
    with pytest.raises(ValueError, match=r"40 architectures need as many latencies, not shape \(39,\)"):
        mixed.fit(population, measured_ms[:39])
    with pytest.raises(ValueError, match=r"latency 3 is -1\.0 ms"):
        mixed.fit(population, np.where(np.arange(40) == 3, -1.0, measured_ms))


def test_tables_that_do_not_belong_together() -> None:
    fp32, int8 = make_table("fp32"), make_table("int8")
    with pytest.raises(ValueError, match="int8 table, of device 'fp32-1t', was measured in fp32; swap"):
        mix(int8, fp32)
    other = SearchSpace((*SPACE.dims, Dim("other", (1,))))
    with pytest.raises(ValueError, match="the fp32 table is of space"):
        mix(fp32, make_table("int8", space=other))
    with pytest.raises(ValueError, match=r"slot 'stem' of the fp32 table is not slot 'stem\.1'"):
        mix(fp32, make_table("int8", slots=SLOTS[1:]))
    with pytest.raises(ValueError, match="6 and 5 slots"):
        mix(fp32, make_table("int8", slots=SLOTS[:-1]))
    elsewhere = make_table("int8", fingerprint={"cpu": "Another", "precision": "int8"})
    with pytest.raises(ValueError, match="have cpu Example and Another; measure both on one machine"):
        mix(fp32, elsewhere)
