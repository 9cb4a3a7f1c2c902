"""What CONTRIBUTING says of adding something, done: one file in ``tests/toys`` each, and one line here.

``monkeypatch.setitem`` of a registry is that line. A toy dim kind is in ``tests/supernet/dims/test_toy_dim.py``.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from hardware.fakes import FakeSupernet
from search.world import World, make_space
from toys.format import export_pt2
from toys.loss import Brier
from toys.method import climbing
from toys.predictor import Nearest
from toys.reader import read_stripes
from toys.regression_loss import Distance
from toys.runtime import Aten
from toys.sampler import Bounds
from toys.schedule import TeacherFirst
from toys.task import Worth
from toys.transport import Assumed

import ofa.hardware
import ofa.search
from ofa.config import ConfigError
from ofa.cost import LatencyTable, macs, params
from ofa.data import READERS, DataError
from ofa.deploy import (
    TARGETS,
    BundleError,
    ElasticOptions,
    ElasticRuntime,
    ExportOptions,
    Latency,
    export_bundle,
    judge_artefact,
    make_artefact,
    read_bundle,
    verify_bundle,
    write_elastic,
)
from ofa.deploy.artefact import bundle_artefact
from ofa.deploy.targets import Target
from ofa.formats import FORMATS, fixed_batch
from ofa.hardware import Device, load_device
from ofa.hardware.runtimes import RUNTIMES
from ofa.hardware.transports import HOSTS
from ofa.metrics import METRICS, Metric
from ofa.report import write_report
from ofa.search.evaluation_cache import EvaluationCache, Scores
from ofa.search.methods import METHODS
from ofa.search.predictors import PREDICTORS
from ofa.search.run import Target as SearchTarget
from ofa.search.run import TargetSearch
from ofa.setting import Setting
from ofa.tasks import LOSSES, TASKS
from ofa.training import Run, SubnetEvaluator, load_recipe, train
from ofa.training.samplers import SAMPLERS
from ofa.training.schedules import SCHEDULES

TOYS = Path(__file__).parent / "toys"
TINY = (
    "train.epochs=2",
    "train.batch_size=32",
    "train.warmup_epochs=1",
    "train.eval_every_epochs=0",
    "train.device=cpu",
    "data.limit=64",
    "data.search_share=32",
    "data.calibration_share=32",
    "model.depth=[1, 3]",
    "model.resolution=[16, 20]",
)


@pytest.mark.parametrize("path", sorted(TOYS.glob("*.py")), ids=lambda path: path.stem)
def test_a_toy_asks_for_nothing_that_is_hidden(path: Path) -> None:
    """So that it could stand in ``ofa/`` as it is; a task is of another room than its loss."""
    text = path.read_text()
    assert not re.search(r"import _|\._[a-z]+\(", text.replace("self._", "self."))
    others = re.findall(r"^from \.(\w+)", text, flags=re.MULTILINE)
    assert others == (["regression_loss"] if path.stem == "task" else [])


# -- data and strategy -----------------------------------------------------------------------------------------------


def test_a_reader_a_sampler_a_schedule_and_a_loss(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(READERS, "stripes", read_stripes)
    monkeypatch.setitem(SAMPLERS, "bounds", Bounds)
    monkeypatch.setitem(SCHEDULES, "teacher_first", TeacherFirst)
    monkeypatch.setitem(LOSSES, "brier", Brier)
    strategy = ("sampler=bounds", "schedule=teacher_first", "schedule.alone=0.25", "loss=brier")
    recipe = load_recipe("demo", (*TINY, "data.name=stripes", *(f"strategy.{word}" for word in strategy)))
    run = train(recipe, tmp_path / "run")
    assert run.recipe == recipe
    assert run.info["data"]["classes"] == ["lying", "standing"]
    metrics = pd.read_csv(tmp_path / "run" / "metrics.csv")
    assert list(metrics["phase"]) == ["all", "all"] and np.isfinite(metrics["loss_smallest"].iloc[-1])
    assert metrics["loss_random"].isna().all()
    assert run.data().splits.to_json() == run.info["data"]["splits"]
    page = write_report(run.path, tables_dir=tmp_path / "tables").read_text()
    for words in (
        "The largest subnet trains alone for 25% of the run.",
        "The largest and the smallest subnet.",
        "Squared distance to the teacher&#39;s probabilities.",
        "A frozen copy of the trained largest subnet.",
    ):
        assert words in page


# -- a task with its metric ------------------------------------------------------------------------------------------

OFF_BY = Metric(
    quantity="off_by",
    unit="digits",
    title="mean distance",
    symbol="digits",
    higher_is_better=False,
    perfect=0.0,
    interval_by="bootstrap",
)


@pytest.fixture(scope="module")
def worth(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run of the toy task, searched; not to be changed."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        add_task(monkeypatch)
        words = ("task=worth", "strategy.loss=distance", "train.learning_rate=0.01")
        run = train(load_recipe("demo", (*TINY, *words)), tmp_path_factory.mktemp("worth") / "run")
        evaluator = SubnetEvaluator(run.supernet(), run.data(), run.task)
        key = {"weights_sha256": run.weights_sha256, "split": "search"}
        costs = {"macs": macs(evaluator.supernet), "params": params(evaluator.supernet)}
        target = SearchTarget(
            "cpu-1t", lambda archs: costs["macs"].predict(archs) / 1e6, lambda archs: timed(run, archs)
        )
        TargetSearch(
            space=run.space,
            scores=Scores(
                run.task.metric,
                evaluator.race,
                len(evaluator.data.splits.search),
                EvaluationCache(run.path / "search" / "evaluations.csv", values=run.task.metric.columns, **key),
            ),
            targets=[target],
            costs=costs,
            budgets_ms=[100.0],
            out_dir=run.path / "search",
            num_evaluations=4,
        ).run()
        return run


def timed(run: Run, archs: list[ofa.space.Arch]) -> pd.DataFrame:
    return pd.DataFrame(1.0, index=range(len(archs)), columns=[f"latency_ms_p{p}" for p in (10, 50, 90)])


def add_task(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(TASKS, "worth", Worth)
    monkeypatch.setitem(LOSSES, "distance", Distance)
    monkeypatch.setitem(METRICS, OFF_BY.name, OFF_BY)


@pytest.fixture
def task(monkeypatch: pytest.MonkeyPatch) -> None:
    add_task(monkeypatch)


def test_a_task_trains_and_is_judged_by_its_metric(worth: Run, task: None) -> None:
    run = Run.open(worth.path)
    assert run.task == Worth() and run.info["recipe"]["task"] == {"name": "worth"}
    metrics = pd.read_csv(run.path / "metrics.csv")
    last = metrics.iloc[-1]
    assert metrics["loss_smallest"].iloc[-1] < metrics["loss_smallest"].iloc[0]
    evaluator = SubnetEvaluator(run.supernet(), run.data(), run.task)
    largest, smallest = evaluator.values([run.space.largest(), run.space.smallest()])
    assert (largest, smallest) == (last["largest_off_by_digits"], last["smallest_off_by_digits"])
    with torch.inference_mode():
        images, labels = next(iter(run.data().batches("search", batch_size=32, image_size=20)))
        outputs = evaluator.calibrated(run.space.largest())(images)
    assert largest == pytest.approx(float((outputs[:, 0] - labels).abs().mean()), rel=1e-4)


def test_a_search_goes_by_the_metric_of_the_task(worth: Run, task: None) -> None:
    folder = worth.path / "search" / "cpu-1t"
    selected, front = json.loads((folder / "selected.json").read_text()), pd.read_csv(folder / "front.csv")
    (pick,) = selected["picks"]
    assert selected["metric"] == "off_by_digits"
    assert pick["promised_off_by_digits"] < front["promised_off_by_digits"].median()
    last = front.loc[front["pick_from_ms"].idxmax()]  # the budget is larger than what any takes
    assert pick["measured_off_by_digits"] == last["measured_off_by_digits"]
    assert {"predicted_off_by_digits", "measured_off_by_digits", "low", "high"} <= set(front.columns)
    low, high = pick["off_by_interval_digits"]
    assert low < pick["measured_off_by_digits"] < high
    text = (worth.path / "search" / "evaluations.csv").read_text()
    assert text.startswith("weights_sha256,split,arch,off_by_digits,num_images,low,high\n")
    assert "top1" not in text + json.dumps(selected) + " ".join(front.columns)


def test_the_page_of_a_task_names_its_metric(worth: Run, task: None, tmp_path: Path) -> None:
    page = write_report(worth.path, tables_dir=tmp_path / "tables", out=tmp_path / "report.html").read_text()
    assert "ean distance" in page and "top-1" not in page.lower()


@pytest.mark.parametrize("from_pixels", [False, True])
def test_a_bundle_of_a_task(worth: Run, task: None, tmp_path: Path, from_pixels: bool) -> None:
    run, device = Run.open(worth.path), Device(name="cpu-1t", setting=Setting(runtime="onnxruntime"))
    evaluator = SubnetEvaluator(run.supernet(), run.data(), run.task)
    artefact = make_artefact(evaluator, run.space.smallest(), device, options=ExportOptions(from_pixels=from_pixels))
    assert artefact.sample_outputs.shape == (32, 1)
    score = judge_artefact(evaluator, artefact, device)
    assert score.value == pytest.approx(evaluator.values([run.space.smallest()], split="test")[0], rel=1e-3)
    quick = Latency(p10=1.0, p50=1.0, p90=1.0)
    bundle = tmp_path / "bundle"
    info = bundle_artefact(
        evaluator, artefact, bundle, device=device, score=score, latency_ms=quick, budget_ms=2.0, run_info=run.info
    )
    assert (info.task, info.score, info.classes, info.model.output) == (Worth(), score, (), "digits")
    plain = json.loads((bundle / "bundle.json").read_text())
    assert plain["task"] == {"name": "worth"} and plain["off_by_digits"]["value"] == score.value
    assert "× 1 |" in (bundle / "README.md").read_text()
    checks = {check.name: check for check in verify_bundle(bundle).checks}
    assert checks["parity"].ok and checks["accuracy"].ok
    with pytest.raises(DataError, match="a folder does not tell what is right for its files in worth"):
        verify_bundle(bundle, images=tmp_path)
    (bundle / "bundle.json").write_text(json.dumps(plain | {"sample_labels": ["seven"] * 32}))
    with pytest.raises(BundleError, match="sample_labels must be digits"):
        read_bundle(bundle)
    (bundle / "bundle.json").write_text(json.dumps(plain | {"sample_labels": []}))
    with pytest.raises(BundleError, match="sample_labels must hold at least one"):
        read_bundle(bundle)


def test_an_elastic_artefact_of_a_task(worth: Run, task: None, tmp_path: Path) -> None:
    run, rng = Run.open(worth.path), np.random.default_rng(0)
    evaluator = SubnetEvaluator(run.supernet(), run.data(), run.task)
    archs = {"small": run.space.smallest(), "large": run.space.largest()}
    options = ElasticOptions(runtimes=("onnxruntime", "torch"), rounds=2, block_seconds=0.002)
    info = write_elastic(evaluator, archs, tmp_path / "elastic", rng=rng, model=run.recipe.model, options=options)
    assert (info.classes, info.num_outputs, info.metric) == ((), 1, OFF_BY)
    images = torch.rand(2, 3, 20, 20)
    with torch.inference_mode():
        expected = evaluator.calibrated(archs["large"])(images).numpy()
    for name in options.runtimes:
        runtime = ElasticRuntime(tmp_path / "elastic", name)
        runtime.use("large")
        np.testing.assert_allclose(runtime.run(images.numpy()), expected, rtol=1e-3, atol=1e-3)


def test_losses_are_of_tasks(task: None) -> None:
    with pytest.raises(ConfigError, match=r"soft_labels is not for task worth; choose one of distance$"):
        load_recipe("demo", ["task=worth"])
    with pytest.raises(ConfigError, match="distance is not for task classification; choose one of labels"):
        load_recipe("demo", ["strategy.loss=distance"])


# -- what runs, in what form, and where ------------------------------------------------------------------------------


def test_a_format_a_runtime_and_a_target(monkeypatch: pytest.MonkeyPatch, worth: Run, tmp_path: Path) -> None:
    monkeypatch.setitem(FORMATS, "pt2", fixed_batch(export_pt2, is_slow=False))
    monkeypatch.setitem(RUNTIMES, "aten", Aten)
    files = ("model.pt2",)
    monkeypatch.setitem(
        TARGETS, "pt2", Target(runtimes=("aten",), precisions=("fp32",), files=files, format="pt2", free_batch=False)
    )
    (tmp_path / "toy.yaml").write_text("runtime: aten\n")
    device, rng = load_device(tmp_path / "toy.yaml"), np.random.default_rng(0)

    supernet = FakeSupernet()
    csv_path = tmp_path / "tables" / "toy" / "fake.csv"
    settings = {"num_fit": 3, "num_held_out": 2, "rounds": 2, "block_seconds": 0.001}
    ofa.hardware.profile(supernet, device, csv_path=csv_path, rng=rng, force=True, **settings)
    table = LatencyTable.load(csv_path)
    assert (table.predict_ms([supernet.space.largest(), supernet.space.smallest()]) > 0).all()
    assert table.fingerprint["runtime"]["name"] == "aten"
    models = {"conv": export_pt2(torch.nn.Conv2d(3, 4, 3).eval(), torch.zeros(1, 3, 8, 8))}
    assert ofa.hardware.measure(models, device, rng=rng, rounds=2, block_seconds=0.001)["num_runs"].min() > 0

    supernet = ofa.create_supernet("ofa_mobilenetv3_tiny", num_classes=10).eval()
    data = ofa.data.load_data(ofa.data.DataConfig(name="digits", limit=64), image_size=32)
    arch = supernet.space.smallest()
    result = export_bundle(
        SubnetEvaluator(supernet, data),
        [{"arch": dict(arch), "latency_ms": 1.0}],
        out=tmp_path / "bundle",
        device=device,
        budget_ms=2.0,
        measure=lambda paths, speed: [Latency(p10=1.0, p50=1.0, p90=1.0) for _ in paths],
        run_info={
            "model": {"name": "tiny"},
            "recipe": {"data": {"name": "digits"}},
            "data": {"name": "digits", "num_train": 64},
            "weights_sha256": "0" * 64,
        },
    )
    assert (result.info.model.target, result.info.model.runtime, result.info.model.files) == ("pt2", "aten", files)
    verified = verify_bundle(tmp_path / "bundle")
    assert verified.ok, verified.failed


def test_a_transport(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(HOSTS, "assumed", Assumed)
    words = {"runtime": "torch", "host": {"name": "assumed", "latency_ms": 2.5}}
    (tmp_path / "far.yaml").write_text(yaml.safe_dump(words))
    device = load_device(tmp_path / "far.yaml")
    assert device.to_json()["host"] == words["host"]
    models = {"conv": ofa.hardware.runtimes.ShapedModule(torch.nn.Conv2d(3, 4, 3), (1, 3, 8, 8))}
    table = ofa.hardware.measure(models, device, rng=np.random.default_rng(0))
    assert table.loc["conv", "latency_ms_p50"] == 2.5


# -- search ----------------------------------------------------------------------------------------------------------


def test_a_search_method_and_a_predictor(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(METHODS, "climbing", climbing)
    monkeypatch.setitem(PREDICTORS, "nearest", Nearest)
    world = World(make_space())
    score = {"metric": METRICS["top1_percent"], "race": world.race, "num_images": 1000}
    results = TargetSearch(
        space=world.space,
        scores=Scores(**score),
        targets=[SearchTarget("toy", world.predict_ms, world.measure_ms)],
        costs={},
        budgets_ms=[float(world.predict_ms(world.space.to_population(world.space.largest()))[0])],
        out_dir=tmp_path,
        num_evaluations=12,
        method="climbing",
        predictor="nearest",
    ).run()
    selected = results["toy"].selected
    assert selected["predictor"]["name"] == "nearest"
    assert selected["hypervolume_num_evaluations"] == {"front": 12, "random": 12}
    assert world.evaluated[0] == world.space.smallest()

    def evaluate(population: np.ndarray) -> np.ndarray:
        return np.column_stack([100 - world.exact_top1(population), world.predict_ms(population)])

    found = ofa.search.search(world.space, evaluate, num_evaluations=12, method="linas", predictor="nearest")
    assert len(found) == 12


# -- what CONTRIBUTING says ------------------------------------------------------------------------------------------


def test_contributing_names_registries_that_there_are() -> None:
    root = Path(__file__).parents[1]
    table = (root / "CONTRIBUTING.md").read_text(encoding="utf-8").partition("| what | file | line |")[2]
    found = re.findall(r"\| `([A-Z_]+)` \(`([\w/.]+)`\)", table.partition("\n\n")[0])
    places = {name: [*root.glob(f"ofa/**/{file}"), *root.glob(file)] for name, file in found}
    for name, paths in places.items():
        assert any(re.search(rf"^{name}\b.* = ", path.read_text(), flags=re.MULTILINE) for path in paths), name
    added = {
        "READERS",
        "TASKS",
        "METRICS",
        "LOSSES",
        "SAMPLERS",
        "SCHEDULES",
        "RUNTIMES",
        "FORMATS",
        "TARGETS",
        "HOSTS",
    }
    assert set(places) == added | {"METHODS", "PREDICTORS", "DIM_KINDS", "PRESETS"}
