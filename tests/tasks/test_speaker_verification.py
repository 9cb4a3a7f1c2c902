"""Voices, the whole way: each is a pitch and what sounds along with it."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import roc_curve

from ofa.config import ConfigError
from ofa.data import DataError
from ofa.deploy import read_bundle, verify_bundle
from ofa.metrics import EQUAL_ERROR_RATE
from ofa.tasks import SpeakerVerification
from ofa.tasks.speaker_verification import VoiceScorer, equal_error, pairs
from ofa.tasks.task import Exhibit
from ofa.training import Run, SubnetEvaluator, load_recipe, train

from .helpers import check_schema
from .test_speech import RATE, write_wav

SPEAKERS = ("zoe", "ann", "bob", "cy", "dan", "eve", "flo", "gus")  # the first, and the last, training never hears
UNSEEN = ("zoe", "gus")
WORDS = (
    "data.label_column=speaker",
    f"task.rate={RATE}",
    "task.seconds=0.4",
    "model.width=['50%', '100%']",
    "train.epochs=6",
    "train.batch_size=16",
    "train.learning_rate=0.005",
    "train.eval_every_epochs=0",
    "train.device=cpu",
)


def voice(speaker: int, rng: np.random.Generator) -> np.ndarray:
    """Harmonics as strong as the speaker's are, at any pitch."""
    strengths = np.random.default_rng(100 + speaker).uniform(0, 1, size=8) ** 3
    times = np.arange(int(0.4 * RATE)) / RATE
    hertz = rng.uniform(180, 220)
    waves = strengths @ np.sin(2 * np.pi * hertz * np.outer(np.arange(1, 9), times))
    return 0.3 * waves / np.abs(waves).max() + 0.01 * rng.normal(size=len(times))


def write_voices(folder: Path, num: int) -> Path:
    rng = np.random.default_rng(0)
    with (folder / "all.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["path", "speaker", "split"])
        for index in range(num):
            speaker = index % len(SPEAKERS)
            write_wav(folder / "voices" / f"{index:03}.wav", voice(speaker, rng))
            split = "test" if SPEAKERS[speaker] in UNSEEN else "train"
            table.writerow([f"voices/{index:03}.wav", SPEAKERS[speaker], split])
    return folder / "all.csv"


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Recordings and a run; not to be changed."""
    folder = tmp_path_factory.mktemp("voices")
    train(load_recipe("speaker_verification", (f"data.root={write_voices(folder, 240)}", *WORDS)), folder / "run")
    return folder


def test_speakers_of_the_test_split_are_none_that_training_heard(run: Run) -> None:
    data = run.data()
    assert run.num_classes == 6 and data.classes == ("ann", "bob", "cy", "dan", "eve", "flo", "gus", "zoe")
    for split in ("train", "calibration", "search"):
        assert set(data.source.labels[data.splits[split]].tolist()) == set(range(6))
    assert set(data.source.labels[data.splits.test].tolist()) == {6, 7}


def test_it_tells_voices_apart(run: Run, evaluator: SubnetEvaluator) -> None:
    assert run.task.metric == EQUAL_ERROR_RATE
    errors = evaluator.values([run.space.largest(), run.space.smallest()], split="test")
    assert max(errors) < 25


def test_equal_error_rate_is_where_the_curve_crosses() -> None:
    rng = np.random.default_rng(0)
    is_same = rng.uniform(size=4000) < 0.3
    likeness = rng.normal(size=4000) + 1.5 * is_same
    found, threshold = equal_error(likeness, is_same, np.ones((1, 4000)))
    wrong, right, _ = roc_curve(is_same, likeness, drop_intermediate=False)
    nearest = np.abs(wrong - (1 - right)).argmin()
    assert found[0] == pytest.approx(50 * (wrong[nearest] + 1 - right[nearest]))
    assert (likeness[is_same] < threshold[0]).mean() == pytest.approx(found[0] / 100, abs=0.01)
    twice, _ = equal_error(np.tile(likeness, 2), np.tile(is_same, 2), np.ones((1, 8000)))
    weighed, _ = equal_error(likeness, is_same, np.full((1, 4000), 2.0))
    assert twice[0] == pytest.approx(found[0]) == pytest.approx(weighed[0])


def test_a_judge_of_voices() -> None:
    """Apart, together, and nothing known."""
    labels = np.repeat([0, 1], 20)
    rng = np.random.default_rng(0)
    for centres, low, high in ((np.eye(8)[:2], 0, 0), (np.ones((2, 8)), 35, 65)):
        scorer = VoiceScorer()
        for half in np.array_split(rng.permutation(40), 2):
            scorer.update(centres[labels[half]] + 0.1 * rng.normal(size=(20, 8)), labels[half])
        score = scorer.score()
        assert low <= score.value <= high and score.low <= score.value <= score.high and score.num_images == 40
    likeness, is_same = pairs(np.array([[1.0, 0], [2, 0], [0, 3]]), np.array([0, 0, 1]))
    np.testing.assert_allclose(likeness, [1, 0, 0])
    assert is_same.tolist() == [True, False, False]
    alone = VoiceScorer()
    alone.update(np.ones((3, 2)), np.zeros(3))
    with pytest.raises(DataError, match="are all of one"):
        alone.value()


def test_a_bundle(bundle: Path, run: Run, evaluator: SubnetEvaluator, work: Path, tmp_path: Path) -> None:
    info = read_bundle(bundle)
    assert isinstance(info.task, SpeakerVerification) and info.model.output == "features"
    assert info.score.value == pytest.approx(float(evaluator.values([run.space.smallest()], split="test")[0]), abs=1)
    assert np.load(bundle / "samples" / "outputs.npy").shape[1] == 128
    check_schema(bundle)
    assert verify_bundle(bundle).ok
    files = [work / "voices" / f"{index:03}.wav" for index in (0, 8, 7)]  # zoe, zoe, gus
    command = [sys.executable, bundle / "predict.py", *files]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    likeness = [float(line.split("\t")[2]) for line in said]
    assert len(said) == 3 and likeness[0] > max(likeness[1:])
    subprocess.run([*command, "--csv", tmp_path / "pairs.csv"], check=True)
    assert (tmp_path / "pairs.csv").read_text().startswith("file,other file,likeness,verdict")
    alone = subprocess.run(command[:3], capture_output=True, text=True)
    assert alone.returncode == 1 and "nothing to compare" in alone.stderr


def test_the_page_shows_how_alike_voices_are(bundle: Path, run: Run) -> None:
    info = json.loads((bundle / "bundle.json").read_text())
    section = run.task.report_section([Exhibit(name="cpu-1t", folder=bundle, info=info)])
    assert section is not None and section.rows[0][0] == "cpu-1t"


def test_what_does_not_go_together() -> None:
    with pytest.raises(ConfigError, match="choices: equal_error_rate_percent"):
        load_recipe("speaker_verification", ("task.judge_by=balanced_accuracy_percent",))
    with pytest.raises(ConfigError, match="takes two: logits"):
        SpeakerVerification().check_outputs("Tensor", [(1, 6)], 6)
