"""What a training run shows in MLflow: a stand-in of its client, and the real one where it is installed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import pandas as pd
import pytest
import yaml

from ofa.errors import UsageError
from ofa.files import FileFormatError
from ofa.optional import NotInstalledError
from ofa.tasks import Classification
from ofa.training import DivergedError, Run, StoppedError, load_recipe, mlflow, train, trainer
from ofa.training.mlflow import settings_of

from .conftest import tiny_recipe

URI = "http://tracking:5000"
KEYS = ("step", "seconds", "learning_rate", "images_per_second", "train_macs", "loss_largest", "loss_smallest")


class Metric(NamedTuple):
    key: str
    value: float
    timestamp: int
    step: int


class Param(NamedTuple):
    key: str
    value: str


class Server:
    """What MLflow would have, and a client's calls."""

    def __init__(self) -> None:
        self.runs: dict[str, dict[str, Any]] = {}
        self.experiments: dict[str, str] = {}
        self.is_away = False
        self.num_calls = 0

    def module(self) -> SimpleNamespace:
        return SimpleNamespace(
            MlflowClient=lambda tracking_uri: Client(self, tracking_uri),
            entities=SimpleNamespace(Metric=Metric, Param=Param),
        )

    @property
    def only(self) -> dict[str, Any]:
        (run,) = self.runs.values()
        return run


class Client:
    def __init__(self, server: Server, tracking_uri: str) -> None:
        self.server, self.uri = server, tracking_uri

    def _at(self, run_id: str) -> dict[str, Any]:
        self.server.num_calls += 1
        if self.server.is_away:
            raise ConnectionError("Connection\n refused")
        return self.server.runs[run_id]

    def get_experiment_by_name(self, name: str) -> SimpleNamespace | None:
        if self.server.is_away:
            raise ConnectionError("Connection\n refused")
        number = self.server.experiments.get(name)
        return None if number is None else SimpleNamespace(experiment_id=number)

    def create_experiment(self, name: str) -> str:
        self.server.experiments[name] = str(len(self.server.experiments) + 1)
        return self.server.experiments[name]

    def create_run(self, experiment_id: str, run_name: str) -> SimpleNamespace:
        run_id = f"run{len(self.server.runs)}"
        self.server.runs[run_id] = {
            **{"uri": self.uri, "experiment": experiment_id, "name": run_name, "status": "RUNNING"},
            **{"params": {}, "metrics": {}, "files": {}},
        }
        return SimpleNamespace(info=SimpleNamespace(run_id=run_id))

    def log_batch(self, run_id: str, metrics: list[Metric] = [], params: list[Param] = []) -> None:  # noqa: B006
        run = self._at(run_id)
        for param in params:
            assert run["params"].setdefault(param.key, param.value) == param.value  # MLflow lets none be changed
        for metric in metrics:
            run["metrics"].setdefault(metric.key, []).append((metric.step, metric.value))

    def log_text(self, run_id: str, text: str, artifact_file: str) -> None:
        self._at(run_id)["files"][artifact_file] = text

    def log_artifact(self, run_id: str, local_path: str) -> None:
        self._at(run_id)["files"][Path(local_path).name] = Path(local_path).read_text()

    def update_run(self, run_id: str, status: str) -> None:
        self._at(run_id)["status"] = status

    def set_terminated(self, run_id: str, status: str) -> None:
        self._at(run_id)["status"] = status


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Server:
    """Behind a stand-in of the package."""
    for name in ("MLFLOW_EXPERIMENT_NAME", *mlflow.SETTINGS):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv(name, "")  # so that what training sets goes when the test does
        monkeypatch.delenv(name)
    server = Server()
    monkeypatch.setitem(sys.modules, "mlflow", server.module())  # type: ignore[arg-type]
    return server


class Killed(BaseException):
    """Stands for a signal that nothing can handle."""


def at_step(number: int, call: Callable[[], object], said: list[str] | None = None) -> Callable[[int, int, str], None]:
    """Progress that does something at a step, and keeps what is said."""

    def progress(done: int, total: int, what: str) -> None:
        if not total and said is not None:
            said.append(what)
        if done == number and what.startswith("epoch"):
            call()

    return progress


def kill() -> None:
    raise Killed


def curves(run: dict[str, Any]) -> pd.DataFrame:
    """What it has been given, one row for each epoch, as in ``metrics.csv``."""
    return pd.DataFrame({key: dict(points) for key, points in run["metrics"].items()}).rename_axis("epoch")


def assert_complete(run: dict[str, Any], folder: Path) -> None:
    """Every number of every epoch is there, once."""
    table = pd.read_csv(folder / "metrics.csv").set_index("epoch").select_dtypes("number")
    pd.testing.assert_frame_equal(curves(run)[list(table)], table, check_dtype=False, check_exact=False, rtol=1e-12)
    for points in run["metrics"].values():
        assert len({epoch for epoch, _ in points}) == len(points)
    assert set(KEYS) <= set(run["metrics"])


# -- what it is given --------------------------------------------------------------------------------------------------


def test_a_run_is_shown_with_its_recipe_and_small_files(server: Server, tmp_path: Path) -> None:
    recipe = tiny_recipe(f"train.mlflow={URI}")
    run = train(recipe, tmp_path / "photos")
    shown = server.only
    assert (shown["uri"], shown["name"], shown["status"]) == (URI, "photos", "FINISHED")
    assert server.experiments == {"ofa": shown["experiment"]}
    assert_complete(shown, run.path)
    assert shown["params"]["train.epochs"] == "2.0"
    assert shown["params"]["model.resolution"] == "[16, 20]"
    assert shown["params"]["strategy.sampler.name"] == "sandwich"
    assert "train.max_hours" not in shown["params"]  # which has no value
    assert set(shown["files"]) == {"recipe.yaml", "metrics.csv"}
    (tmp_path / "again.yaml").write_text(shown["files"]["recipe.yaml"])
    assert load_recipe(tmp_path / "again.yaml") == recipe
    kept = json.loads((run.path / "mlflow.json").read_text())
    assert kept == {"format": 1, "uri": URI, "run_id": "run0", "num_epochs": 2}
    assert list((run.path / "tensorboard").glob("events.out.tfevents.*"))
    assert os.environ["MLFLOW_DISABLE_TELEMETRY"] == "true"
    calls = server.num_calls
    train(recipe, run.path, resume=True)  # which is at its end
    assert server.num_calls == calls


def test_without_it_nothing_is_sent_nor_imported(
    trained: Run, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "mlflow", None)
    train(tiny_recipe(), tmp_path / "run")
    assert not (tmp_path / "run" / "mlflow.json").exists()
    assert not server.runs


def test_the_page_goes_too_if_it_is_there(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "cats")
    page = tmp_path / "run" / "report.html"
    page.parent.mkdir()
    page.write_text("<!doctype html>")
    train(tiny_recipe(f"train.mlflow={URI}"), page.parent)
    assert server.only["files"]["report.html"] == "<!doctype html>"
    assert list(server.experiments) == ["cats"]


def test_every_setting_has_a_name_that_mlflow_takes() -> None:
    recipe = load_recipe("bignas", ['model.depth={"stage/2 é": [1, 2]}', "train.optimizer=adamw"])
    settings = dict(settings_of(recipe))
    assert settings["model.depth.stage_2 _"] == "[1, 2]"
    assert settings["train.optimizer"] == "adamw"
    assert settings["model.pretrained"] == "false"


# -- runs that are interrupted -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("step", [2, pytest.param(5, marks=pytest.mark.slow)])
def test_a_killed_run_goes_on_in_the_same_one(step: int, server: Server, tmp_path: Path) -> None:
    recipe, out = tiny_recipe("train.epochs=3", f"train.mlflow={URI}"), tmp_path / "run"
    with pytest.raises(Killed):
        train(recipe, out, progress=at_step(step, kill))
    assert server.only["status"] == "RUNNING"
    if step > 3:
        run = train(recipe, out, resume=True)
        assert_complete(server.only, run.path)
    else:  # without a checkpoint it begins anew
        run = train(recipe, out)
        assert len(server.runs) == 2
        assert_complete(server.runs["run1"], run.path)


def test_what_was_sent_before_its_checkpoint_is_not_sent_again(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, out = tiny_recipe("train.epochs=3", f"train.mlflow={URI}"), tmp_path / "run"
    with monkeypatch.context() as patch, pytest.raises(Killed):
        really_save = trainer._Trainer._save

        def save(own: trainer._Trainer, step: int) -> None:
            if step == 6:
                raise Killed
            really_save(own, step)

        patch.setattr(trainer._Trainer, "_save", save)
        train(recipe, out)
    assert [epoch for epoch, _ in server.only["metrics"]["step"]] == [1, 2]
    train(recipe, out, resume=True)
    assert server.only["metrics"]["step"] == [(1, 3), (2, 6), (3, 9)]


def test_the_end_says_how_it_came(server: Server, tmp_path: Path) -> None:
    recipe = tiny_recipe(f"train.mlflow={URI}")
    with pytest.raises(StoppedError):
        train(recipe, tmp_path / "stopped", progress=at_step(2, lambda: os.kill(os.getpid(), signal.SIGTERM)))
    assert server.only["status"] == "KILLED"
    train(recipe, tmp_path / "stopped", resume=True)
    assert server.only["status"] == "FINISHED"
    assert_complete(server.only, tmp_path / "stopped")
    with pytest.raises(DivergedError):
        train(tiny_recipe(f"train.mlflow={URI}", "train.learning_rate=1e30"), tmp_path / "diverged")
    assert server.runs["run1"]["status"] == "FAILED"


def test_another_place_gets_all_epochs(server: Server, tmp_path: Path) -> None:
    out = tmp_path / "run"
    with pytest.raises(Killed):
        train(tiny_recipe("train.epochs=3"), out, progress=at_step(5, kill))
    run = train(tiny_recipe("train.epochs=3", f"train.mlflow={URI}"), out, resume=True)
    assert_complete(server.only, run.path)
    assert server.only["params"]["train.mlflow"] == URI


# -- servers that do not answer ----------------------------------------------------------------------------------------


def test_training_goes_on_while_the_server_is_away(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mlflow, "REST_SECONDS", 0.0)
    said: list[str] = []

    def change() -> None:
        server.is_away = not server.is_away

    def progress(done: int, total: int, what: str) -> None:
        for step in (2, 8):
            at_step(step, change, said if step == 2 else None)(done, total, what)

    run = train(tiny_recipe("train.epochs=4", f"train.mlflow={URI}"), tmp_path / "run", progress=progress)
    assert [each for each in said if "MLflow" in each] == [
        f"MLflow at {URI} does not take what it is given (Connection refused); training goes on, and sends what is "
        "missing when it can"
    ]
    assert_complete(server.only, run.path)
    assert server.only["status"] == "FINISHED"


def test_a_server_that_is_away_is_left_alone(server: Server, tmp_path: Path) -> None:
    def leave() -> None:
        server.is_away, server.num_calls = True, 0

    recipe, out = tiny_recipe("train.epochs=4", f"train.mlflow={URI}"), tmp_path / "run"
    run = train(recipe, out, progress=at_step(4, leave))
    assert server.num_calls == 2  # after the second epoch, and in the end
    assert Run.open(out) == run
    assert [epoch for epoch, _ in server.only["metrics"]["step"]] == [1]


def test_a_resumed_run_does_without_it(server: Server, tmp_path: Path) -> None:
    recipe, out, said = tiny_recipe("train.epochs=3", f"train.mlflow={URI}"), tmp_path / "run", list[str]()
    with pytest.raises(Killed):
        train(recipe, out, progress=at_step(5, kill))
    server.is_away = True
    run = train(recipe, out, resume=True, progress=at_step(0, kill, said))
    assert (run.path / "supernet.json").exists()
    assert len([each for each in said if "training goes on" in each]) == 1


def refused(recipe_words: list[str], out: Path, monkeypatch: pytest.MonkeyPatch, **resume: bool) -> None:
    def load(*args: object, **kwargs: object) -> None:
        raise AssertionError("data was read")

    monkeypatch.setattr(Classification, "load", load)
    train(tiny_recipe(*recipe_words), out, **resume)


def test_it_is_an_error_if_nothing_answers_when_a_run_begins(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.is_away = True
    with pytest.raises(UsageError, match=rf"train.mlflow={URI}: .* \(Connection refused\); start the server, correct"):
        refused([f"train.mlflow={URI}"], tmp_path / "run", monkeypatch)
    assert not (tmp_path / "run" / "tensorboard").exists()


def test_it_is_an_error_if_it_is_not_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mlflow", None)
    with pytest.raises(NotInstalledError, match=r"pip install 'ofa-toolkit\[mlflow\]'"):
        refused([f"train.mlflow={URI}"], tmp_path / "run", monkeypatch)


def test_a_damaged_note_is_told(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "run"
    with pytest.raises(Killed):
        train(tiny_recipe("train.epochs=3", f"train.mlflow={URI}"), out, progress=at_step(5, kill))
    for text in ("{", '{"format": 1, "uri": 3, "run_id": "x", "num_epochs": 1}'):
        (out / "mlflow.json").write_text(text)
        with pytest.raises(FileFormatError, match=r"mlflow.json.*; delete it, and another run of MLflow's begins"):
            refused(["train.epochs=3", f"train.mlflow={URI}"], out, monkeypatch, resume=True)


# -- several processes -------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_of_several_processes_the_first_one_sends(tmp_path: Path) -> None:
    (tmp_path / "mlflow.py").write_text(
        "import os\nfrom types import SimpleNamespace\nclass Any:\n"
        "    def __init__(self, *args, **kwargs): pass\n"
        "    def __getattr__(self, name):\n"
        f"        open(r'{tmp_path}/calls', 'a').write(os.environ['RANK'] + ' ' + name + '\\n')\n"
        "        found = SimpleNamespace(experiment_id='1', info=SimpleNamespace(run_id='r'))\n"
        "        return lambda *args, **kwargs: found\n"
        "MlflowClient, entities = Any, SimpleNamespace(Metric=Any, Param=Any)\n"
    )
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m", "ofa"]
    words = ["train", "demo", "data.limit=96", "train.epochs=1", "train.batch_size=32", "train.warmup_epochs=0"]
    words += ["data.search_share=32", "train.device=cpu", "model.resolution=[16]", f"train.mlflow={URI}"]
    path = os.pathsep.join((str(tmp_path), str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")))
    done = subprocess.run(
        [*torchrun, *words, "--out", str(tmp_path / "run")],
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    calls = (tmp_path / "calls").read_text().split("\n")[:-1]
    assert {call.split()[0] for call in calls} == {"0"}
    assert [call.split()[1] for call in calls if "log_batch" in call] == ["log_batch"] * 2


# -- the real one ------------------------------------------------------------------------------------------------------


READ = """
import json, sys, mlflow
client = mlflow.MlflowClient(tracking_uri=sys.argv[1])
(run,) = client.search_runs([client.get_experiment_by_name("ofa").experiment_id])
number = run.info.run_id
points = {key: [(m.step, m.value) for m in client.get_metric_history(number, key)] for key in run.data.metrics}
files = {each.path: client.download_artifacts(number, each.path) for each in client.list_artifacts(number)}
texts = {name: open(path).read() for name, path in files.items()}
print(json.dumps([run.info.run_name, run.info.status, run.data.params, points, texts]))
"""


def test_the_real_mlflow_has_it_in_a_folder(tmp_path: Path) -> None:
    pytest.importorskip("mlflow", reason="the extra mlflow is not installed")
    words = ["train", "demo", "data.limit=96", "train.batch_size=32", "train.warmup_epochs=0", "train.device=cpu"]
    words += ["data.search_share=32", "model.resolution=[16]", f"train.mlflow={tmp_path}/curves", "--resume"]
    kept = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")}
    environment = {**kept, "PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1", "NO_COLOR": "1"}
    stopped = "import sys, signal, os\nfrom ofa.training import trainer\nfrom ofa.cli import main\n"
    stopped += "really = trainer._Trainer._end_epoch\n"
    stopped += "def stop(self, done):\n    os.kill(os.getpid(), signal.SIGTERM)\n    return really(self, done)\n"
    stopped += "trainer._Trainer._end_epoch = stop\nmain()\n"
    for program, status in ((["-c", stopped], 143), (["-m", "ofa"], 0)):
        command = [sys.executable, *program, *words, "train.epochs=3", "--out", str(tmp_path / "photos")]
        done = subprocess.run(command, capture_output=True, text=True, env=environment)
        assert (done.returncode, done.stdout) == (status, ""), done.stderr
        assert not {"MLflow", "Warning", "WARNING"} & set(done.stderr.replace(":", " ").split()), done.stderr
    command = [sys.executable, "-c", READ, f"file://{tmp_path}/curves"]
    done = subprocess.run(
        command, stdout=subprocess.PIPE, text=True, env={**environment, "MLFLOW_ALLOW_FILE_STORE": "true"}, check=True
    )
    name, status, params, points, files = json.loads(done.stdout)
    assert (name, status) == ("photos", "FINISHED")
    assert params["train.epochs"] == "3.0" and params["model.resolution"] == "[16]"
    assert_complete({"metrics": points}, tmp_path / "photos")
    assert yaml.safe_load(files["recipe.yaml"])["train"]["epochs"] == 3
    assert files["metrics.csv"] == (tmp_path / "photos" / "metrics.csv").read_text()
