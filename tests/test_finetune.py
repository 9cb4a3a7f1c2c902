"""One subnet of a run: trained further, and exported as it is."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from safetensors.torch import load_file

from ofa import workflow
from ofa.config import ConfigError
from ofa.cost import macs
from ofa.deploy import read_bundle
from ofa.errors import UsageError
from ofa.search.pick import InfeasibleBudgetError
from ofa.space import SpaceError
from ofa.training import Run, train
from tests.training.conftest import tiny_recipe

QUICK = ("train.epochs=2", "train.learning_rate=0.05", "train.weight_decay=0", "train.ema_decay=0")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return train(tiny_recipe(), tmp_path_factory.mktemp("runs") / "run")


@pytest.fixture(scope="module")
def subnet(run: Run) -> dict[str, object]:
    return dict(run.space.sample(np.random.default_rng(2)))


@pytest.fixture(scope="module")
def tuned(run: Run, subnet: dict[str, object], tmp_path_factory: pytest.TempPathFactory) -> Run:
    out = tmp_path_factory.mktemp("runs") / "tuned"
    return workflow.finetune(run.path, QUICK, out=out, arch=json.dumps(subnet))


def test_its_space_is_one_subnet_of_the_same_data(tuned: Run, run: Run, subnet: dict[str, object]) -> None:
    assert tuned.space.num_archs == 1
    assert dict(tuned.space.largest()) == dict(tuned.space.smallest()) == subnet
    assert tuned.info["data"]["splits"] == run.info["data"]["splits"]
    assert tuned.info["data"]["mean"] == run.info["data"]["mean"]
    assert tuned.space_name != run.space_name
    assert tuned.recipe.strategy.teacher == str(run.path)
    ours, theirs = tuned.supernet(), run.supernet()
    assert macs(ours).predict(tuned.space.largest()) == macs(theirs).predict(run.space.arch(subnet))
    assert Run.open(tuned.path).data().image_size == run.data().image_size == 20


def test_only_its_own_weights_move(tuned: Run, run: Run, subnet: dict[str, object]) -> None:
    found, expected = (load_file(each.path / "supernet.safetensors") for each in (tuned, run))
    owned = run.supernet().extract(subnet).state_dict()
    assert not torch.equal(found["classifier.weight"], expected["classifier.weight"])
    unused = [name for name in expected if name not in owned and name.endswith("weight")]
    assert unused and all(torch.equal(found[name], expected[name]) for name in unused)


def test_what_is_exported_is_what_was_trained(tuned: Run, run: Run, subnet: dict[str, object], tmp_path: Path) -> None:
    """Without a search, a budget or a name: there is one subnet. Its file gives what torch gives now."""
    result = workflow.export(tuned.path, "cpu-1t", out=tmp_path / "bundle")
    assert result.info.arch == subnet and result.info.budget_ms is None
    recipe = result.info.provenance["recipe"]
    assert (recipe["model"]["weights"], recipe["strategy"]["teacher"]) == ("supernet.safetensors", "run")
    session = onnxruntime.InferenceSession(tmp_path / "bundle" / "model.onnx", providers=["CPUExecutionProvider"])
    outputs = []
    for which in (tuned, run):
        evaluator = workflow.open_evaluator(which)
        (images, _), *_ = evaluator.batches("test", which.space.arch(subnet))
        with torch.no_grad():
            outputs.append(images.call(evaluator.calibrated(subnet)).numpy()[:8])
    images = np.ascontiguousarray(images.tensors[0].numpy()[:8])
    found = np.concatenate([session.run(None, {result.info.model.input: images[i : i + 1]})[0] for i in range(8)])
    np.testing.assert_allclose(found, outputs[0], atol=1e-4)
    assert np.abs(found - outputs[1]).max() > 0.01
    assert workflow.verify(tmp_path / "bundle", device="cpu-1t").ok


def test_where_there_is_nothing_to_switch_between_it_is_said(tuned: Run, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="holds one subnet; nothing can be switched; use `ofa export`"):
        workflow.elastic(tuned.path, "cpu-1t", [100], tmp_path / "elastic")


@pytest.mark.parametrize("in_file", [True, False])
def test_any_subnet_of_a_run_is_exported_by_what_it_is(
    run: Run, subnet: dict[str, object], in_file: bool, tmp_path: Path
) -> None:
    arch = json.dumps(subnet)
    if in_file:
        (tmp_path / "arch.json").write_text(arch)
        arch = str(tmp_path / "arch.json")
    workflow.export(run.path, "cpu-1t", 1000, tmp_path / "bundle", arch=arch)
    info = read_bundle(tmp_path / "bundle")
    assert (info.arch, info.budget_ms) == (subnet, 1000)


def test_a_bundle_lies_in_its_run_unless_told(run: Run) -> None:
    result = workflow.export(run.path, "cpu-1t", arch="smallest")
    assert result.path == run.path / "bundles" / "cpu-1t"
    assert result.info.arch == dict(run.space.smallest())
    card = (result.path / "README.md").read_text()
    assert "# ofa_mobilenetv3_tiny on cpu-1t" in card and "None" not in card
    assert "--arch" in workflow.report(run.path)[0].read_text()


def test_a_budget_that_the_subnet_misses_is_an_error(run: Run, tmp_path: Path) -> None:
    with pytest.raises(InfeasibleBudgetError, match=r"no subnet keeps a budget of 1e-06 ms .* measured"):
        workflow.export(run.path, "cpu-1t", 1e-6, tmp_path / "bundle", arch="smallest")
    assert not (tmp_path / "bundle").exists()


@pytest.mark.parametrize(
    ("arch", "error", "message"),
    [
        (None, UsageError, "which subnet"),
        ("{", UsageError, r"--arch '\{' is no JSON .*, nor largest, smallest or a .json file"),
        ("[1]", UsageError, r"--arch must say dims and values, as in front.csv: .*, not \[1\]"),
        ('{"resolution": 17}', SpaceError, "'resolution' cannot be 17"),
    ],
)
def test_what_is_no_subnet_is_refused(
    arch: str | None, error: type[Exception], message: str, run: Run, tmp_path: Path
) -> None:
    with pytest.raises(error, match=message):
        workflow.export(run.path, "cpu-1t", out=tmp_path / "bundle", arch=arch)
    with pytest.raises(error, match=message):
        workflow.finetune(run.path, out=tmp_path / "tuned", arch=arch)
    with pytest.raises(UsageError, match=r"which subnet\? give --arch, or else --device and --budget-ms"):
        workflow.finetune(run.path, out=tmp_path / "tuned", arch=arch or "smallest", device="cpu-1t", budget_ms=3)


def test_labels_need_no_teacher_and_a_wrong_key_is_refused(run: Run, tmp_path: Path) -> None:
    words = ("train.epochs=1", "strategy.loss=labels")
    tuned = workflow.finetune(run.path, words, out=tmp_path / "tuned", arch="smallest")
    assert tuned.recipe.strategy.teacher is None
    assert workflow.finetune(run.path, words, out=tmp_path / "tuned", arch="smallest", resume=True) == tuned
    with pytest.raises(ConfigError, match="unknown key 'epochz'"):
        workflow.finetune(run.path, ["train.epochz=1"], out=tmp_path / "other", arch="smallest")


def test_the_space_of_one_subnet_where_dims_are_coupled() -> None:
    from ofa.training import build_supernet, load_recipe

    model = load_recipe("compofa").model
    space = build_supernet(model, num_classes=2).space
    for arch in (space.largest(), space.smallest(), space.sample(np.random.default_rng(0))):
        one = space.only(arch)
        assert one.num_archs == 1 and one.largest() == one.smallest() == arch
