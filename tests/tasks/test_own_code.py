"""A task and a loss in a file of the user's."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from ofa.config import ConfigError
from ofa.metrics import metric_of
from ofa.tasks import task_from_json
from ofa.training import Run, load_recipe, train
from ofa.trust import UntrustedCodeError, trusted_files
from ofa.user_code import ModelCodeError

PAGE = Path(__file__).parents[2] / "docs" / "your-task.md"
WORDS = ("task=worth.py:Worth", "strategy.loss=worth.py:Distance")
SHORT = (
    "train.epochs=1",
    "train.warmup_epochs=0",
    "train.device=cpu",
    "data.limit=64",
    "data.search_share=32",
    "model.resolution=[12, 16]",
)


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with the file of the docs; the user's list of trusted files is empty."""
    found = re.search(r"this is `worth\.py`:\n\n```python\n(.*?)^```$", PAGE.read_text(), re.DOTALL | re.MULTILINE)
    assert found is not None
    (tmp_path / "worth.py").write_text(found[1])
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    return tmp_path


def test_a_run(work: Path) -> None:
    recipe = load_recipe("demo", (*WORDS, *SHORT))
    assert recipe.task.name == "worth.py:Worth" and recipe.to_json()["strategy"]["loss"] == {
        "name": "worth.py:Distance"
    }
    run = train(recipe, work / "run")
    assert run.info["recipe"]["task"] == {"name": "worth.py:Worth"}
    assert metric_of(json.loads((work / "run" / "supernet.json").read_text())) == recipe.task.metric
    again = Run.open(work / "run")
    assert again.task == recipe.task and again.bounds()[0] > 0


@pytest.mark.slow
def test_the_whole_way(work: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """By commands, each a process of its own, which knows nothing of the code before it opens the run."""

    def ofa(*words: str) -> None:
        subprocess.run([sys.executable, "-m", "ofa", *words], check=True, cwd=work)

    train(load_recipe("demo", (*WORDS, *SHORT)), work / "run")
    ofa("profile", "--run", "run", "--device", "cpu-1t", "--out", "tables", "--force", "--num-fit", "3")
    options = ("--tables", "tables", "--budget-ms", "5", "--num-evaluations", "4")
    ofa("search", "--run", "run", "--device", "cpu-1t", *options)
    ofa("deploy", "--run", "run", "--device", "cpu-1t", "--budget-ms", "5")
    bundle = work / "run" / "deploy" / "cpu-1t-5ms"
    ofa("verify", str(bundle))
    ofa("report", "--run", "run", "--tables", "tables")
    assert "ean distance" in (work / "run" / "report.html").read_text()
    samples = [str(bundle / "samples" / f"00{number}.png") for number in range(3)]
    capfd.readouterr()
    subprocess.run([sys.executable, "-I", str(bundle / "predict.py"), *samples], check=True)
    said = [float(line.split("\t")[1]) for line in capfd.readouterr().out.splitlines()]
    np.testing.assert_allclose(said, np.load(bundle / "samples" / "outputs.npy")[:3, 0], rtol=1e-3)


def test_others_code_is_not_executed(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train(load_recipe("demo", (*WORDS, *SHORT)), work / "run")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(work / "of-another"))
    Path("worth.py").write_text("raise SystemExit('executed')\n" + Path("worth.py").read_text())
    with pytest.raises(UntrustedCodeError, match=r"task 'worth\.py:Worth' would execute worth\.py .*add --trust-code"):
        _ = Run.open("run").task
    with pytest.raises(UntrustedCodeError):
        task_from_json({"name": "worth.py:Worth"}, where="bundle.json")
    assert trusted_files() == {}
    Path("worth.py").write_text(Path("worth.py").read_text().partition("\n")[2])
    assert Run.open("run", trust_code=True).task.name == "worth.py:Worth"
    Path("worth.py").unlink()
    with pytest.raises(UntrustedCodeError, match=r"needs worth\.py, which is not in"):
        _ = Run.open("run").task


@pytest.mark.parametrize(
    ("word", "error", "message"),
    [
        ("task=worth.py:Wort", ConfigError, r"unknown task in worth\.py 'Wort'; did you mean 'Worth'"),
        ("task=worth.py:Distance", ConfigError, r"unknown task in worth\.py 'Distance'"),
        ("strategy.loss=worth.py:Worth", ConfigError, r"unknown loss in worth\.py 'Worth'"),
        ("task=nowhere.py:Worth", UntrustedCodeError, r"needs nowhere\.py, which is not in"),
        ("task=broken.py:Worth", ModelCodeError, r"broken\.py:2: the file raises ZeroDivisionError"),
        ("task=worth.py", ConfigError, r"unknown name 'worth\.py'"),
    ],
)
def test_what_is_refused(work: Path, word: str, error: type[Exception], message: str) -> None:
    Path("broken.py").write_text("\n1 / 0\n")
    with pytest.raises(error, match=message):
        load_recipe("demo", [word])


def test_the_name_is_kept_in_files(work: Path) -> None:
    recipe = load_recipe("demo", WORDS)
    plain = json.loads(json.dumps(recipe.to_json()))
    assert type(recipe).from_json(plain, where="supernet.json") == recipe
