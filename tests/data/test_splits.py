"""Splits are disjoint, stratified, seeded, and tied to their data."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ofa.data import SPLITS, DataConfig, DataError, Splits
from ofa.data.splits import hash_labels, make_splits


def _labels(counts: list[int], seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).permutation(np.repeat(np.arange(len(counts)), counts))


@given(
    counts=st.lists(st.integers(20, 80), min_size=2, max_size=6),
    test_counts=st.one_of(st.just(0), st.integers(1, 9)),
    calibration=st.floats(0.05, 0.2),
    search=st.integers(10, 15),
    seed=st.integers(0, 2**32),
)
def test_disjoint_stratified_and_complete(
    counts: list[int], test_counts: int, calibration: float, search: int, seed: int
) -> None:
    own_test = np.tile(np.arange(len(counts)), test_counts)
    labels = np.concatenate([_labels(counts), own_test])
    classes = [str(index) for index in range(len(counts))]
    config = DataConfig(calibration_share=calibration, search_share=search, test_share=0.2, seed=seed)
    splits = make_splits(labels, classes, num_test=len(own_test), config=config)

    everything = np.concatenate([splits[split] for split in SPLITS])
    assert sorted(everything) == list(range(len(labels)))
    assert len(splits.search) == search
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


def test_json_and_back() -> None:
    labels = _labels([30, 30])
    splits = make_splits(labels, ["a", "b"], num_test=0, config=DataConfig())
    back = Splits.from_json(json.loads(json.dumps(splits.to_json())), labels)
    assert all((back[split] == splits[split]).all() for split in SPLITS)
    assert back.labels_sha256 == hash_labels(labels)


def test_stored_splits_of_other_data_are_refused() -> None:
    labels = _labels([30, 30])
    stored = make_splits(labels, ["a", "b"], num_test=0, config=DataConfig()).to_json()
    with pytest.raises(DataError, match=r"belong to other data.*60 images.*start a new run"):
        Splits.from_json(stored, labels[::-1].copy())
    with pytest.raises(DataError, match="must have format 1 and the keys"):
        Splits.from_json({"format": 1}, labels)
    with pytest.raises(DataError, match="overlap"):
        Splits.from_json({**stored, "search": stored["train"]}, labels)


def test_unknown_split_lists_the_known() -> None:
    splits = make_splits(_labels([30, 30]), ["a", "b"], num_test=0, config=DataConfig())
    with pytest.raises(DataError, match="unknown split 'tests'; did you mean 'test'"):
        splits["tests"]


def test_rare_class_is_named() -> None:
    with pytest.raises(DataError, match=r"class 'cat' has 3 images to be split .* at least 4"):
        make_splits(_labels([30, 3]), ["dog", "cat"], num_test=0, config=DataConfig())


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
