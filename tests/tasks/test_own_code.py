"""A task and a loss in a file of the user's."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from ofa.config import ConfigError
from ofa.metrics import METRICS
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
    "model.resolution=[12]",
)


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The current folder, with the file of the docs; the user's list of trusted files is empty."""
    found = re.search(r"this is `worth\.py`:\n\n```python\n(.*?)^```$", PAGE.read_text(), re.DOTALL | re.MULTILINE)
    assert found is not None
    (tmp_path / "worth.py").write_text(found[1])
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    yield tmp_path
    METRICS.pop("off_by_digits", None)


def test_a_run(work: Path) -> None:
    recipe = load_recipe("demo", (*WORDS, *SHORT))
    assert recipe.task.name == "worth.py:Worth" and recipe.to_json()["strategy"]["loss"] == {
        "name": "worth.py:Distance"
    }
    run = train(recipe, work / "run")
    assert run.info["recipe"]["task"] == {"name": "worth.py:Worth"} and run.info["metric"] == "off_by_digits"
    again = Run.open(work / "run")
    assert again.task == recipe.task and again.bounds()[0] > 0


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
