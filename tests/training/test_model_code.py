"""Runs whose model is in a file of the user's, or torchvision's: what is executed when, and what is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ofa import workflow
from ofa.config import ConfigError
from ofa.deploy import ElasticOptions, ElasticRuntime, Latency, export_bundle, verify_bundle, write_elastic
from ofa.errors import UsageError
from ofa.files import FileFormatError, sha256_of_file
from ofa.hardware import Device
from ofa.setting import Setting
from ofa.supernet.model_sources import UnknownModelError
from ofa.training import Recipe, Run, RunError, SubnetEvaluator, load_recipe, train
from ofa.training.run import is_run_folder, open_named, outline_named
from ofa.trust import UntrustedCodeError, trusted_files

NETWORKS = Path(__file__).parents[1] / "supernet" / "networks.py"
NAME = "nets/mine.py:net"


def recipe(name: str = NAME, *overrides: str) -> Recipe:
    short = ("train.epochs=1", "train.batch_size=32", "train.device=cpu", "data.limit=96", "data.search_share=32")
    own = ("data.calibration_share=64", "model.resolution=[16, 20]", "model.expand=null", f"model.name={name}")
    return load_recipe("demo", (*short, *own, *overrides))


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with a file of networks, a run that was trained with it, and a list of trusted files."""
    folder = tmp_path_factory.mktemp("work")
    (folder / "nets").mkdir()
    shutil.copy(NETWORKS, folder / "nets" / "mine.py")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("XDG_CONFIG_HOME", str(folder / "config"))
        train(recipe(), "run")
    yield folder


@pytest.fixture
def work(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it all, as the current folder; its list is the user's."""
    shutil.copytree(finished, tmp_path / "work")
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "work" / "config"))
    return tmp_path / "work"


@pytest.fixture
def evaluator(work: Path) -> SubnetEvaluator:
    run = Run.open("run")
    return SubnetEvaluator(run.supernet(), run.data())


def test_a_run_says_what_code_it_was_trained_with(work: Path) -> None:
    sha256 = sha256_of_file(NETWORKS)
    info = json.loads(Path("run/supernet.json").read_text())
    assert (info["code_sha256"], info["model"]["name"]) == (sha256, NAME)
    run = Run.open("run")
    assert info["space_name"] == run.space_name == f"net-{sha256[:6]}-{run.space.fingerprint[:6]}"
    assert list(trusted_files()) == [sha256]
    assert run.supernet().space == run.outline().space == run.space


def test_runs_of_others_have_no_code(trained: Run) -> None:
    assert "code_sha256" not in trained.info
    assert trained.outline().space == trained.space


def test_code_that_nobody_vouched_for_is_not_executed(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(work / "of-another-user"))
    bomb = "\n\nopen('executed', 'w').close()\n"
    info = json.loads(Path("run/supernet.json").read_text())
    Path("nets/mine.py").write_text(NETWORKS.read_text() + bomb)
    Path("run/supernet.json").write_text(json.dumps({**info, "code_sha256": sha256_of_file("nets/mine.py")}))
    run = Run.open("run")
    assert run.space.num_archs > 1
    for act in (run.supernet, run.outline, lambda: open_named("run"), lambda: workflow.inspect("run")):
        with pytest.raises(UntrustedCodeError, match=r"run would execute nets/mine.py \(sha256 .*add --trust-code"):
            act()
    assert not Path("executed").exists() and not trusted_files()
    supernet, _ = open_named("run", trust_code=True)
    assert supernet.space == run.space and Path("executed").exists()
    assert workflow.inspect("run").num_subnets == run.space.num_archs  # it is on the list now


def test_code_that_has_changed_is_refused(work: Path) -> None:
    with Path("nets/mine.py").open("a") as file:
        file.write("# Only a remark.\n")
    with pytest.raises(
        UntrustedCodeError, match=r"nets/mine.py is no longer the code of run folder run: its sha256 is"
    ):
        Run.open("run").supernet()
    assert Run.open("run", trust_code=True).supernet().space == Run.open("run").space
    Path("nets/mine.py").unlink()
    with pytest.raises(UntrustedCodeError, match=r"run folder run needs nets/mine.py, which is not in .*; it was "):
        Run.open("run").supernet()
    with pytest.raises(UnknownModelError, match=r"there is no file nets/mine.py"):
        Run.open("run", trust_code=True).supernet()


class Killed(Exception):
    pass


def test_training_goes_on_with_the_same_code_only(work: Path) -> None:
    def kill(done: int, total: int, what: str) -> None:
        if done == 4 and what.startswith("epoch 2"):
            raise Killed

    with pytest.raises(Killed):
        train(recipe(NAME, "train.epochs=2"), "killed", progress=kill)
    code = Path("nets/mine.py").read_text()
    Path("nets/mine.py").write_text(code.replace("nn.ReLU()", "nn.SiLU()"))
    with pytest.raises(RunError, match=r"the code of model 'nets/mine.py:net' is not the one that .* was trained with"):
        train(recipe(NAME, "train.epochs=2"), "killed", resume=True)
    Path("nets/mine.py").write_text(code)
    assert train(recipe(NAME, "train.epochs=2"), "killed", resume=True).path == Path("killed")


def test_a_model_of_other_classes_is_refused(work: Path) -> None:
    Path("nets/mine.py").write_text(NETWORKS.read_text().replace("Net(10)", "Net(7)"))
    with pytest.raises(
        ConfigError,
        match=r"it gives outputs of shape \(7,\), but task 'classification' takes one tensor, of shape \(10,\)",
    ):
        train(recipe("nets/mine.py:of_ten_classes"), "other")


def test_a_run_of_torchvision(work: Path) -> None:
    files = trusted_files()
    run = train(recipe("torchvision:mobilenet_v3_small", "train.epochs=0.1"), "tv")
    assert run.info["space_name"] == f"torchvision-mobilenet_v3_small-{run.space.fingerprint[:6]}"
    assert "code_sha256" not in run.info and trusted_files() == files
    assert Run.open("tv").supernet().space == run.space


def test_names_stand_for_runs_or_models(work: Path) -> None:
    names = {"run": True, "nowhere/run": True, NAME: False, "torchvision:resnet18": False, "resnet18": False}
    assert {name: is_run_folder(name) for name in names} == names
    assert open_named(NAME)[1] == f"net-{sha256_of_file(NETWORKS)[:6]}"
    outline = outline_named(NAME, {"resolution": [16, 32]})
    assert outline.space["resolution"].values == (16, 32)
    assert next(outline.model.parameters()).is_meta
    assert next(outline_named("run").model.parameters()).is_meta
    with pytest.raises(UsageError, match="the space of run run is settled; choices of depth are for other models"):
        outline_named("run", {"depth": [1]})
    with pytest.raises(FileFormatError, match="no run folder at nowhere/run"):
        open_named("nowhere/run")


def test_a_bundle_executes_nothing_of_it(work: Path, evaluator: SubnetEvaluator) -> None:
    made = export_bundle(
        evaluator,
        [{"arch": dict(evaluator.supernet.space.smallest()), "latency_ms": 1.0}],
        out=Path("bundle"),
        device=Device(name="cpu-1t", setting=Setting(runtime="onnxruntime")),
        budget_ms=8,
        measure=lambda files, speed: [Latency(p10=1.0, p50=1.0, p90=1.0) for _ in files],
        run_info=Run.open("run").info,
    )
    provenance: dict[str, Any] = dict(made.info.provenance)
    assert provenance["model"] == provenance["recipe"]["model"]["name"] == "mine.py:net"
    Path("nets/mine.py").write_text("open('executed', 'w')\n")
    assert verify_bundle("bundle").ok
    assert not Path("executed").exists()


def test_an_elastic_artefact_executes_only_what_is_trusted(
    work: Path, evaluator: SubnetEvaluator, monkeypatch: pytest.MonkeyPatch
) -> None:
    archs = {"small": evaluator.supernet.space.smallest(), "large": evaluator.supernet.space.largest()}
    info = write_elastic(
        evaluator,
        archs,
        "elastic",
        rng=np.random.default_rng(0),
        model=Run.open("run").recipe.model,
        options=ElasticOptions(rounds=2, block_seconds=0.001),
    )
    assert info.provenance["code_sha256"] == sha256_of_file(NETWORKS)
    ElasticRuntime("elastic", runtime="torch")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(work / "of-another-user"))
    ElasticRuntime("elastic", runtime="onnxruntime")
    with pytest.raises(UntrustedCodeError, match=r"elastic artefact elastic would execute nets/mine.py"):
        ElasticRuntime("elastic", runtime="torch")


def test_a_model_that_gives_no_tensor_is_refused(work: Path) -> None:
    code = (
        NETWORKS.read_text()
        + "\n\nclass Telling(Net):\n    def forward(self, x):\n        return {'logits': super().forward(x)}\n"
    )
    Path("nets/mine.py").write_text(f"{code}\n\ndef telling():\n    return Telling(10)\n")
    with pytest.raises(
        ConfigError, match=r"it gives a dict, but task 'classification' takes one tensor, of shape \(10,\)"
    ):
        train(recipe("nets/mine.py:telling"), "telling")
