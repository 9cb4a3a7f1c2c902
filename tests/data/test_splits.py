"""Splits are disjoint, stratified, seeded, and tied to their data."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ofa.data import SPLITS, DataConfig, DataError, Splits
from ofa.data.splits import NUM_CALIBRATION_IMAGES, hash_labels, make_splits


def _labels(counts: list[int], seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).permutation(np.repeat(np.arange(len(counts)), counts))


@given(
    counts=st.lists(st.integers(20, 80), min_size=2, max_size=6),
    test_counts=st.one_of(st.just(0), st.integers(1, 9)),
    calibration=st.one_of(st.none(), st.floats(0.05, 0.2)),
    search=st.integers(10, 15),
    seed=st.integers(0, 2**32),
)
def test_disjoint_stratified_and_complete(
    counts: list[int], test_counts: int, calibration: float | None, search: int, seed: int
) -> None:
    own_test = np.tile(np.arange(len(counts)), test_counts)
    labels = np.concatenate([_labels(counts), own_test])
    classes = [str(index) for index in range(len(counts))]
    config = DataConfig(calibration_share=calibration, search_share=search, test_share=0.2, seed=seed)
    splits = make_splits(labels, classes, num_test=len(own_test), config=config)

    everything = np.concatenate([splits[split] for split in splits.distinct])
    assert sorted(everything) == list(range(len(labels)))
    assert len(splits.search) == search
    if calibration is None:
        assert splits.calibration.tolist() == splits.train.tolist()[:NUM_CALIBRATION_IMAGES]
    else:
        assert len(splits.calibration) == round(calibration * sum(counts))
    if test_counts:
        assert set(splits.test) == set(range(sum(counts), len(labels)))
    else:
        assert len(splits.test) == round(0.2 * sum(counts))
        for split in SPLITS:
            expected = len(splits[split]) * np.array(counts) / sum(counts)
            # One more or less where a run of positions begins and ends, and the other classes push that by a few more.
            found = np.bincount(labels[splits[split]], minlength=len(counts))
            assert np.abs(found - expected).max() <= 1 + len(counts) / 2


def test_seed_decides() -> None:
    labels, classes = _labels([50, 50]), ["a", "b"]
    first, again, other = (
        make_splits(labels, classes, num_test=0, config=DataConfig(seed=seed)).to_json() for seed in (1, 1, 2)
    )
    assert first == again
    assert first != other


def test_limit_shortens_training_only_and_keeps_the_proportions() -> None:
    labels, classes = _labels([300, 100]), ["a", "b"]
    full = make_splits(labels, classes, num_test=0, config=DataConfig())
    short = make_splits(labels, classes, num_test=0, config=DataConfig(limit=40))
    assert len(short.train) == 40
    assert np.isin(short.train, full.train).all()
    assert (short.search == full.search).all()
    assert abs(int((labels[short.train] == 0).sum()) - 30) <= 1


def test_training_images_calibrate_1024_of_them_in_proportion() -> None:
    labels = _labels([9000, 900, 100])
    splits = make_splits(labels, ["a", "b", "c"], num_test=0, config=DataConfig())
    assert splits.distinct == ("train", "search", "test")
    assert len(splits.train) == 10_000 - 1500 - 2000
    assert splits.calibration.tolist() == splits.train.tolist()[:1024]
    found = np.bincount(labels[splits.calibration])
    assert np.abs(found - 1024 * np.array([0.9, 0.09, 0.01])).max() <= 2.5


@pytest.mark.parametrize("calibration", [None, 5])
def test_json_and_back(calibration: int | None) -> None:
    labels = _labels([30, 30])
    splits = make_splits(labels, ["a", "b"], num_test=0, config=DataConfig(calibration_share=calibration))
    back = Splits.from_json(json.loads(json.dumps(splits.to_json())), labels)
    assert all((back[split] == splits[split]).all() for split in SPLITS)
    assert back.labels_sha256 == hash_labels(labels)
    assert ("calibration" in back.distinct) == (calibration is not None)


def test_stored_splits_of_other_data_are_refused() -> None:
    labels = _labels([30, 30])
    stored = make_splits(labels, ["a", "b"], num_test=0, config=DataConfig()).to_json()
    with pytest.raises(DataError, match=r"belong to other data.*60 images.*start a new run"):
        Splits.from_json(stored, labels[::-1].copy())
    with pytest.raises(DataError, match="must have format 1 and the keys"):
        Splits.from_json({"format": 1}, labels)
    train, search = stored["train"], stored["search"]
    for overlap in (
        {"search": train},
        {"search": [*search, train[0]]},
        {"calibration": train[1:5]},  # the beginning of train, and nothing else
        {"calibration": [*train[:4], search[0]]},
        {"calibration": [train[0], train[0]]},
    ):
        with pytest.raises(DataError, match="overlap"):
            Splits.from_json({**stored, **overlap}, labels)


def test_unknown_split_lists_the_known() -> None:
    splits = make_splits(_labels([30, 30]), ["a", "b"], num_test=0, config=DataConfig())
    with pytest.raises(DataError, match="unknown split 'tests'; did you mean 'test'"):
        splits["tests"]


def test_rare_class_is_named() -> None:
    with pytest.raises(DataError, match=r"class 'cat' has 2 images to be split .* at least 3"):
        make_splits(_labels([30, 2]), ["dog", "cat"], num_test=0, config=DataConfig())


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (DataConfig(test_share=60), "0 of 60 images are left for training"),
        (DataConfig(limit=1), "1 of 60 images are left for training and none of class"),
    ],
)
def test_nothing_left_for_training(config: DataConfig, message: str) -> None:
    with pytest.raises(DataError, match=message):
        make_splits(_labels([30, 30]), ["a", "b"], num_test=0, config=config)


# -- groups ----------------------------------------------------------------------------------------------------------


def _grouped(
    rng: np.random.Generator, num_groups: int, num_classes: int, *, one_class: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Labels and groups of 1 to 20 images, of one class each, or of any."""
    sizes = rng.integers(1, 21, num_groups)
    groups = np.repeat(np.arange(num_groups), sizes)
    labels = rng.integers(num_classes, size=len(groups))
    if one_class:
        labels = (groups % num_classes).astype(np.int64)
    shuffled = rng.permutation(len(groups))
    return labels[shuffled], np.array([f"patient {number}" for number in groups])[shuffled]


@given(
    num_groups=st.integers(40, 120),
    num_classes=st.integers(2, 5),
    one_class=st.booleans(),
    calibration=st.one_of(st.none(), st.just(0.1)),
    seed=st.integers(0, 2**32),
)
def test_no_group_is_in_two_splits_and_classes_are_in_proportion(
    num_groups: int, num_classes: int, one_class: bool, calibration: float | None, seed: int
) -> None:
    labels, groups = _grouped(np.random.default_rng(seed), num_groups, num_classes, one_class=one_class)
    classes = [str(index) for index in range(num_classes)]
    config = DataConfig(calibration_share=calibration, seed=seed)
    splits = make_splits(labels, classes, num_test=0, config=config, groups=groups)
    assert sorted(np.concatenate([splits[split] for split in splits.distinct])) == list(range(len(labels)))
    members = [set(groups[splits[split]]) for split in splits.distinct]
    assert sum(map(len, members)) == len(set(groups))
    shares = {"calibration": calibration, "search": 0.15, "test": 0.2}
    for split in (split for split in splits.distinct if split != "train"):
        wanted = shares[split] * np.bincount(labels, minlength=num_classes)
        found = np.bincount(labels[splits[split]], minlength=num_classes)
        assert (found > 0).all()
        assert np.abs(found - wanted).max() <= 20  # the largest group
    again = make_splits(labels, classes, num_test=0, config=config, groups=groups)
    assert again.to_json() == splits.to_json()


def test_groups_are_split_nearly_as_single_images_would_be() -> None:
    labels, groups = _grouped(np.random.default_rng(0), 600, 3, one_class=False)
    splits = make_splits(labels, ["a", "b", "c"], num_test=0, config=DataConfig(), groups=groups)
    for split, share in {"train": 0.65, "search": 0.15, "test": 0.2}.items():
        found = np.bincount(labels[splits[split]]) / np.bincount(labels)
        np.testing.assert_allclose(found, share, atol=0.01)


def test_three_groups_of_a_class_go_to_three_splits() -> None:
    labels, groups = (
        np.repeat([0, 0, 0, 1, 1, 1], [90, 5, 5, 40, 40, 40]),
        np.repeat(np.arange(6), [90, 5, 5, 40, 40, 40]),
    )
    splits = make_splits(labels, ["a", "b"], num_test=0, config=DataConfig(), groups=groups)
    assert [set(labels[splits[split]]) for split in splits.distinct] == [{0, 1}] * 3
    assert set(groups[splits.train]) & {0, 1, 2} == {0}


def test_every_group_alone_is_no_group() -> None:
    labels = _labels([300, 100])
    splits = make_splits(labels, ["a", "b"], num_test=0, config=DataConfig(), groups=np.arange(400))
    for split, num in {"train": 260, "search": 60, "test": 80}.items():
        assert np.bincount(labels[splits[split]]).tolist() == [num * 3 // 4, num // 4]


def test_own_test_set_has_groups_of_its_own() -> None:
    labels, groups = np.tile([0, 1], 30), np.repeat(np.arange(15), 4)
    splits = make_splits(labels, ["a", "b"], num_test=8, config=DataConfig(), groups=groups)
    assert set(splits.test) == set(range(52, 60))
    assert not set(groups[splits.train]) & set(groups[splits.search])
    groups[[54, 55, 56]] = [3, 4, 4]
    message = r"group 3 \(and 1 more groups\) has 1 images in the data set's own test set and 4 outside; move all"
    with pytest.raises(DataError, match=message):
        make_splits(labels, ["a", "b"], num_test=8, config=DataConfig(), groups=groups)


def test_a_class_of_too_few_groups_is_named() -> None:
    labels, groups = np.repeat([0, 1], [40, 20]), np.repeat(np.arange(6), 10)
    with pytest.raises(DataError, match=r"class 'cat' has 2 groups to be split .* at least 3: add groups or"):
        make_splits(labels, ["dog", "cat"], num_test=0, config=DataConfig(), groups=groups)


def test_shares_of_many_images_are_bounded_and_numbers_are_not() -> None:
    labels = np.arange(400_000) % 10
    classes = [str(index) for index in range(10)]
    splits = make_splits(labels, classes, num_test=0, config=DataConfig(calibration_share=0.05))
    assert (len(splits.calibration), len(splits.search), len(splits.test)) == (4_096, 10_000, 50_000)
    asked = DataConfig(calibration_share=20_000, search_share=60_000, test_share=80_000)
    splits = make_splits(labels, classes, num_test=0, config=asked)
    assert (len(splits.calibration), len(splits.search), len(splits.test)) == (20_000, 60_000, 80_000)
