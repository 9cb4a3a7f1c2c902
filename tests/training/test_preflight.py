"""What is wrong with a recipe is said before data is read."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from ofa.config import ConfigError
from ofa.errors import OfaError
from ofa.space import SpaceError
from ofa.supernet.model_sources import UnknownModelError
from ofa.supernet.presets import create_model
from ofa.supernet.weights import WeightsError
from ofa.tasks import Classification
from ofa.training import Run, load_recipe, train
from ofa.training.preflight import check_recipe

from .conftest import tiny_recipe


@pytest.fixture
def no_data(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(*args: object, **kwargs: object) -> None:
        raise AssertionError("data was read")

    monkeypatch.setattr(Classification, "load", load)


OF_OTHERS = "mobilenetv3_small_050"


@pytest.mark.parametrize(
    ("words", "error", "message"),
    [
        (
            ["train.optimizer=rmspropp"],
            ConfigError,
            r"unknown train.optimizer 'rmspropp'; did you mean 'rmsprop'\? the nearest of .*: rmsprop, .*list_optim",
        ),
        (["train.optimizer=adahessian"], ConfigError, "'adahessian' needs second derivatives, .*; name another"),
        (["train.optimizer=fusedsgd"], ConfigError, "'fusedsgd' cannot be made .*; install what it needs, or name"),
        (["model.name=mobilenetv33"], UnknownModelError, "unknown preset or timm model 'mobilenetv33'"),
        (["model.weights=nowhere.safetensors"], WeightsError, "weights nowhere.safetensors cannot be read"),
        (["model.weights=OTHERS"], WeightsError, "do not fit MobileNetV3: .* in the model and .* in the file"),
        (["model.weights=DIVERGED"], WeightsError, "hold values in 'classifier.weight' that are not finite"),
        (["model.weights=mine.pth", "model.name=OTHERS.py"], UnknownModelError, "which function of the file"),
        (["model.subnet={resolution: 20}"], SpaceError, "."),
        (
            ["strategy.sampler={name: single, arch: {resolution: 21}}", "strategy.loss=labels"],
            SpaceError,
            "'resolution' cannot be 21",
        ),
        (["strategy.sampler=uniform"], ConfigError, "loss soft_labels needs a teacher"),
        (["strategy.teacher=mobilenetv33"], UnknownModelError, "unknown preset or timm model 'mobilenetv33'"),
        (["strategy.teacher=ofa_mobilenetv3_tiny"], ConfigError, "has no weights of its own; give teacher_weights"),
        (
            ["strategy.teacher=ofa_mobilenetv3_tiny", "strategy.teacher_weights=OTHERS"],
            WeightsError,
            "do not fit MobileNetV3",
        ),
        (["strategy.teacher=no/run"], OfaError, "no run folder at no/run"),
        (
            ["data.mixup=0.5", "train.batch_size=31"],
            ConfigError,
            "data.mixup and data.cutmix need pairs, .*multiple of 2",
        ),
        (
            ["strategy.sampler={name: multi_arch, num_random: 33}", "strategy.loss=labels"],
            ConfigError,
            "33 subnets share a mini-batch of 32 images",
        ),
        (
            ["train.accumulate=33"],
            ConfigError,
            "train.accumulate=33 leaves no image in some parts of the 32 .*lower it",
        ),
    ],
)
def test_it_is_said_before_data_is_read(
    words: list[str],
    error: type[Exception],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    no_data: None,
) -> None:
    monkeypatch.chdir(tmp_path)
    others = create_model(OF_OTHERS, num_classes=10).state_dict()
    save_file(others, "others.safetensors")
    diverged = create_model("ofa_mobilenetv3_tiny", num_classes=1).state_dict()
    diverged["classifier.weight"][0, 0] = torch.nan
    save_file(diverged, "diverged.safetensors")
    names = {"=OTHERS.py": "=others.py", "=OTHERS": "=others.safetensors", "=DIVERGED": "=diverged.safetensors"}
    for name, file in names.items():
        words = [word.replace(name, file) for word in words]
    with pytest.raises(error, match=message):
        train(tiny_recipe(*words), "run")
    assert not Path("run").exists()


def test_weights_that_cannot_be_fetched_are_known_before_data_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_data: None
) -> None:
    def fetch(name: str) -> None:
        raise WeightsError(f"torchvision's weights of {name} cannot be fetched")

    monkeypatch.setattr("ofa.supernet.model_sources._torchvision_weights", fetch)
    words = ["model.name=torchvision:mobilenet_v3_small", "model.pretrained=true", "train.device=cpu"]
    with pytest.raises(WeightsError, match="mobilenet_v3_small cannot be fetched"):
        train(load_recipe("bignas", words), tmp_path / "run")


@pytest.mark.parametrize("damaged", [False, True])
def test_a_checkpoint_is_looked_at_before_data_is_read(
    damaged: bool, trained: Run, tmp_path: Path, no_data: None
) -> None:
    out = Path(shutil.copytree(trained.path, tmp_path / "run"))
    (out / "supernet.json").unlink()
    for path in (out / "checkpoints").iterdir():
        path.write_bytes(path.read_bytes()[: 1000 if damaged else None])
    with pytest.raises(OfaError, match="damaged" if damaged else r"different: train\.epochs"):
        train(tiny_recipe("train.epochs=3"), out, resume=True)


def test_weights_of_other_classes_are_no_mistake(tmp_path: Path) -> None:
    weights = tmp_path / "weights.pth"
    torch.save({"state_dict": create_model("ofa_mobilenetv3_tiny", num_classes=7).state_dict()}, weights)
    before = torch.get_rng_state()
    outline = check_recipe(tiny_recipe(f"model.weights={weights}"))
    assert {parameter.device.type for parameter in outline.parameters()} == {"meta"}
    assert torch.equal(torch.get_rng_state(), before)


def test_a_checkpoint_needs_no_weights_that_are_gone(tmp_path: Path) -> None:
    recipe = tiny_recipe(f"model.weights={tmp_path / 'gone.safetensors'}")
    check_recipe(recipe, resumes=True)
    with pytest.raises(WeightsError, match="cannot be read"):
        check_recipe(recipe)


def test_processes_share_a_batch_evenly() -> None:
    with pytest.raises(
        ConfigError, match=r"train\.batch_size 32 does not divide among 3 processes; make it a multiple"
    ):
        check_recipe(tiny_recipe(), num_processes=3)


def test_a_finished_run_is_trained_further_in_another_folder(trained: Run, tmp_path: Path) -> None:
    """As the message says; classes, space and splits are the same, and it begins where the other ended."""
    weights = trained.path / "supernet.safetensors"
    words = ("train.epochs=3", f"model.weights={weights}")
    message = rf"different: train.epochs\); to train it further, give another --out and model.weights={weights}"
    with pytest.raises(OfaError, match=message):
        train(tiny_recipe("train.epochs=3"), trained.path, resume=True)
    recipe = tiny_recipe(*words, "train.learning_rate=1e-30", "train.ema_decay=0", "train.weight_decay=0")
    further = train(recipe, tmp_path / "further")
    assert further.space == trained.space and further.info["data"]["classes"] == trained.info["data"]["classes"]
    assert further.info["data"]["splits"] == trained.info["data"]["splits"]
    found, expected = (load_file(run.path / "supernet.safetensors") for run in (further, trained))
    for name in (name for name in expected if "running" not in name and "num_batches" not in name):
        torch.testing.assert_close(found[name], expected[name])


def test_a_run_with_kernel_transforms_can_be_trained_further(tmp_path: Path) -> None:
    words = ("train.epochs=1", "data.limit=64", "model.kernel_transforms=true")
    first = train(tiny_recipe(*words), tmp_path / "first")
    weights = first.path / "supernet.safetensors"
    assert any("kernel_transform" in name for name in load_file(weights))
    train(tiny_recipe(*words, f"model.weights={weights}"), tmp_path / "second")
