"""Files of earlier versions are read, and mean what they meant: see ``tests/fixtures/*/README.md``."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from ofa.cost import LatencyTable
from ofa.deploy import ElasticRuntime, Latency, export_bundle, read_bundle, read_candidates, verify_bundle
from ofa.deploy.elastic_format import read_elastic
from ofa.hardware import Device
from ofa.report import write_report
from ofa.search.answer import answer
from ofa.search.evaluation_cache import EvaluationCache
from ofa.setting import Setting
from ofa.space import Arch
from ofa.training import Recipe, Run, SubnetEvaluator, load_recipe
from ofa.workflow import open_table

VERSIONS = [path for path in sorted((Path(__file__).parent / "fixtures").iterdir()) if (path / "README.md").is_file()]
OVERRIDES = [  # as the README says
    "model.name=test_efficientnet",
    'model.expand=["25%","50%","100%"]',
    "model.resolution=[16,20]",
    "data.limit=400",
    "data.calibration_share=0.05",  # which was the default
    "train.epochs=8",
    "train.device=cpu",
]
BUDGET_MS = 0.08
DEVICE = Device(name="cpu-1t", setting=Setting(runtime="onnxruntime"))


@pytest.fixture(scope="module", params=VERSIONS, ids=lambda path: path.name)
def left(request: pytest.FixtureRequest) -> Path:
    """What a version left; not to be changed."""
    path: Path = request.param
    return path


@pytest.fixture(scope="module")
def run(left: Path) -> Run:
    return Run.open(left / "run")


@pytest.fixture(scope="module")
def evaluator(run: Run) -> SubnetEvaluator:
    return SubnetEvaluator(run.supernet(), run.data(), run.task)


def front_of(left: Path) -> pd.DataFrame:
    return pd.read_csv(left / "run" / "search" / "cpu-1t" / "front.csv")


def test_the_recipe_is_what_it_would_be_today(run: Run) -> None:
    fresh = load_recipe("demo", OVERRIDES)
    assert Recipe.from_json(run.info["recipe"], where="fixture") == run.recipe == fresh
    plain = json.loads(json.dumps(fresh.to_json()))
    for section, stored in run.info["recipe"].items():  # which knows less than today's
        assert stored == (plain[section] if isinstance(stored, str) else {key: plain[section][key] for key in stored})
    assert run.info["model"] == run.info["recipe"]["model"]


def test_the_data_is_split_as_it_was(run: Run) -> None:
    data = run.data()
    assert data.splits.to_json() == run.info["data"]["splits"]
    facts = run.task.facts(data)
    assert facts == {**facts, **{name: value for name, value in run.info["data"].items() if name in facts}}
    assert (facts["fit"], facts["crop_pct"], facts["interpolation"]) == ("crop", 1.0, "bicubic")


def test_the_weights_compute(run: Run) -> None:
    supernet = run.supernet()
    assert supernet.space == run.space and run.space_name == run.info["space_name"]
    with torch.inference_mode():
        logits = supernet(torch.zeros(2, 3, 20, 20), run.space.largest())
    assert logits.shape == (2, 10) and logits.isfinite().all()


def test_subnets_are_worth_what_they_were(run: Run, evaluator: SubnetEvaluator, left: Path) -> None:
    bounds = pd.read_csv(left / "run" / "metrics.csv").iloc[-1][["largest_top1_percent", "smallest_top1_percent"]]
    found = evaluator.values([run.space.largest(), run.space.smallest()])
    one_image = 100 / len(run.data().splits.search)  # sums come out in another order on other machines
    np.testing.assert_allclose(found, bounds.to_numpy(dtype=np.float64), atol=2 * one_image)


def test_the_table_predicts_what_it_did(run: Run, left: Path) -> None:
    table = open_table(run, DEVICE, left / "latency_tables", any_machine=True)
    assert isinstance(table, LatencyTable) and table.space == run.space
    front = front_of(left)
    archs = [Arch(json.loads(text)) for text in front["arch"]]
    np.testing.assert_allclose(table.predict_ms(archs), front["predicted_latency_ms"])
    subnets = pd.read_csv(left / "latency_tables" / DEVICE.name / f"{run.space_name}.subnets.csv")
    assert set(subnets["role"]) == {"fit", "held out"}


def test_evaluations_are_not_made_again(run: Run, left: Path) -> None:
    key = {"weights_sha256": run.weights_sha256, "split": "search"}
    cache = EvaluationCache(left / "run" / "search" / "evaluations.csv", values=run.task.metric.columns, **key)
    front = front_of(left).dropna(subset=["measured_top1_percent"])
    known = [Arch(json.loads(text)) for text in front["arch"]]
    complete = [number for number, arch in enumerate(known) if arch in cache]
    assert len(complete) > 10
    np.testing.assert_allclose(
        cache.get([known[number] for number in complete])[:, 0], front["measured_top1_percent"].iloc[complete]
    )


def test_a_search_answers_from_its_files_if_they_promise_something(left: Path, tmp_path: Path) -> None:
    """Those that do not yet are searched again, from what was evaluated."""
    folder = Path(shutil.copytree(left / "run" / "search" / "cpu-1t", tmp_path / "cpu-1t"))
    selected = json.loads((folder / "selected.json").read_text())
    again = answer(folder, [BUDGET_MS], facts=selected["facts"], costs=["macs", "params"])
    if "promised_top1_percent" not in selected["picks"][0]:
        assert again is None
    else:
        assert again is not None
        assert again["picks"] == [pick for pick in selected["picks"] if pick["budget_ms"] == BUDGET_MS]


def test_what_was_searched_is_exported(run: Run, evaluator: SubnetEvaluator, left: Path, tmp_path: Path) -> None:
    candidates = read_candidates(left / "run" / "search" / "cpu-1t", BUDGET_MS)
    result = export_bundle(
        evaluator,
        candidates,
        out=tmp_path / "bundle",
        device=DEVICE,
        budget_ms=BUDGET_MS,
        measure=lambda files, speed: [Latency(p10=0.01, p50=0.02, p90=0.03) for _ in files],
        run_info=run.info,
    )
    before = read_bundle(left / "bundle")
    assert result.info.to_json().keys() == before.to_json().keys()
    assert result.info.provenance["recipe"] == before.provenance["recipe"]


def test_the_bundle_holds_what_it_promised(left: Path) -> None:
    result = verify_bundle(left / "bundle")
    assert result.ok, result.failed
    assert {"parity", "accuracy", "SHA256SUMS"} <= {check.name for check in result.checks}
    written = json.loads((left / "bundle" / "bundle.json").read_text())
    found = json.loads(json.dumps(result.info.to_json()))
    assert found[result.info.task.metric.name].pop("details") == {}
    assert found.pop("speed") == {"state": "slow", "percentile": 50, "states": None}
    later = {"p99": None, "cold_p50": None, "times_as_long": 1.0}
    assert {name: found["latency_ms"].pop(name) for name in later} == later
    found["preprocessing"] = {name: found["preprocessing"][name] for name in written["preprocessing"]}
    assert found["preprocessing"].pop("resize") == [[size, size] for size in written["preprocessing"].pop("resize")]
    assert found == {name: value for name, value in written.items() if name != "format"}


@pytest.mark.parametrize("runtime", ["onnxruntime", "torch"])
def test_the_elastic_artefact_runs(left: Path, runtime: str) -> None:
    info = read_elastic(left / "elastic")
    assert [subnet.name for subnet in info.subnets] == ["0.045ms", "0.08ms"]
    artefact = ElasticRuntime(left / "elastic", runtime=runtime)  # type: ignore[arg-type]
    outputs = {}
    for subnet in info.subnets:
        artefact.use(subnet.name)
        outputs[subnet.name] = artefact.run(np.zeros((1, *artefact.current.input_shape), dtype=np.float32))
        assert outputs[subnet.name].shape == (1, len(info.classes)) and np.isfinite(outputs[subnet.name]).all()
    artefact.set_budget_ms(10.0)
    assert artefact.current.name in outputs


def test_the_page_of_the_run_is_written(left: Path, tmp_path: Path) -> None:
    page = write_report(left / "run", tables_dir=left / "latency_tables", out=tmp_path / "report.html").read_text()
    assert "The sandwich rule: the largest subnet, 2 random subnets and the smallest." in page
    assert "cpu-1t" in page and "test_efficientnet" in page
