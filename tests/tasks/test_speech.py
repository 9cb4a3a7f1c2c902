"""Recordings, the whole way: tones that rise, fall or stay."""

from __future__ import annotations

import csv
import dataclasses
import json
import subprocess
import sys
import wave
from pathlib import Path

import numpy as np
import pytest
import torch

from ofa.config import ConfigError
from ofa.data import DataConfig, DataError
from ofa.data.draws import Draws
from ofa.data.readers import read_source
from ofa.data.readers.sounds import read_sounds
from ofa.data.sound import fitted, log_mel, mel_filters, num_samples, read_wav, to_input
from ofa.data.sound_data import Look, hidden, shifted
from ofa.deploy import ElasticError, read_bundle, verify_bundle, write_elastic
from ofa.errors import UsageError
from ofa.tasks import Speech
from ofa.tasks.speech import FromSamples
from ofa.training import Run, SubnetEvaluator, load_recipe, train

from .helpers import check_schema, make_bundle

RATE = 8000
CLASSES = ("falls", "rises", "stays")
WORDS = (
    f"task.rate={RATE}",
    "task.seconds=0.4",
    "model.seconds=[0.3, 0.4]",
    "model.depth=[1, 2]",
    "model.width=['50%', '100%']",
    "train.epochs=10",
    "train.batch_size=16",
    "train.learning_rate=0.005",
    "train.eval_every_epochs=0",
    "train.device=cpu",
)


def write_wav(path: Path, samples: np.ndarray, *, rate: int = RATE, width: int = 2) -> Path:
    """One channel a column."""
    path.parent.mkdir(parents=True, exist_ok=True)
    scaled = np.rint(np.atleast_2d(samples.T).T * (2.0 ** (8 * width - 1) - 1)).astype(np.int64)
    data = scaled.astype("<i4").view(np.uint8).reshape(*scaled.shape, 4)[..., :width] if width > 1 else scaled + 128
    with wave.open(str(path), "wb") as file:
        file.setnchannels(scaled.shape[1])
        file.setsampwidth(width)
        file.setframerate(rate)
        file.writeframes(data.astype(np.uint8).tobytes())
    return path


def tone(kind: str, rng: np.random.Generator) -> np.ndarray:
    """Of 0.25 to 0.5 s, with noise."""
    num = int(rng.integers(RATE // 4, RATE // 2))
    slope = {"rises": 1.0, "falls": -1.0, "stays": 0.0}[kind]
    hertz = rng.uniform(600, 1500) * 2 ** (slope * np.linspace(-0.5, 0.5, num))
    return 0.4 * np.sin(2 * np.pi * np.cumsum(hertz) / RATE) + 0.02 * rng.normal(size=num)


def write_tones(folder: Path, num: int) -> Path:
    rng = np.random.default_rng(0)
    with (folder / "all.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["path", "label"])
        for index in range(num):
            kind = CLASSES[index % 3]
            write_wav(folder / "sounds" / f"{index:03}.wav", tone(kind, rng))
            table.writerow([f"sounds/{index:03}.wav", kind])
    return folder / "all.csv"


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Recordings and a run; not to be changed."""
    folder = tmp_path_factory.mktemp("tones")
    train(load_recipe("speech", (f"data.root={write_tones(folder, 240)}", *WORDS)), folder / "run")
    return folder


# -- sound -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [1, 2, 3, 4])
def test_files_of_all_kinds(width: int, tmp_path: Path) -> None:
    samples = np.random.default_rng(0).uniform(-1, 1, size=(50, 2))
    found, rate = read_wav(write_wav(tmp_path / "a.wav", samples, rate=11025, width=width))
    assert rate == 11025 and found.dtype == np.float32
    np.testing.assert_allclose(found, samples.mean(axis=1), atol=2.0 ** (1 - 8 * width) * 2 + 1e-6)


def test_files_that_are_none(tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_bytes(b"RIFF no sound")
    with pytest.raises(ValueError, match="no WAV file of whole numbers"):
        read_wav(tmp_path / "a.wav")


def look(num_bands: int = 20, **changes: object) -> dict[str, object]:
    plain = {"rate": RATE, "window": 200, "hop": 80, "mean": (0.0,) * num_bands, "std": (1.0,) * num_bands}
    return {**plain, **changes}


def test_a_tone_is_in_its_band() -> None:
    times = np.arange(num_samples(look(), 10)) / RATE
    filters = mel_filters(RATE, 200, 20)
    assert filters.shape == (20, 101) and (filters >= 0).all() and (filters.max(axis=1) > 0).all()
    for band in (3, 10, 17):
        hertz = filters[band].argmax() * RATE / 200
        found = log_mel(np.sin(2 * np.pi * hertz * times), look())
        assert found.shape == (20, 10) and (found.argmax(axis=0) == band).all()


def test_networks_make_the_same_bands_of_samples() -> None:
    rng = np.random.default_rng(0)
    spec = look(mean=tuple(rng.normal(size=20).tolist()), std=tuple(rng.uniform(1, 2, size=20).tolist()))
    samples = 0.3 * rng.normal(size=(3, num_samples(spec, 30))).astype(np.float32)
    found = FromSamples(torch.nn.Identity(), Look(**spec))(torch.from_numpy(samples))  # type: ignore[arg-type]
    np.testing.assert_allclose(found.numpy(), np.stack([log_mel(each, spec) for each in samples]), atol=1e-3)


def test_recordings_are_cut_or_filled_up() -> None:
    assert fitted(np.ones(3), 5).tolist() == [1, 1, 1, 0, 0] and fitted(np.ones(7), 5).tolist() == [1] * 5
    assert to_input(np.ones(3), RATE, {**look(), "input_size": (5,)}).tolist() == [1, 1, 1, 0, 0]
    assert to_input(np.ones(30), RATE, {**look(), "input_size": (20, 7)}).shape == (20, 7)
    with pytest.raises(ValueError, match="has 8000 samples a second, not 16000"):
        to_input(np.ones(3), RATE, {**look(rate=16000), "input_size": (5,)})


def test_what_is_hidden_and_shifted() -> None:
    bands = np.arange(1, 1 + 4 * 6 * 50, dtype=np.float32).reshape(4, 6, 50)
    draws = Draws(np.random.default_rng(0), 4)
    moved = shifted(bands, 3, draws)
    assert moved.shape == bands.shape and all(np.isin(moved[row], bands[row]).all() for row in range(4))
    found = hidden(bands, (2, 10), draws)
    zeros = found == 0
    assert zeros.any() and ((found == bands) | zeros).all()
    assert all(len(np.flatnonzero(row.all(axis=1))) <= 2 for row in zeros)
    assert shifted(bands, 0, draws) is bands and hidden(bands, (0, 0), draws) is bands


# -- data --------------------------------------------------------------------------------------------------------------


def test_folders_of_classes(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for split, num in (("train", 4), ("test", 2)):
        for kind in CLASSES:
            for index in range(num):
                write_wav(tmp_path / split / kind / f"{index}.wav", tone(kind, rng))
    source = read_sounds(DataConfig(name="sounds", root=str(tmp_path)))
    assert source.classes == CLASSES and source.num_test == 6 and len(source.samples) == 18
    assert source.samples.name(0) == "train/falls/0.wav" and source.samples[0][1] == RATE
    write_wav(tmp_path / "loose.wav", tone("falls", rng))
    with pytest.raises(DataError, match=r"loose.wav lies in no folder of a class"):
        read_sounds(DataConfig(name="sounds", root=str(tmp_path)))
    with pytest.raises(DataError, match="holds recordings, not images"):
        read_source(DataConfig(name="sounds", root=str(tmp_path)))


def test_a_recording_of_another_rate(work: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"000.wav has 8000 samples a second, not 16000; convert it, or set task.rate"):
        train(load_recipe("speech", (f"data.root={work / 'all.csv'}", *WORDS, "task.rate=16000")), tmp_path / "run")


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("data.horizontal_flip=true", "data.horizontal_flip is for pictures, but the data is recordings"),
        ("data.name=digits", "unknown data set of recordings 'digits'"),
        ("task.hidden_bands=40", "hidden_bands below num_bands"),
        ("task.rate=0", "task.rate must be above 0"),
        ("task.window_ms=0.1", "are too short"),
    ],
)
def test_what_does_not_go_together(word: str, message: str) -> None:
    from ofa.training.preflight import check_recipe

    with pytest.raises((ConfigError, DataError), match=message):
        check_recipe(load_recipe("speech", ("data.root=none", word)))


# -- the whole way -----------------------------------------------------------------------------------------------------


def test_it_learns(run: Run, evaluator: SubnetEvaluator) -> None:
    assert run.info["data"]["classes"] == list(CLASSES) and run.space["seconds"].values == (0.3, 0.4)
    largest, smallest = evaluator.values([run.space.largest(), run.space.smallest()], split="test")
    assert largest > 70 and smallest > 45
    again = run.data()
    assert (
        np.array_equal(again.bands, evaluator.data.bands) and abs(float(again.bands[again.splits.train].mean())) < 1e-3
    )


def test_a_bundle(bundle: Path, run: Run, evaluator: SubnetEvaluator, work: Path, tmp_path: Path) -> None:
    info = read_bundle(bundle)
    assert isinstance(info.task, Speech) and info.preprocessing.input_size == (40, 30) and info.model.input == "bands"
    check_schema(bundle)
    assert verify_bundle(bundle).ok
    assert any("of 240" in check.found for check in verify_bundle(bundle, images=work / "all.csv").checks)
    out, predict = tmp_path / "all.csv", [sys.executable, bundle / "predict.py", bundle / "samples"]
    subprocess.run([*predict, "--csv", out], check=True)
    outputs = np.load(bundle / "samples" / "outputs.npy")
    for row, logits in zip(csv.DictReader(out.read_text().splitlines()), outputs, strict=True):
        assert row["class"] == CLASSES[int(logits.argmax())]
        found = [float(row[f"probability of {name}"]) for name in CLASSES]
        np.testing.assert_allclose(found, np.exp(logits) / np.exp(logits).sum(), atol=1e-3)
    card = (bundle / "README.md").read_text()
    assert "A classifier of recordings with 3 classes" in card and "audio-classification" in card


def test_bands_in_the_file(run: Run, evaluator: SubnetEvaluator, bundle: Path, tmp_path: Path) -> None:
    own = dataclasses.replace(evaluator.task, in_graph=True)
    other = make_bundle(dataclasses.replace(evaluator, task=own), run, tmp_path / "samples")
    info = read_bundle(other)
    assert info.model.input == "samples" and info.preprocessing.input_size == (29 * 80 + 200,)
    assert verify_bundle(other).ok
    check_schema(other)
    one, another = (np.load(folder / "samples" / "outputs.npy") for folder in (bundle, other))
    np.testing.assert_allclose(one, another, atol=0.02)


def test_what_takes_no_recordings(run: Run, evaluator: SubnetEvaluator, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="which has no pixels"):
        make_bundle(evaluator, run, tmp_path / "pixels", from_pixels=True)
    with pytest.raises(ElasticError, match="an elastic artefact holds networks of pictures"):
        write_elastic(evaluator, [run.space.smallest()], tmp_path / "elastic", rng=np.random.default_rng(0))


def test_a_damaged_sample_is_noticed(bundle: Path, tmp_path: Path) -> None:
    import shutil

    copy = Path(shutil.copytree(bundle, tmp_path / "copy"))
    (copy / "samples" / "000.wav").write_bytes(b"no")
    assert not verify_bundle(copy).ok


@pytest.mark.parametrize(
    ("key", "value"), [("rate", 0), ("mean", [0.0] * 39), ("std", [0.0] * 40), ("input_size", [39, 30]), ("window", 2)]
)
def test_inputs_that_are_none(bundle: Path, key: str, value: object, tmp_path: Path) -> None:
    from ofa.deploy.bundle import BundleInfo

    info = json.loads((bundle / "bundle.json").read_text())
    del info["format"]
    with pytest.raises(ConfigError):
        BundleInfo.from_json({**info, "preprocessing": {**info["preprocessing"], key: value}}, where="here")
