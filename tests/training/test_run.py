"""Run folders: what is in one, and what is said about one that is not whole."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from ofa.data import DataError
from ofa.files import FileFormatError, sha256_of_file
from ofa.space import SearchSpace
from ofa.training import Recipe, Run, RunError, train
from ofa.training.checkpoint import checkpoints_in, load_checkpoint, save_checkpoint

from .conftest import tiny_recipe


@pytest.fixture
def folder(trained: Run, tmp_path: Path) -> Path:
    """A copy of a run that may be spoilt."""
    return Path(shutil.copytree(trained.path, tmp_path / "run"))


def edit(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    info = json.loads((folder / "supernet.json").read_text())
    change(info)
    (folder / "supernet.json").write_text(json.dumps(info))


def test_contents(trained: Run) -> None:
    info = json.loads((trained.path / "supernet.json").read_text())
    assert info["format"] == 1
    assert set(info) >= {"model", "num_classes", "space", "data", "recipe", "versions", "weights_sha256"}
    assert info["weights_sha256"] == sha256_of_file(trained.path / "supernet.safetensors")
    assert info["num_classes"] == 10
    assert info["data"]["classes"] == [str(digit) for digit in range(10)]
    assert info["versions"]["torch"] == torch.__version__.split("+")[0]


def test_opened_run_is_the_one_that_was_saved(trained: Run) -> None:
    run = Run.open(str(trained.path))
    assert run.recipe == trained.recipe
    assert run.space == SearchSpace.from_json(run.info["space"])
    supernet = run.supernet()
    assert supernet.space == run.space
    assert not supernet.training
    weights = load_file(run.path / "supernet.safetensors")
    assert supernet.model.state_dict().keys() == weights.keys()
    assert all(torch.equal(tensor, weights[name]) for name, tensor in supernet.model.state_dict().items())


def test_data_has_the_splits_and_statistics_of_the_run(trained: Run) -> None:
    data = Run.open(trained.path).data()
    assert data.splits.to_json() == trained.info["data"]["splits"]
    assert list(data.mean) == trained.info["data"]["mean"]
    assert list(data.std) == trained.info["data"]["std"]
    assert data.image_size == 20
    assert len(data.splits.train) == 96


def test_no_run(tmp_path: Path) -> None:
    with pytest.raises(
        FileFormatError, match=r"no run folder at .*; train it with `ofa train`, or name another run folder"
    ):
        Run.open(tmp_path / "nowhere")
    (tmp_path / "file").touch()
    with pytest.raises(FileFormatError, match="train it with `ofa train`"):
        Run.open(tmp_path / "file")


def test_truncated_json(folder: Path) -> None:
    path = folder / "supernet.json"
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(FileFormatError, match="is truncated or not JSON"):
        Run.open(folder)


def test_missing_keys(folder: Path) -> None:
    edit(folder, lambda info: (info.pop("space"), info.pop("data")))
    with pytest.raises(FileFormatError, match="lacks data, space; train it"):
        Run.open(folder)


def test_weights_of_a_run_that_diverged(folder: Path) -> None:
    path = folder / "supernet.safetensors"
    tensors = load_file(path)
    name = next(name for name, tensor in tensors.items() if tensor.is_floating_point())
    tensors[name].flatten()[0] = float("inf")
    save_file(tensors, path)
    edit(folder, lambda info: info.update(weights_sha256=sha256_of_file(path)))
    with pytest.raises(RunError, match=f"holds values in '{name}' that are not finite: training diverged; train it"):
        Run.open(folder).supernet()


@pytest.mark.parametrize("size", [0, -1])
def test_truncated_weights(folder: Path, size: int) -> None:
    path = folder / "supernet.safetensors"
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(RunError, match=r"is truncated or not the file that supernet.json describes"):
        Run.open(folder).supernet()


def test_missing_weights(folder: Path) -> None:
    (folder / "supernet.safetensors").unlink()
    with pytest.raises(RunError, match=r"supernet.safetensors is missing; train it"):
        Run.open(folder).supernet()


def test_changed_weights(folder: Path) -> None:
    path = folder / "supernet.safetensors"
    weights = load_file(path)
    save_file({name: tensor + 1 for name, tensor in weights.items()}, path)
    with pytest.raises(RunError, match=r"not the file that supernet.json describes"):
        Run.open(folder).supernet()


def test_weights_of_another_model(folder: Path) -> None:
    path = folder / "supernet.safetensors"
    save_file({"x": torch.zeros(1)}, path)
    edit(folder, lambda info: info.update(weights_sha256=sha256_of_file(path)))
    with pytest.raises(RunError, match="does not fit model 'ofa_mobilenetv3_tiny'"):
        Run.open(folder).supernet()


def test_another_space(folder: Path) -> None:
    edit(folder, lambda info: info["space"][0].update(values=[16, 24]))
    with pytest.raises(
        RunError, match=r"describes space [0-9a-f]{12}, but model 'ofa_mobilenetv3_tiny' gives [0-9a-f]{12}"
    ):
        Run.open(folder).supernet()


def test_unknown_key_in_the_stored_model(folder: Path) -> None:
    edit(folder, lambda info: info["model"].update(widht=1))
    edit(folder, lambda info: info["recipe"]["model"].update(widht=1))
    with pytest.raises(ValueError, match="unknown key 'widht'"):
        Run.open(folder).supernet()


# -- whose data changed ----------------------------------------------------------------------------------------------


@pytest.fixture
def photos(tmp_path: Path) -> Recipe:
    """A recipe for pictures that may be changed."""
    rng = np.random.default_rng(0)
    for number in range(80):
        file = tmp_path / "photos" / ("cat", "dog")[number % 2] / f"{number:03}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(256, size=(20, 20, 3), dtype=np.uint8)).save(file)
    data = ("data.name=folder", f"data.root={tmp_path / 'photos'}", "data.limit=null", "data.calibration_share=null")
    return tiny_recipe(*data, "data.search_share=0.2", "train.epochs=1", "train.batch_size=16")


def test_a_run_refuses_pictures_that_it_was_not_trained_on(photos: Recipe, tmp_path: Path) -> None:
    run, root = train(photos, tmp_path / "run"), Path(str(photos.data.root))
    assert run.data().splits.to_json() == run.info["data"]["splits"]
    for name in ("cat/004.png", "dog/007.png"):
        file = (root / name).rename((root / name).with_name("new.png"))
        Image.new("RGB", (20, 20), "red").save(file)
    with pytest.raises(DataError, match=r"cat/new\.png is new \(and 1 more\); 2 of the run's 80 samples are missing"):
        Run.open(run.path).data()


def test_training_does_not_go_on_with_other_pictures(photos: Recipe, tmp_path: Path) -> None:
    out, root = train(photos, tmp_path / "run").path, Path(str(photos.data.root))
    (out / "supernet.json").unlink()
    shutil.copy(root / "cat/000.png", root / "cat/002.png")
    with pytest.raises(RunError, match=r"the data set is not the one that .* was trained on; restore it"):
        train(photos, out, resume=True)
    path = checkpoints_in(out / "checkpoints")[-1]
    groups, state = load_checkpoint(path)
    del state["splits"]["identity"]  # as earlier versions left it
    save_checkpoint(path, groups, state)
    assert train(photos, out, resume=True).path == out
