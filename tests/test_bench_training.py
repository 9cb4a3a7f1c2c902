"""The training benchmark: what it keeps, what it does again, and its arithmetic; trained on scikit-learn's digits."""

from __future__ import annotations

import copy
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pandas as pd
import pytest
import torch
from steps import Steps, StepSettings

SCRIPT = Path(__file__).parents[1] / "scripts" / "bench_training.py"
TINY = "--data digits --epochs 1 --limit 128 --seeds 0 --gap-archs 2 --num-archs 2 --resolutions 12 16 --threads 1"


def load_script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("bench_training", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["bench_training"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


bench_training = load_script()


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bench")
    assert bench_training.main(words(folder, "gap")) == 0
    return folder


def words(folder: Path, *sections: str) -> list[str]:
    return [*sections, *TINY.split(), "--out", str(folder / "out"), "--work", str(folder / "work")]


def bench(folder: Path, *others: str) -> object:
    return bench_training.Bench(bench_training.parse([*words(folder), *others]))


def contents(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in sorted((folder / "out" / "training").glob("*.csv"))}


@pytest.mark.slow
def test_rows_and_page(finished: Path) -> None:
    runs = pd.read_csv(finished / "out" / "training" / "runs.csv", dtype={"key": str})
    accuracies = pd.read_csv(finished / "out" / "training" / "accuracies.csv", dtype={"key": str, "run": str})
    assert runs["recipe"].tolist() == ["bignas", "plain", "plain"]
    assert runs["images"].tolist() == [128] * 3
    assert sorted(accuracies["run"]) == sorted([runs["key"][0], *runs["key"]])
    page = (finished / "out" / "training.md").read_text()
    assert all(f"{score:.2f}" in page for score in accuracies["top1_percent"])
    assert page.count("Not measured yet") == 2  # the bounds are judged for BN calibration too
    assert str(finished) not in page


@pytest.mark.slow
def test_what_has_a_row_is_not_done_again(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before, page = contents(finished), (finished / "out" / "training.md").read_text()
    monkeypatch.setattr(bench_training, "train", lambda *_, **__: pytest.fail("trained again"))
    assert bench_training.main([*words(finished, "gap"), "--work", str(finished / "gone")]) == 0
    assert contents(finished) == before
    # All but the lines that say when and how.
    assert (finished / "out" / "training.md").read_text().split("Data:")[1] == page.split("Data:")[1]


@pytest.mark.slow
def test_other_settings_have_other_keys(finished: Path) -> None:
    one = bench(finished)
    jobs = [one.job("bignas", epochs=1, seed=0), one.job("bignas", epochs=1.5, seed=0)]  # type: ignore[attr-defined]
    for others in (["--limit", "64"], ["--batch-size", "32"], ["--resolutions", "12"]):
        jobs.append(bench(finished, *others).job("bignas", epochs=1, seed=0))  # type: ignore[attr-defined]
    jobs.append(one.alone_job(one.gap_archs[0], epochs=1, seed=0))  # type: ignore[attr-defined]
    assert len({job.key for job in jobs}) == len(jobs)
    assert "\n".join(bench_training.page(bench(finished, "--epochs", "2"))).count("Not measured yet") == 4


@pytest.mark.slow
def test_strategies_cost_what_was_planned(finished: Path) -> None:
    one = bench(finished)
    for recipe, cost in (("bignas", 30.0), ("deps", 20.0)):
        one.costs.by_key[one.probe_key(recipe)] = {"macs_per_image": cost}  # type: ignore[attr-defined]
    epochs = one.options.strategy_epochs  # type: ignore[attr-defined]
    assert one.planned("bignas", 0.4).epochs == pytest.approx(0.4 * epochs)  # type: ignore[attr-defined]
    assert one.planned("deps", 0.4).epochs == pytest.approx(0.6 * epochs)  # type: ignore[attr-defined]
    assert one.planned("alphanet", 1.0) is None  # type: ignore[attr-defined]  # not probed


def test_cost_at_an_accuracy() -> None:
    curve = [(10.0, 90.0), (4.0, 80.0), (7.0, 86.0)]
    assert bench_training.cost_at(curve, 88) == pytest.approx(8.5)
    assert bench_training.cost_at(curve, 83) == pytest.approx(5.5)
    assert bench_training.cost_at(curve, 79) == 4
    assert bench_training.cost_at(curve, 90.1) is None


def test_what_deps_saves() -> None:
    bignas = [(4e12, 80.0), (10e12, 90.0)]
    text = bench_training.factor_text
    assert "85.00 % at 4 TMAC; `bignas` needs 7 TMAC for it (interpolated), 1.75 times" in text((4e12, 85.0), bignas)
    assert "`bignas` needs less than 4 TMAC for it." in text((4e12, 79.0), bignas)
    assert "`bignas` stays below that at 2.50 times the cost (90.00 %)" in text((4e12, 91.0), bignas)


def test_only_the_sandwich_trains_the_supernet() -> None:
    settings = StepSettings(machine="here", device="cpu", threads=1, batch_size=2, resolution=32, rounds=1)
    supernet = bench_training.create_supernet("ofa_mobilenetv3_tiny", num_classes=10, resolution=[32]).train()
    archs = [supernet.space.largest(), supernet.space.smallest()]
    steps = Steps(settings)
    before = copy.deepcopy(supernet.state_dict())
    for step in steps.static(supernet, archs):
        step()
    assert all(torch.equal(before[name], tensor) for name, tensor in supernet.state_dict().items())
    steps.sandwich(supernet, archs)()
    changed = [not torch.equal(before[name], tensor) for name, tensor in supernet.named_parameters()]
    assert np.mean(changed) > 0.9  # but not what a dead unit keeps from gradients


def test_missing_data(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert bench_training.main(["gap", "--data", str(tmp_path), "--out", str(tmp_path / "out")]) == 2
    assert "no IDX files" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
