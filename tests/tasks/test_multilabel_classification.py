"""Which properties a picture has, the whole way: whether digits are even, prime, large."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score

from ofa.config import ConfigError
from ofa.data import DataConfig, DataError
from ofa.deploy import read_bundle, verify_bundle
from ofa.metrics import MEAN_AVERAGE_PRECISION
from ofa.tasks import MultilabelClassification
from ofa.tasks.multilabel_classification import PropertyScorer, average_precision
from ofa.tasks.task import Exhibit
from ofa.training import Run, SubnetEvaluator, load_recipe, train

from .helpers import QUICK, check_schema, make_bundle, write_digits

NAMES = ("even", "large", "prime")


def properties(digit: int) -> str:
    """Of 1 there are none."""
    has = {"even": digit % 2 == 0, "large": digit > 4, "prime": digit in (2, 3, 5, 7)}
    return "; ".join(name for name, is_there in has.items() if is_there)


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Digits and a run; not to be changed."""
    folder = tmp_path_factory.mktemp("properties")
    root = write_digits(folder, 400, lambda digit: properties(digit) or ";")
    words = (f"data.root={root}", "train.epochs=20", *QUICK)
    train(load_recipe("multilabel", words), folder / "run")
    return folder


def test_it_learns(run: Run, evaluator: SubnetEvaluator) -> None:
    assert evaluator.data.classes == NAMES and run.num_classes == 3
    largest, smallest = evaluator.values([run.space.largest(), run.space.smallest()], split="test")
    share = float(evaluator.data.labels("test").mean())
    assert largest > 80 > 100 * share and smallest > 60
    assert run.task.metric == MEAN_AVERAGE_PRECISION


def test_labels_become_properties(tmp_path: Path) -> None:
    root = write_digits(tmp_path, 40, lambda digit: properties(digit) or ";")
    source = MultilabelClassification().source(DataConfig(name="manifest", root=str(root)))
    assert source.classes == NAMES and source.targets is not None
    digits = [row["label"] for row in csv.DictReader(root.read_text().splitlines())]
    assert source.targets.tolist() == [[int(name in label) for name in NAMES] for label in digits]
    with pytest.raises(ConfigError, match=r"task\.separator must not be empty"):
        MultilabelClassification(separator="")


def test_average_precision_is_that_of_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    scores, has, weights = rng.normal(size=200).round(1), rng.integers(2, size=200), rng.integers(4, size=(3, 200))
    expected = [average_precision_score(has, scores, sample_weight=each) for each in weights]
    np.testing.assert_allclose(average_precision(scores, has.astype(float), weights), expected)
    assert np.isnan(average_precision(scores, np.zeros(200), weights)).all()


def test_a_property_that_nothing_has_does_not_count() -> None:
    scorer, rng = PropertyScorer(), np.random.default_rng(0)
    outputs, targets = rng.normal(size=(60, 3)), rng.integers(2, size=(60, 3))
    targets[:, 1] = 0
    for rows in (slice(0, 25), slice(25, 60)):
        scorer.update(torch.from_numpy(outputs[rows]), torch.from_numpy(targets[rows]))
    expected = np.mean([average_precision_score(targets[:, each], outputs[:, each]) for each in (0, 2)])
    found = scorer.score()
    assert found.value == pytest.approx(100 * expected) and found.low < found.value < found.high
    assert np.isnan(scorer.each[1]) and scorer.num_images == 60


def test_a_bundle(bundle: Path, run: Run, evaluator: SubnetEvaluator, work: Path, tmp_path: Path) -> None:
    info = read_bundle(bundle)
    assert info.task == MultilabelClassification() and info.classes == NAMES and info.model.output == "logits"
    assert set(info.sample_labels[0]) <= {0, 1} and len(info.sample_labels[0]) == 3
    assert info.score.value == pytest.approx(float(evaluator.values([run.space.smallest()], split="test")[0]), abs=1)
    check_schema(bundle)
    assert verify_bundle(bundle).ok
    assert any("of 400" in check.found for check in verify_bundle(bundle, images=work / "all.csv").checks)
    out = tmp_path / "all.csv"
    predict = [sys.executable, bundle / "predict.py", bundle / "samples"]
    subprocess.run([*predict, "--csv", out], check=True)
    rows = list(csv.DictReader(out.read_text().splitlines()))
    outputs = np.load(bundle / "samples" / "outputs.npy")
    for row, logits in zip(rows, outputs, strict=True):
        found = [float(row[f"probability of {name}"]) for name in NAMES]
        np.testing.assert_allclose(found, 1 / (1 + np.exp(-logits)), atol=1e-4)
    said = subprocess.run(predict, capture_output=True, text=True, check=True).stdout.splitlines()
    for line, logits in zip(said, outputs, strict=True):
        assert [name for name in NAMES if name in line.split("\t")[1]] == [
            name for name, logit in zip(NAMES, logits, strict=True) if logit > 0
        ]


def test_strangers_among_properties_of_ones_own(bundle: Path, tmp_path: Path) -> None:
    write_digits(tmp_path, 9, lambda digit: "odd" if digit % 2 else "even")
    with pytest.raises(DataError, match="unknown class 'odd'"):
        verify_bundle(bundle, images=tmp_path / "all.csv")


def test_a_bundle_that_takes_pixels(run: Run, evaluator: SubnetEvaluator, tmp_path: Path) -> None:
    bundle = make_bundle(evaluator, run, tmp_path / "pixels", from_pixels=True)
    assert verify_bundle(bundle).ok and read_bundle(bundle).model.output == "probabilities"
    assert 0 <= np.load(bundle / "samples" / "outputs.npy").min() <= 1


def test_the_page_shows_properties(bundle: Path, run: Run) -> None:
    info = json.loads((bundle / "bundle.json").read_text())
    section = run.task.report_section([Exhibit(name="cpu-1t", folder=bundle, info=info)])
    assert section is not None and len(section.rows) == 16
    assert any("✗" in str(row[2]) or "✓" in str(row[2]) for row in section.rows)
