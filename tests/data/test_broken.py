"""Broken images are found before training, told all at once, and left out where that is asked for."""

from __future__ import annotations

import csv
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ofa.data import SPLITS, DataConfig, DataError, ImageData, load_data
from ofa.data.broken import find_broken
from ofa.data.readers import read_source

from .helpers import write_folder

NUM_TRAIN, NUM_TEST = 60, 30
LIMITS = {"memory": 10**6, "workers": 0}


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    write_folder(tmp_path / "data" / "train", {"cat": NUM_TRAIN // 2, "dog": NUM_TRAIN // 2})
    write_folder(tmp_path / "data" / "test", {"cat": NUM_TEST // 2, "dog": NUM_TEST // 2}, seed=1)
    return tmp_path / "data"


def load(root: Path, how: str, *, stored: Any = None, progress: Any = None, **options: Any) -> ImageData:
    config = DataConfig(name="folder", root=str(root), **options)
    return load_data(config, image_size=8, memory_limit_bytes=LIMITS[how], splits=stored, progress=progress)


def damage(*paths: Path) -> None:
    for path in paths:
        path.write_bytes(path.read_bytes()[:60])


@pytest.mark.parametrize("how", LIMITS)
def test_a_broken_image_of_the_test_set_is_found_before_training(root: Path, how: str) -> None:
    damage(root / "test" / "dog" / "004.png", root / "train" / "cat" / "007.png")
    with pytest.raises(DataError) as caught:
        load(root, how)
    first, *lines = str(caught.value).splitlines()
    assert first == (
        "2 of 90 images cannot be read; replace or remove them, or leave them out with data.skip_broken=true:"
    )
    assert [re.findall(r"\w+/\w+/\d+\.png", line) for line in lines] == [["train/cat/007.png"], ["test/dog/004.png"]]


@pytest.mark.parametrize("how", LIMITS)
def test_a_long_list_is_in_a_file(root: Path, how: str) -> None:
    damage(*root.glob("test/*/*"))
    with pytest.raises(DataError, match=r"^30 of 90 images cannot be read") as caught:
        load(root, how)
    lines = str(caught.value).splitlines()
    assert len(lines) == 1 + 20 + 1
    (file,) = re.findall(r"and 10 more, all of them in (\S+\.csv)$", lines[-1])
    with open(file, newline="") as opened:
        rows = list(csv.DictReader(opened))
    assert [row["image"] for row in rows] == [
        f"test/{name}/{index:03}.png" for name in ("cat", "dog") for index in range(15)
    ]
    assert all("truncated or not an image" in row["reason"] for row in rows)


@pytest.mark.parametrize("how", LIMITS)
def test_they_are_left_out_of_their_splits_where_that_is_asked_for(root: Path, how: str) -> None:
    whole = load(root, how)
    images_before = {split: torch.cat([batch for batch, _ in whole.batches(split, batch_size=16)]) for split in SPLITS}
    broken = [root / "test" / "dog" / "004.png", root / "train" / "cat" / "007.png", root / "train" / "dog" / "001.png"]
    damage(*broken)
    data = load(root, how, skip_broken=True)
    names = {split: [data.source.images.name(index) for index in data.splits[split]] for split in SPLITS}
    gone = {path.relative_to(root).as_posix() for path in broken}
    assert data.num_broken == 3
    for split in SPLITS:
        before = [whole.source.images.name(index) for index in whole.splits[split]]
        assert names[split] == [name for name in before if name not in gone]
        images, labels = (torch.cat(parts) for parts in zip(*data.batches(split, batch_size=16), strict=True))
        assert len(images) == len(labels) == len(names[split])
        kept = torch.tensor([name not in gone for name in before])
        mean, std = (torch.tensor(each)[:, None, None] for each in (whole.mean, whole.std))
        own_mean, own_std = (torch.tensor(each)[:, None, None] for each in (data.mean, data.std))
        torch.testing.assert_close(images * own_std + own_mean, images_before[split][kept] * std + mean)
    # What a run stores has none of them, and later commands need not be told again.
    again = load(root, how, stored=data.splits.to_json())
    assert (again.num_broken, len(again.splits.test)) == (0, NUM_TEST - 1)


def test_what_a_run_was_trained_with_must_be_readable(root: Path) -> None:
    stored = load(root, "memory", skip_broken=True).splits.to_json()
    damage(root / "test" / "dog" / "004.png")
    with pytest.raises(DataError, match=r"dog/004.png"):
        load(root, "memory", stored=stored, skip_broken=True)


@pytest.mark.parametrize(
    ("damaged", "message"), [("test/*/*", "none of the 30 images of the test split"), ("train/dog/*", "of class 'dog'")]
)
def test_nothing_may_be_left_empty(root: Path, damaged: str, message: str) -> None:
    damage(*root.glob(damaged))
    with pytest.raises(DataError, match=message):
        load(root, "memory", skip_broken=True)


def test_the_same_files_are_checked_once_and_what_is_left_out_is_said(root: Path) -> None:
    def load_noting() -> tuple[int, bool]:
        """How many images are said to be left out, and whether all were checked."""
        steps: list[tuple[int, int, str]] = []
        data = load(root, "workers", skip_broken=True, progress=lambda *step: steps.append(step))
        said = [what for done, total, what in steps if not total]
        assert said[-1:] == [f"{data.num_broken} of 90 images cannot be read and are left out"]
        return data.num_broken, (90, 90, "checking images") in steps

    damage(root / "test" / "dog" / "004.png")
    assert load_noting() == (1, True)
    assert load_noting() == (1, False)
    damage(root / "test" / "dog" / "005.png")
    assert load_noting() == (2, True)
    rotten = root / "test" / "dog" / "006.png"  # neither size nor name tell
    rotten.write_bytes(bytes(rotten.stat().st_size))
    os.utime(rotten, ns=(0, 12345))
    assert load_noting() == (3, True)


def test_a_damaged_memory_is_made_anew(root: Path, tmp_path: Path) -> None:
    damage(root / "test" / "dog" / "004.png")
    source = read_source(DataConfig(name="folder", root=str(root)))
    indices = np.arange(len(source.labels))
    found = find_broken(source, indices)
    assert list(found) == [int(np.flatnonzero([source.images.name(i) == "test/dog/004.png" for i in indices])[0])]
    (memory,) = (tmp_path / "cache" / "ofa" / "data").glob("*.json")
    for text in ("", '{"format": 1}', '{"format": 1, "broken": [1.5, "x"]}', '{"format": 1, "broken": [4000]}'):
        memory.write_text(text)
        assert find_broken(source, indices) == found
