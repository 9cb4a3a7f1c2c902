"""A run refuses data that is no longer what it was made with, and says what is other."""

from __future__ import annotations

import base64
import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from ofa.data import DataConfig, DataError, load_data
from ofa.data.identity import Identity
from ofa.data.readers import Source, read_source

from .helpers import write_folder, write_parquet


@pytest.fixture
def config(tmp_path: Path) -> DataConfig:
    write_folder(tmp_path / "data", {"cat": 20, "dog": 20})
    return DataConfig(name="folder", root=str(tmp_path / "data"))


def _stored(config: DataConfig) -> dict[str, Any]:
    splits: dict[str, Any] = json.loads(json.dumps(load_data(config, image_size=8).splits.to_json()))
    return splits


def _replace_one_per_class(root: Path) -> None:
    for name in ("cat", "dog"):
        (root / name / "003.png").rename(root / name / "099.png")


def _overwrite(root: Path) -> None:
    shutil.copy(root / "cat" / "001.png", root / "dog" / "004.png")


def _swap(root: Path) -> None:
    (root / "cat" / "000.png").rename(root / "aside.png")
    (root / "dog" / "000.png").rename(root / "cat" / "000.png")
    (root / "aside.png").rename(root / "dog" / "000.png")


def _remove(root: Path) -> None:
    for number in (5, 6):
        (root / "dog" / f"{number:03}.png").unlink()


def _remove_last(root: Path) -> None:
    (root / "dog" / "019.png").unlink()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            _replace_one_per_class,
            "cat/099.png is new (and 1 more); 2 of the run's 40 samples are missing, the first before cat/004.png",
        ),
        (_overwrite, "dog/004.png is no longer what it was (its bytes or its label)"),
        (_swap, "cat/000.png is no longer what it was (its bytes or its label) (and 1 more)"),
        (_remove, "2 of the run's 40 samples are missing, the first before dog/007.png"),
        (_remove_last, "1 of the run's 40 samples is missing, the first at the end"),
    ],
)
def test_other_files_are_refused(config: DataConfig, change: Callable[[Path], None], said: str) -> None:
    splits, root = _stored(config), Path(str(config.root))
    change(root)
    remedy = "give the run its own data, or start a new run"
    with pytest.raises(DataError) as caught:
        load_data(config, image_size=8, splits=splits)
    assert str(caught.value) == f"the data is not what the run was made with: {said}; {remedy}"


def test_data_that_moved_is_the_same(config: DataConfig, tmp_path: Path) -> None:
    splits = _stored(config)
    shutil.move(str(config.root), tmp_path / "elsewhere")
    again = load_data(replace(config, root=str(tmp_path / "elsewhere")), image_size=8, splits=splits)
    assert again.splits.to_json() == splits


def test_rows_of_a_table_in_another_order_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "train.parquet"
    write_parquet(path, 40, [0, 1])
    config = DataConfig(name="parquet", root=str(path))
    splits, table = _stored(config), pq.read_table(path)
    pq.write_table(table.take([2, 1, 0, *range(3, 40)]), path)  # all labels stay where they are
    with pytest.raises(DataError, match=r"row 0 of train.parquet is no longer what it was .*\(and 1 more\)"):
        load_data(config, image_size=8, splits=splits)


@pytest.mark.parametrize(("limit", "content"), [(10**6, "sha256"), (1000, "num_bytes")])
def test_contents_are_read_where_they_are_few(
    config: DataConfig, monkeypatch: pytest.MonkeyPatch, limit: int, content: str
) -> None:
    monkeypatch.setattr("ofa.data.identity.LIMIT_BYTES", limit)
    splits, victim = _stored(config), Path(str(config.root)) / "dog" / "004.png"
    assert splits["identity"]["content"] == content
    monkeypatch.setattr("ofa.data.identity.LIMIT_BYTES", 500_000)  # as it was stored, so it is looked at again
    before = victim.read_bytes()
    victim.write_bytes(before[:-1] + b"\0")
    if content == "sha256":
        with pytest.raises(DataError, match=r"dog/004\.png is no longer"):
            load_data(config, image_size=8, splits=splits)
    else:
        Identity.from_json(splits["identity"]).check(read_source(config))
    victim.write_bytes(before + b"\0")
    with pytest.raises(DataError, match=r"dog/004\.png is no longer"):
        load_data(config, image_size=8, splits=splits)


def test_the_sum_is_that_of_names_labels_and_contents(config: DataConfig) -> None:
    source = read_source(config)
    identity = Identity.of(source)
    files = sorted(Path(str(config.root)).rglob("*.png"))
    halves = [
        (
            hashlib.sha256(f"{file.parent.name}/{file.name}".encode()).digest(),
            hashlib.sha256(f"{label} ".encode() + hashlib.sha256(file.read_bytes()).digest()).digest(),
        )
        for file, label in zip(files, source.labels.tolist(), strict=True)
    ]
    assert identity.sha256 == hashlib.sha256(b"".join(one + other for one, other in halves)).hexdigest()
    digests = b"".join(one[:4] + other[:4] for one, other in halves)
    assert base64.b64decode(identity.to_json()["digests"]) == digests


def test_a_label_is_part_of_it(config: DataConfig) -> None:
    source = read_source(config)
    identity = Identity.of(source)
    labels = source.labels.copy()
    labels[7] = 1
    with pytest.raises(DataError, match=r"cat/007\.png is no longer"):
        identity.check(replace(source, labels=labels))


class _Undecoded:
    """Pictures whose size is not known; there are 100,000."""

    def __len__(self) -> int:
        return 100_000

    def __getitem__(self, index: int) -> Any:
        raise AssertionError

    def name(self, index: int) -> str:
        return f"image {index}"

    digest = __getitem__

    def num_bytes(self, index: int) -> None:
        return None


def test_what_would_have_to_be_decoded_is_not_looked_at_and_little_is_stored() -> None:
    source = Source(("a", "b"), np.arange(100_000) % 2, _Undecoded())
    identity = Identity.of(source)
    assert identity.content == "nothing"
    assert len(json.dumps(identity.to_json())) < 11 * 100_000
    Identity.from_json(json.loads(json.dumps(identity.to_json()))).check(source)


@pytest.mark.parametrize(
    "damage", [{"content": "size"}, {"sha256": 5}, {"digests": "???"}, {"digests": "AAAA"}, {"digests": None}]
)
def test_a_damaged_identity_is_refused(config: DataConfig, damage: dict[str, Any]) -> None:
    splits = _stored(config)
    for broken in ({**splits["identity"], **damage}, {}, [], None):
        with pytest.raises(DataError, match="the stored identity of samples is damaged"):
            load_data(config, image_size=8, splits={**splits, "identity": broken})


def test_runs_without_it_go_by_their_labels(config: DataConfig) -> None:
    splits = _stored(config)
    del splits["identity"]
    _overwrite(Path(str(config.root)))
    again = load_data(config, image_size=8, splits=splits)
    assert again.splits.to_json() == splits
    _remove_last(Path(str(config.root)))
    with pytest.raises(DataError, match=r"stored splits belong to other data.*39 images"):
        load_data(config, image_size=8, splits=splits)
