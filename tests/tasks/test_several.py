"""Several tasks at once, the whole way: which digit it is, and what it is worth; what pixels show, and how many."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from typer.testing import CliRunner

from ofa.cli import app
from ofa.config import ConfigError
from ofa.data import DataError
from ofa.deploy import read_bundle, verify_bundle
from ofa.errors import UsageError
from ofa.tasks import Classification, MultilabelClassification, Regression, Segmentation, Several
from ofa.tasks.losses import EachHead, SoftLabels
from ofa.training import Run, RunError, SubnetEvaluator, load_recipe, train
from ofa.training.judging import judged_by

from .helpers import QUICK, check_schema, make_bundle, write_digits
from .masked import NAMES, NETWORK, encoded, picture

HEADS = ("task.columns.kind=digit", "task.columns.value=euros")
MANY: dict[str, Any] = {"one": Classification(), "other": MultilabelClassification()}


def write_table(folder: Path, num: int) -> Path:
    root = write_digits(folder, num, str)
    with root.open() as file:
        rows = list(csv.reader(file))[1:]
    with root.open("w", newline="") as file:
        csv.writer(file).writerows(
            [["path", "digit", "euros"], *([path, digit, f"{100 + 7.5 * int(digit)}"] for path, digit in rows)]
        )
    return root


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Digits and a run; not to be changed."""
    folder = tmp_path_factory.mktemp("both")
    root = write_table(folder, 400)
    train(load_recipe("several", (f"data.root={root}", *HEADS, "train.epochs=20", *QUICK)), folder / "run")
    return folder


@pytest.fixture(scope="module")
def value_run(run: Run, work: Path) -> Run:
    return judged_by(run, "value", out=work / "value")


def evaluator_of(run: Run) -> SubnetEvaluator:
    return SubnetEvaluator(run.supernet(), run.data(), run.task)


def test_both_are_learnt(run: Run, value_run: Run) -> None:
    data = run.data()
    numbers = data.heads["value"].source.targets
    bounds = [run.space.largest(), run.space.smallest()]
    assert min(evaluator_of(run).values(bounds, split="test")) > 50
    assert max(evaluator_of(value_run).values(bounds, split="test")) < 0.8 * np.abs(numbers - numbers.mean()).mean()
    assert run.task.metric.name == "top1_percent" and value_run.task.metric.name == "mean_absolute_error"
    np.testing.assert_allclose(value_run.bounds(), evaluator_of(value_run).values(bounds, split="search"), rtol=1e-4)


def test_heads_see_the_same_pictures(run: Run) -> None:
    data = run.data()
    kind, value = data.heads["kind"], data.heads["value"]
    for split in ("train", "calibration", "search", "test"):
        np.testing.assert_array_equal(kind.splits[split], value.splits[split])
    batches = [head.train_batches(epoch=3, batch_size=16, seed=1) for head in (kind, value)]
    for (images, labels), (again, numbers) in zip(*batches, strict=True):
        assert torch.equal(images, again)
        middle, spread = value.scale
        euros = 100 + 7.5 * torch.tensor([int(kind.classes[label]) for label in labels])
        torch.testing.assert_close(numbers * spread + middle, euros, check_dtype=False)
    again = run.data()
    assert all(torch.equal(data.heads[head].labels("test"), again.heads[head].labels("test")) for head in data.heads)


def test_a_number_that_changed_is_noticed(work: Path, run: Run, tmp_path: Path) -> None:
    (tmp_path / "pictures").symlink_to(work / "pictures")
    text = (work / "all.csv").read_text().replace("0007.png,7,152.5", "0007.png,7,152.6")
    assert text != (work / "all.csv").read_text()
    (tmp_path / "all.csv").write_text(text)
    with pytest.raises(DataError, match=r"0007.png is no longer what it was"):
        run.data(root=str(tmp_path / "all.csv"))


def test_a_head_is_shipped_as_if_there_were_no_other(run: Run, value_run: Run, tmp_path: Path) -> None:
    kinds = make_bundle(evaluator_of(run), run, tmp_path / "kind")
    values = make_bundle(evaluator_of(value_run), value_run, tmp_path / "value")
    for bundle in (kinds, values):
        check_schema(bundle)
        assert verify_bundle(bundle).ok
    assert read_bundle(kinds).task == Classification() and read_bundle(values).task == Regression()
    assert np.load(kinds / "samples" / "outputs.npy").shape[1] == 10
    number = np.load(values / "samples" / "outputs.npy")
    assert number.shape[1] == 1 and 90 < number.mean() < 180
    assert read_bundle(kinds).score.value == pytest.approx(
        float(evaluator_of(run).values([run.space.smallest()], split="test")[0]), abs=0.01
    )


def test_all_heads_in_one_file(run: Run, work: Path, tmp_path: Path) -> None:
    """Two heads that are judged by shares: which digit, and whether it is even and below five."""
    table = pd.read_csv(work / "all.csv")
    table["is"] = [
        ";".join(name for name, holds in (("even", digit % 2 == 0), ("small", digit < 5)) if holds) or ";"
        for digit in table["digit"]
    ]
    (tmp_path / "pictures").symlink_to(work / "pictures")
    table.to_csv(tmp_path / "all.csv", index=False)
    task = {"name": "several", "tasks": {"kind": "classification", "has": "multilabel_classification"}}
    recipe = tmp_path / "both.yaml"
    recipe.write_text(
        json.dumps(
            {
                "task": {**task, "sizes": {"kind": 10, "has": 2}, "columns": {"kind": "digit", "has": "is"}},
                "data": {"name": "manifest", "root": str(tmp_path / "all.csv")},
                "strategy": {"loss": {"name": "each_head", "losses": {"kind": "soft_labels", "has": "each_class"}}},
            }
        )
    )
    words = ("train.epochs=8", "strategy.sampler.name=sandwich", *QUICK)
    train(load_recipe(recipe, words), tmp_path / "run")
    both = Run.open(tmp_path / "run")
    bundle = make_bundle(evaluator_of(both), both, tmp_path / "bundle")
    info = read_bundle(bundle)
    assert isinstance(info.task, Several) and info.classes[0] == "kind: 0" and info.classes[-1] == "has: small"
    check_schema(bundle)
    assert verify_bundle(bundle).ok
    details = json.loads((bundle / "bundle.json").read_text())["mean_of_heads_percent"]
    heads = details["details"]
    mean = np.mean([heads["kind"]["top1_percent"], heads["has"]["mean_average_precision_percent"]])
    assert details["value"] == pytest.approx(mean, abs=1e-3)
    said = subprocess.run(
        [sys.executable, bundle / "predict.py", bundle / "samples" / "000.png"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
    assert [line.split("\t")[1] for line in said] == ["kind", "has"]


MODEL = f"""{NETWORK}

class Both(Net):
    def __init__(self, num_classes):
        super().__init__(max(num_classes - 2, 1))
        self.count = nn.Linear(16, 2)

    def forward(self, x):
        features = self.blocks(functional.relu(self.stem_norm(self.stem(x))))
        return {{"pixels": self.head(features), "many": self.count(features.mean(dim=(2, 3)))}}


def both(num_classes):
    return Both(num_classes)
"""


@pytest.fixture(scope="module")
def masked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Parquet file of pictures, masks and a label each, and a run with a head for both."""
    folder = tmp_path_factory.mktemp("masked")
    rng = np.random.default_rng(0)
    pictures = [tuple(encoded(each) for each in picture(rng)) for _ in range(96)]
    table = pd.DataFrame(pictures, columns=["image", "mask"])
    table["label"] = ["few", "many"] * 48  # of which nothing tells
    (folder / "data").mkdir()
    table.iloc[:72].to_parquet(folder / "data" / "train.parquet")
    table.iloc[72:].to_parquet(folder / "data" / "test.parquet")
    (folder / "net.py").write_text(MODEL)
    recipe = {
        "task": {
            "name": "several",
            "tasks": {"many": "classification", "pixels": {"name": "segmentation", "names": list(NAMES), "void": [9]}},
        },
        "model": {"name": f"{folder / 'net.py'}:both", "resolution": [16, 24], "input_size": [24, 32]},
        "data": {"name": "parquet", "root": str(folder / "data")},
        "strategy": {"loss": {"name": "each_head", "losses": {"many": "soft_labels", "pixels": "soft_labels"}}},
        "train": {"epochs": 12, "batch_size": 12, "learning_rate": 0.01, "warmup_epochs": 1, "device": "cpu"},
    }
    (folder / "both.yaml").write_text(json.dumps(recipe))
    train(load_recipe(folder / "both.yaml", ("strategy.sampler.name=sandwich",)), folder / "run")
    return folder


def test_masks_and_classes_at_once(masked: Path, tmp_path: Path) -> None:
    run = Run.open(masked / "run")
    assert run.task.metric.name == "mean_of_heads_percent"
    with pytest.raises(UsageError, match="ofa judge --run RUN --by many"):
        make_bundle(evaluator_of(run), run, tmp_path / "all")
    pixels = judged_by(run, "pixels", out=tmp_path / "pixels")
    assert isinstance(pixels.task, Several) and pixels.task.metric.name == "miou_percent"
    bundle = make_bundle(evaluator_of(pixels), pixels, tmp_path / "bundle")
    info = read_bundle(bundle)
    assert isinstance(info.task, Segmentation) and info.classes == NAMES and info.score.value > 60
    check_schema(bundle)
    assert verify_bundle(bundle).ok


def test_judging_by_the_command_line(work: Path, tmp_path: Path) -> None:
    words = ["judge", "--run", str(work / "run"), "--by", "value", "--out", str(tmp_path / "value")]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output
    assert Run.open(tmp_path / "value").task.judge_by == "value"  # type: ignore[attr-defined]


def test_a_classifier_by_another_metric(run: Run, work: Path, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="is there already"):
        judged_by(run, "value", out=work / "value" if (work / "value").exists() else work)
    with pytest.raises(ConfigError, match="head"):
        judged_by(run, "colour", out=tmp_path / "colour")
    assert not (tmp_path / "colour").exists()


def test_losses_are_weighed() -> None:
    loss = EachHead(losses={"a": SoftLabels(), "b": SoftLabels()}, weights={"b": 0.25})
    logits, labels = torch.randn(2, 4, 3), torch.tensor([0, 1, 2, 0])
    parts = [float(SoftLabels().label_loss(each, labels)) for each in logits]
    found = loss.label_loss({"a": logits[0], "b": logits[1]}, {"a": labels, "b": labels})
    assert float(found) == pytest.approx(parts[0] + 0.25 * parts[1])
    with pytest.raises(ConfigError, match="weights has c"):
        EachHead(losses={"a": SoftLabels()}, weights={"c": 1})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"tasks": {"one": Classification()}}, "must name two tasks"),
        ({"tasks": {**MANY, "all": Regression()}}, "'all' must be a name"),
        ({"tasks": MANY, "sizes": {"other": 2, "one": 3}}, "in their order"),
        ({"tasks": MANY, "judge_by": "two"}, "judge_by"),
        ({"tasks": {"one": Classification(), "two": Regression()}}, "two is judged by mean absolute error"),
        ({"tasks": MANY, "columns": {"three": "x"}}, "task.columns"),
    ],
)
def test_what_does_not_go_together(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Several(**settings)


def test_losses_that_do_not_fit() -> None:
    with pytest.raises(ConfigError, match="must name a loss for each head"):
        load_recipe("several", ("strategy.loss={name: each_head, losses: {kind: labels}}",))
    with pytest.raises(ConfigError, match=r"head value: strategy.loss labels is not for task regression"):
        load_recipe("several", ("strategy.loss={name: each_head, losses: {kind: labels, value: labels}}",))
    tasks: dict[str, Any] = {"kind": Classification(), "value": Regression()}
    data: Any = SimpleNamespace(heads=dict.fromkeys(tasks, SimpleNamespace(classes=tuple("0123456789"))))
    with pytest.raises(ConfigError, match=r"task.sizes.kind is 9, but the data needs 10"):
        Several(tasks=tasks, sizes={"kind": 9, "value": 1}, judge_by="kind").num_classes(data)
