"""A number for each picture, the whole way: how much digits are worth, in euros."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from ofa.config import ConfigError
from ofa.data import DataConfig, DataError
from ofa.deploy import read_bundle, verify_bundle
from ofa.metrics import metric_of
from ofa.tasks import Regression
from ofa.tasks.regression import DistanceScorer
from ofa.tasks.task import Exhibit
from ofa.training import Run, SubnetEvaluator, load_recipe, train

from .helpers import QUICK, check_schema, make_bundle, write_digits


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Prices and a run; not to be changed."""
    folder = tmp_path_factory.mktemp("prices")
    root = write_digits(folder, 400, lambda digit: str(1000 + 50.5 * digit))
    words = ("data.name=manifest", f"data.root={root}", "task.unit=euros", "train.epochs=40", *QUICK)
    train(load_recipe("regression", words), folder / "run")
    return folder


def test_it_learns(run: Run, evaluator: SubnetEvaluator) -> None:
    """Less than three quarters of what the mean of all would be off."""
    numbers = evaluator.data.source.targets
    largest, smallest = evaluator.values([run.space.largest(), run.space.smallest()], split="test")
    assert largest < np.abs(numbers - numbers.mean()).mean() * 0.75 and smallest > largest * 0.8
    assert run.task.metric.text(largest).endswith(" euros")
    assert metric_of(json.loads((run.path / "supernet.json").read_text())) == run.task.metric
    _, numbers_of_batch = next(run.task.train_batches(run.data(), epoch=0, batch_size=200, seed=0))
    assert abs(float(numbers_of_batch.mean())) < 0.2 and float(numbers_of_batch.std()) == pytest.approx(1, abs=0.2)


def test_splits_hold_the_same_numbers_again(run: Run) -> None:
    first, again = run.data(), run.data()
    assert first.scale == again.scale and torch.equal(first.labels("test"), again.labels("test"))
    assert run.info["data"]["scale"] == list(first.scale)


def test_a_number_that_changed_is_noticed(work: Path, run: Run, tmp_path: Path) -> None:
    lines = (work / "all.csv").read_text().splitlines()
    path, _ = lines[7].split(",")
    (tmp_path / "all.csv").write_text("\n".join([*lines[:7], f"{path},1.5", *lines[8:]]))
    (tmp_path / "pictures").symlink_to(work / "pictures")
    with pytest.raises(DataError, match=r"0006.png is no longer what it was"):
        run.data(root=str(tmp_path / "all.csv"))


@pytest.mark.parametrize(
    ("label", "message"),
    [
        (lambda digit: f"{digit} euros", "label '0 euros' is no number"),
        (lambda digit: "7", "a single class, 7; there is nothing to tell apart"),
    ],
)
def test_labels_that_are_no_numbers(tmp_path: Path, label: object, message: str) -> None:
    root = write_digits(tmp_path, 20, label)  # type: ignore[arg-type]
    with pytest.raises(DataError, match=message):
        Regression().source(DataConfig(name="manifest", root=str(root)))


def test_numbers_of_the_test_set_may_be_new(tmp_path: Path) -> None:
    root = write_digits(tmp_path, 40, str)
    lines = root.read_text().splitlines()
    split = [
        "path,label,split",
        *(f"{line},{'test' if number > 30 else 'train'}" for number, line in enumerate(lines[1:])),
    ]
    split[-1] = split[-1].rpartition(",")[0].rpartition(",")[0] + ",12.25,test"
    root.write_text("\n".join(split))
    config = DataConfig(name="manifest", root=str(root))
    source = Regression().source(config)
    assert source.targets is not None and source.targets[-1] == 12.25 and source.num_test == 9


@pytest.mark.parametrize("word", ["data.mixup=0.2", "data.balance=0.5"])
def test_what_needs_classes_is_refused(word: str) -> None:
    from ofa.training.preflight import check_recipe

    with pytest.raises(DataError, match="is for classes, which task regression has not; leave it at 0"):
        check_recipe(load_recipe("regression", [word]))


def test_losses_of_classes_do_not_fit() -> None:
    with pytest.raises(ConfigError, match="soft_labels"):
        load_recipe("regression", ["strategy.loss=soft_labels"])


def test_the_interval_is_of_the_mean() -> None:
    errors = np.random.default_rng(0).normal(size=2000)
    scorer = DistanceScorer(scale=2.0)
    for part in np.split(errors, 4):
        scorer.update(torch.from_numpy(part)[:, None] + 3, torch.full((500,), 3.0))
    found, reach = scorer.score(), 1.96 * 2 * np.abs(errors).std() / 2000**0.5
    assert found.value == pytest.approx(2 * np.abs(errors).mean())
    assert (found.high - found.low) / 2 == pytest.approx(reach, rel=0.1) and found.num_images == 2000


def test_a_bundle_says_numbers_as_they_are(bundle: Path, run: Run, evaluator: SubnetEvaluator, work: Path) -> None:
    info = read_bundle(bundle)
    assert info.task == Regression(unit="euros") and info.model.output == "number" and info.classes == ()
    expected = float(evaluator.values([run.space.smallest()], split="test")[0])
    assert info.score.value == pytest.approx(expected, rel=0.02)
    assert 900 < float(np.mean(info.sample_labels)) < 1600
    check_schema(bundle)
    assert verify_bundle(bundle).ok
    checked = verify_bundle(bundle, images=work / "all.csv").checks
    assert any("euros" in check.found and "of 400" in check.found for check in checked)
    said = subprocess.run(
        [sys.executable, bundle / "predict.py", bundle / "samples" / "000.png"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert float(said.split("\t")[1]) == pytest.approx(np.load(bundle / "samples" / "outputs.npy")[0, 0], rel=1e-3)
    assert "mean absolute error" in (bundle / "README.md").read_text().lower()


def test_a_bundle_that_takes_pixels(run: Run, evaluator: SubnetEvaluator, bundle: Path, tmp_path: Path) -> None:
    other = make_bundle(evaluator, run, tmp_path / "pixels", from_pixels=True)
    assert verify_bundle(other).ok
    one, another = (np.load(folder / "samples" / "outputs.npy") for folder in (bundle, other))
    np.testing.assert_allclose(one, another, rtol=1e-3)


def test_the_page_shows_numbers(bundle: Path, run: Run) -> None:
    info = json.loads((bundle / "bundle.json").read_text())
    section = run.task.report_section([Exhibit(name="cpu-1t", folder=bundle, info=info)])
    assert section is not None and len(section.rows) == 16
    assert all("euros" in cell for row in section.rows for cell in row[1:])
    broken = [Exhibit(name="cpu-1t", folder=bundle / "none", info=info)]
    assert run.task.report_section(broken) is None
