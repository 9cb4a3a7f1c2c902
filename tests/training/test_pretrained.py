"""Pictures as pretrained weights saw them, and models of other inputs than square RGB pictures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import timm
import torch
from PIL import Image

from ofa.data import DataConfig
from ofa.training import Run, load_recipe, train
from ofa.training.pretrained import as_pretrained
from ofa.training.recipe import ModelConfig

SMALL = ("train.epochs=1", "train.batch_size=8", "train.eval_every_epochs=0", "data.crop_padding=0")


def test_weights_of_timm_bring_what_they_were_trained_on() -> None:
    """``tf_efficientnet_lite0``: mean and std of a half; 224 of 256 pixels, which timm calls 0.875; bicubic."""
    model = ModelConfig(name="tf_efficientnet_lite0", weights="elsewhere/lite0.safetensors")
    found = as_pretrained(DataConfig(), model)
    assert (found.mean, found.std) == ((0.5,) * 3, (0.5,) * 3)
    assert (found.fit, found.crop_pct, found.interpolation) == ("crop", 0.875, "bicubic")
    own = as_pretrained(DataConfig(mean=(0.1,), fit="squash"), model)
    assert (own.mean, own.std, own.fit, own.crop_pct) == ((0.1,) * 3, (0.5,) * 3, "squash", 0.875)
    assert as_pretrained(DataConfig(), ModelConfig(name="tf_efficientnet_lite0")) == DataConfig()


def test_a_detector_sees_the_whole_picture_in_its_backbone_s_colours() -> None:
    found = as_pretrained(DataConfig(), ModelConfig(name="fcos:tf_efficientnet_lite0", weights="lite0.safetensors"))
    assert (found.mean, found.std, found.fit, found.crop_pct) == ((0.5,) * 3, (0.5,) * 3, None, None)


@pytest.mark.parametrize(("crop_mode", "fit"), [("center", "crop"), ("squash", "squash"), ("border", "letterbox")])
def test_what_timm_does_with_proportions(crop_mode: str, fit: str, monkeypatch: pytest.MonkeyPatch) -> None:
    config = timm.get_pretrained_cfg("resnet18")
    assert config is not None
    monkeypatch.setattr(timm, "get_pretrained_cfg", lambda name, **_: config)
    monkeypatch.setattr(config, "crop_mode", crop_mode)
    found = as_pretrained(DataConfig(), ModelConfig(name="resnet18", pretrained=True))
    assert found.fit == fit and (found.crop_pct is None) == (fit == "letterbox")


def test_weights_of_torchvision_too() -> None:
    found = as_pretrained(DataConfig(), ModelConfig(name="torchvision:resnet18", pretrained=True))
    assert found.mean == (0.485, 0.456, 0.406) and found.interpolation == "bilinear"
    assert found.crop_pct == pytest.approx(232 / 256, abs=0.05)


def test_grey_pictures_have_the_mean_of_the_channels() -> None:
    model = ModelConfig(name="mobilenetv3_large_100", pretrained=True, in_chans=1)
    assert as_pretrained(DataConfig(), model).mean == pytest.approx([np.mean([0.485, 0.456, 0.406])] * 3)


def write_pictures(root: Path, mode: str = "RGB") -> None:
    rng = np.random.default_rng(0)
    for label in ("a", "b"):
        (root / label).mkdir(parents=True)
        for number in range(20):
            pixels = rng.integers(0, 120, (30, 90, 4), dtype=np.uint8)
            pixels[:, :45, 0] += 120 if label == "a" else 0
            Image.fromarray(pixels).convert(mode).save(root / label / f"{number:02}.png")


def trained(out: Path, root: Path, *words: str) -> Run:
    recipe = load_recipe("bignas", [*SMALL, "data.name=folder", f"data.root={root}", *words])
    return train(recipe, out)


def test_a_run_from_weights_sees_pictures_as_they_were_seen_before(tmp_path: Path) -> None:
    write_pictures(tmp_path / "pictures")
    own = ("model.name=test_efficientnet", "model.resolution=[32]", "model.depth=[1]")
    torch.manual_seed(0)
    file = tmp_path / "weights.safetensors"
    safetensors.torch.save_file(timm.create_model("test_efficientnet", num_classes=7).state_dict(), file)
    config = timm.get_pretrained_cfg("test_efficientnet")
    assert config is not None
    run = trained(tmp_path / "first", tmp_path / "pictures", *own, f"model.weights={file}")
    facts = run.info["data"]
    assert facts["mean"] == list(config.mean) and facts["crop_pct"] == config.crop_pct
    assert run.info["recipe"]["data"]["mean"] is None  # what the user said stays apart from what follows
    data = run.data()
    assert data.look["crop_pct"] == config.crop_pct and data.mean == config.mean
    settings = ("data.mean=[0.3]", "data.std=[0.2]", "data.fit=squash")
    second = trained(tmp_path / "second", tmp_path / "pictures", *own, *settings)
    further = trained(
        tmp_path / "third", tmp_path / "pictures", *own, f"model.weights={second.path}/supernet.safetensors"
    )
    assert {name: further.info["data"][name] for name in ("mean", "std", "fit")} == {
        "mean": [0.3] * 3,
        "std": [0.2] * 3,
        "fit": "squash",
    }


@pytest.mark.parametrize(
    ("mode", "words", "shape"),
    [
        ("L", ("model.in_chans=1",), (1, 32, 32)),
        ("RGBA", ("model.in_chans=4",), (4, 32, 32)),
        ("RGB", ("model.input_size=[32,96]",), (3, 32, 96)),
    ],
)
def test_a_run_of_other_inputs(mode: str, words: tuple[str, ...], shape: tuple[int, ...], tmp_path: Path) -> None:
    write_pictures(tmp_path / "pictures", mode)
    own = (
        "model.name=ofa_mobilenetv3_tiny",
        "model.resolution=[20,32]",
        "data.crop_scale=0.5",
        "data.random_erasing=0.5",
    )
    run = trained(tmp_path / "run", tmp_path / "pictures", *own, *words)
    reopened = Run.open(run.path)
    supernet = reopened.supernet()
    assert supernet.input_shape(supernet.space.largest())[-3:] == shape
    for resolution in (20, 32):
        images, _ = next(reopened.data().batches("search", batch_size=4, image_size=resolution))
        assert images.shape[1:] == (shape[0], resolution, resolution * shape[2] // shape[1])
        assert supernet(images, arch={**supernet.space.smallest(), "resolution": resolution}).shape == (4, 2)
    plain: dict[str, Any] = json.loads((run.path / "supernet.json").read_text())
    assert plain["space_name"].startswith("ofa_mobilenetv3_tiny-") and plain["data"]["input_shape"][0] == shape[0]
    assert reopened.space_name == plain["space_name"]
