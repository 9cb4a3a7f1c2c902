"""From candidates to a bundle."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pandas as pd
import pytest
import torch

import ofa.formats
from ofa.deploy import (
    BundleError,
    ExportResult,
    ParityError,
    export_bundle,
    make_artefact,
    read_bundle,
    read_candidates,
)
from ofa.errors import UsageError
from ofa.files import FileFormatError
from ofa.search.pick import InfeasibleBudgetError
from ofa.training import SubnetEvaluator, judge

from .conftest import DEVICE, RUN_INFO, Stopwatch


def export(evaluator: SubnetEvaluator, candidates: list[dict[str, Any]], **changes: Any) -> ExportResult:
    arguments: dict[str, Any] = {"device": DEVICE, "budget_ms": 4.2, "measure": Stopwatch(), "run_info": RUN_INFO}
    return export_bundle(evaluator, candidates, **{**arguments, **changes})


def test_walks_to_the_first_that_holds(exported: ExportResult, candidates: list[dict[str, Any]]) -> None:
    assert exported.too_slow == ({"arch": candidates[0]["arch"], "latency_ms": 5.0},)
    assert exported.info.arch == candidates[2]["arch"]
    assert exported.info.latency_ms.p50 == 2.5
    assert json.dumps(exported.to_json())


def test_bundle_json_tells_what_the_result_tells(exported: ExportResult) -> None:
    info = read_bundle(exported.path)
    assert info.arch == exported.info.arch
    assert info.score == exported.info.score
    assert info.provenance["weights_sha256"] == RUN_INFO["weights_sha256"]
    assert "private" not in (exported.path / "bundle.json").read_text()
    assert info.classes == tuple("0123456789")


def test_accuracy_is_that_of_torch_on_the_test_split(exported: ExportResult, evaluator: SubnetEvaluator) -> None:
    arch = evaluator.supernet.space.arch(exported.info.arch)
    batches = list(evaluator.batches("test", arch))
    top1 = exported.info.score
    assert top1.value == pytest.approx(judge(evaluator.calibrated(arch), batches, evaluator.task.scorer(None)).value)
    assert top1.num_images == sum(len(labels) for _, labels in batches)
    assert top1.low < top1.value < top1.high


def test_exported_file_equals_the_calibrated_subnet(exported: ExportResult, evaluator: SubnetEvaluator) -> None:
    arch = evaluator.supernet.space.arch(exported.info.arch)
    (images,) = next(iter(evaluator.batches("search", arch)))[0].rows(slice(8)).tensors
    with torch.inference_mode():
        expected = evaluator.calibrated(arch)(images).numpy()
    assert np.ptp(expected, axis=0).max() > 1e-2  # different pictures give different logits
    session = onnxruntime.InferenceSession(exported.path / "model.onnx", providers=["CPUExecutionProvider"])
    found = np.concatenate([session.run(None, {"images": image[None].numpy()})[0] for image in images])
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)


def test_infeasible_budget_names_the_nearest(
    evaluator: SubnetEvaluator, candidates: list[dict[str, Any]], tmp_path: Path
) -> None:
    with pytest.raises(InfeasibleBudgetError, match=r"budget of 0.5 ms on device 'cpu-1t'.* at least 1.020 ms"):
        export(evaluator, candidates, out=tmp_path / "bundle", budget_ms=0.5)
    assert list(tmp_path.iterdir()) == []


def test_taken_folder_is_refused_before_any_work(
    evaluator: SubnetEvaluator, candidates: list[dict[str, Any]], tmp_path: Path
) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(BundleError, match=r"is not a bundle \(it holds 'thesis.tex'\)"):
        export(evaluator, candidates, out=tmp_path, overwrite=True)
    assert (tmp_path / "thesis.tex").read_text() == "years of work"


def write_search(folder: Path) -> None:
    rows = [("a", 90.0, 1.0, np.nan), ("b", 95.0, 3.0, 3.3), ("c", 95.0, 2.0, np.nan), ("b", 95.0, 3.0, 3.3)]
    pd.DataFrame(
        {
            "arch": [json.dumps({"kernel": name}) for name, *_ in rows],
            "measured_top1_percent": [row[1] for row in rows],
            "predicted_latency_ms": [row[2] for row in rows],
            "measured_latency_ms": [row[3] for row in rows],
        }
    ).to_csv(folder / "front.csv", index=False)
    pick = {"budget_ms": 1.5, "arch": {"kernel": "a"}, "measured_top1_percent": 90.0, "macs": 1000, "params": 100}
    latencies = {
        "predicted_latency_ms": 1.0,
        "measured_latency_ms": 1.2,
        "latency_ms": {"p10": 1, "p50": 1.2, "p90": 2},
    }
    picks = [{**pick, **latencies}]
    (folder / "selected.json").write_text(json.dumps({"format": 1, "picks": picks}))


def test_candidates_begin_with_the_pick_of_the_budget(tmp_path: Path) -> None:
    write_search(tmp_path)

    def order(budget_ms: float) -> list[tuple[str, float]]:
        return [(row["arch"]["kernel"], row["latency_ms"]) for row in read_candidates(tmp_path, budget_ms)]

    assert order(1.5) == [("a", 1.2), ("c", 2.0), ("b", 3.3)]
    assert order(9) == [("c", 2.0), ("b", 3.3), ("a", 1.0)]


def test_candidates_go_by_what_they_promise(tmp_path: Path) -> None:
    write_search(tmp_path)
    table = pd.read_csv(tmp_path / "front.csv")
    table.assign(promised_top1_percent=[91.0, 90.0, 90.5, 90.0]).to_csv(tmp_path / "front.csv", index=False)
    assert [row["arch"]["kernel"] for row in read_candidates(tmp_path, 9)] == ["a", "c", "b"]


def test_damaged_search_result_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileFormatError, match="ofa search"):
        read_candidates(tmp_path, 1.0)
    write_search(tmp_path)
    whole = (tmp_path / "front.csv").read_text()
    for text in ("", "arch\n1\n", 'arch,measured_latency_ms,predicted_latency_ms\n"{",1,1\n', whole + '"{",90.0,1,1\n'):
        (tmp_path / "front.csv").write_text(text)
        with pytest.raises(FileFormatError, match=r"front\.csv.*; run `ofa search` for this device"):
            read_candidates(tmp_path, 1.0)


@pytest.mark.parametrize("budget_ms", [float("inf"), float("nan"), 0.0])
def test_a_budget_that_is_none_is_refused(tmp_path: Path, budget_ms: float) -> None:
    write_search(tmp_path)
    with pytest.raises(UsageError, match="budgets are positive numbers of milliseconds"):
        read_candidates(tmp_path, budget_ms)


@pytest.mark.slow
def test_a_file_that_computes_something_else_is_kept_and_its_first_wrong_layer_named(
    evaluator: SubnetEvaluator, candidates: list[dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = ofa.formats.to_onnx

    def wrong(*args: Any, **kwargs: Any) -> onnx.ModelProto:
        """The weights of the first convolution are a fiftieth too large."""
        model = right(*args, **kwargs)
        first = next((node for node in model.graph.node if node.op_type == "Conv"), None)
        for tensor in model.graph.initializer:
            if first is not None and tensor.name == first.input[1]:
                weights = onnx.numpy_helper.to_array(tensor) * np.float32(1.02)
                tensor.CopyFrom(onnx.numpy_helper.from_array(weights, tensor.name))
        return model

    monkeypatch.setattr(ofa.formats, "to_onnx", wrong)
    with pytest.raises(
        ParityError, match=r"model.onnx departs by .*; conv_stem \(conv2d\) departs .* the files are in"
    ):
        export(evaluator, candidates, out=tmp_path / "bundle")
    failed = tmp_path / "bundle.failed"
    assert {file.name for file in failed.iterdir()} == {"model.onnx", "departure.json"}
    assert "conv_stem" in json.loads((failed / "departure.json").read_text())["message"]
    assert not (tmp_path / "bundle").exists()


@pytest.mark.gpu
def test_a_supernet_on_a_gpu_is_exported(evaluator: SubnetEvaluator, cuda: str) -> None:
    """What was calibrated there, compared on the CPU as everything is."""
    there = SubnetEvaluator(copy.deepcopy(evaluator.supernet).to(cuda), evaluator.data)
    artefact = make_artefact(there, there.supernet.space.smallest(), DEVICE)
    assert artefact.parity.max_abs_difference < 1e-3 and artefact.files
    assert next(there.supernet.parameters()).is_cuda  # it stays where it is
