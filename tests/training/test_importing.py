"""Supernets of others as runs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from ofa import workflow
from ofa.data import DataError
from ofa.deploy import read_bundle, verify_bundle
from ofa.errors import UsageError
from ofa.hardware import load_device
from ofa.supernet import create_supernet
from ofa.supernet.published import once_for_all
from ofa.supernet.weights import WeightsError
from ofa.training import Run, RunError

SMALL = ("model.resolution=[64]", "data.search_share=0.25", "data.test_share=0.25")
ARCH = '{"ks": 3, "e": 3, "d": 2, "r": [64]}'


def as_published(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Tensors of a preset by the names that Once-for-All's code has for them."""
    blocks = [f"blocks.{i}.conv.{layer}" for i in range(22) for layer in once_for_all._BLOCK]
    leaves = ["weight", "bias", "running_mean", "running_var", "num_batches_tracked", "7to5_matrix", "5to3_matrix"]
    named = {
        once_for_all._named_in_mobile(f"{layer}.{leaf}"): f"{layer}.{leaf}"
        for layer in [*once_for_all._OUTSIDE, *blocks]
        for leaf in leaves
    }
    return {named[name]: tensor for name, tensor in tensors.items()}


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    supernet = create_supernet("ofa_mobilenetv3_w1.0", kernel_transforms=True)
    file = tmp_path_factory.mktemp("published") / "ofa_mbv3"
    torch.save({"state_dict": as_published(supernet.model.state_dict())}, file)
    return file


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, rng = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    for synset in ("n01443537", "n01440764", "n15075141"):
        (folder / synset).mkdir()
        for number in range(8):
            pixels = rng.integers(0, 255, (70, 80, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / synset / f"{number}.jpg")
    return folder


@pytest.fixture(scope="module")
def imported(published: Path, pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    out = tmp_path_factory.mktemp("imported") / "run"
    said: list[str] = []

    def progress(done: int, total: int, what: str) -> None:
        said.append(what)

    run = workflow.import_("once-for-all", str(published), SMALL, out=out, data_root=str(pictures), progress=progress)
    assert isinstance(run, Run)
    assert any("come from 12 pictures of 3 of 1000 classes" in line for line in said)
    return run


def test_an_imported_run_is_a_run(imported: Run, published: Path) -> None:
    run = Run.open(imported.path)
    assert run.num_classes == 1000 and run.recipe.model.kernel_transforms
    data = run.data()
    assert set(data.source.labels.tolist()) == {0, 1, 999}
    assert data.classes[:2] == ("n01440764 tench", "n01443537 goldfish")
    assert data.mean == (0.485, 0.456, 0.406) and data.look["crop_pct"] == 0.875
    assert data.look["interpolation"] == "bilinear"
    own = once_for_all.converted(torch.load(published, weights_only=True)["state_dict"])
    tensors = run.supernet().model.state_dict()
    assert all(torch.equal(tensors[name], tensor) for name, tensor in own.items())
    assert run.info["origin"]["licence"] == "MIT"
    assert run.info["origin"]["network"] == "ofa_mbv3_d234_e346_k357_w1.0"
    assert 0 <= run.bounds()[0] <= 100


def test_its_page_does_not_say_that_it_was_trained(imported: Run) -> None:
    (file,) = workflow.report(imported.path)
    page = file.read_text(encoding="utf-8")
    assert "imported from https://github.com/mit-han-lab/once-for-all and judged on" in page
    assert "<dt>Licence</dt><dd>MIT</dd>" in page
    assert "trained on" not in page and "after training" not in page and "No training curves" not in page


@pytest.mark.parametrize("device", ["cpu-1t", pytest.param("openvino-1t", marks=pytest.mark.alone)])
def test_an_architecture_in_its_notation_is_exported(
    imported: Run, pictures: Path, device: str, tmp_path: Path
) -> None:
    if device == "openvino-1t":
        pytest.importorskip("openvino")
    exported = workflow.export(imported.path, device, out=tmp_path / "bundle", arch=ARCH)
    assert exported.info.arch == dict(workflow.named_arch(imported.space, ARCH))
    assert verify_bundle(tmp_path / "bundle", device=load_device(device)).ok
    card = (tmp_path / "bundle" / "README.md").read_text()
    assert "imported from https://github.com/mit-han-lab/once-for-all" in card and "licence MIT" in card
    origin = read_bundle(tmp_path / "bundle").provenance["origin"]
    assert origin == imported.info["origin"]
    judged = workflow.verify(tmp_path / "bundle", images=pictures)
    assert judged.ok and judged.checks[-1].found.endswith("of 24")


def test_it_is_fine_tuned_for_other_classes(imported: Run, tmp_path: Path) -> None:
    quickly = ("data.name=digits", "train.epochs=1", "train.batch_size=32", "data.limit=64", "train.warmup_epochs=0")
    quickly += ("data.horizontal_flip=false", "data.crop_scale=1", "train.device=cpu")
    tuned = workflow.train("finetune", quickly, run=imported.path, out=tmp_path / "all")
    assert (tuned.num_classes, tuned.space) == (10, imported.space)
    assert tuned.data().mean == (0.485, 0.456, 0.406)
    one = workflow.train("finetune", quickly, run=imported.path, arch=ARCH, out=tmp_path / "one")
    assert one.space.num_archs == 1
    assert one.space.largest() == workflow.named_arch(imported.space, ARCH)


def test_what_is_missing_is_said(published: Path, pictures: Path, imported: Run, tmp_path: Path) -> None:
    out = tmp_path / "run"
    with pytest.raises(UsageError, match=r"unknown project 'once-for-al'; did you mean 'once-for-all'"):
        workflow.import_("once-for-al", str(published), out=out)
    with pytest.raises(UsageError, match=r"ofa import once-for-all FILE --out RUN --data-root FOLDER"):
        workflow.import_("once-for-all")
    with pytest.raises(UsageError, match=r"needs pictures.*--data-root FOLDER"):
        workflow.import_("once-for-all", str(published), out=out)
    with pytest.raises(WeightsError, match=r"cannot be read"):
        workflow.import_("once-for-all", str(tmp_path / "none"), out=out, data_root=str(pictures))
    with pytest.raises(RunError, match=r"is there already"):
        workflow.import_("once-for-all", str(published), out=imported.path, data_root=str(pictures))
    (tmp_path / "photos" / "cats").mkdir(parents=True)
    (tmp_path / "photos" / "dogs").mkdir()
    for name in ("cats", "dogs"):
        Image.new("RGB", (70, 70)).save(tmp_path / "photos" / name / "1.jpg")
    with pytest.raises(DataError, match=r"unknown class of ImageNet 'cats'.*fine-tune instead"):
        workflow.import_("once-for-all", str(published), out=out, data_root=str(tmp_path / "photos"))
    with pytest.raises(UsageError, match=r"model.sort_channels is activations, .* l1 or none"):
        given = ["model.sort_channels=activations"]
        workflow.import_("timm", "mobilenetv3_small_050", given, out=out, data_root=str(pictures))
    assert not out.exists()
    with pytest.raises(UsageError, match=r"recipe finetune begins from a trained supernet; say of which, as --run RUN"):
        workflow.train("finetune", out=out)


def test_a_model_of_timm_with_weights_of_ones_own(pictures: Path, tmp_path: Path) -> None:
    model = create_supernet("mobilenetv3_small_050").model
    torch.save(model.state_dict(), tmp_path / "own.pt")
    given = (f"model.weights={tmp_path / 'own.pt'}", *SMALL)
    run = workflow.import_("timm", "mobilenetv3_small_050", given, out=tmp_path / "run", data_root=str(pictures))
    assert isinstance(run, Run) and run.num_classes == 1000 and run.info["origin"] == {"project": "timm"}


def test_what_can_be_imported_is_listed() -> None:
    rows = workflow.import_()
    assert isinstance(rows, list)
    assert {row["preset"] for row in rows} >= set(once_for_all.PRESETS)
    assert all(row["licence"] and row["where"] for row in rows)


def test_runs_of_before_keep_their_network(tmp_path: Path) -> None:
    info = {
        "model": {},
        "num_classes": 10,
        "space": {},
        "data": {},
        "recipe": {"model": {"name": "ofa_proxyless_w1.3"}},
        "weights_sha256": "",
    }
    before, since = (Run(tmp_path, info), Run(tmp_path, {**info, "preset": "as published"}))
    assert before.recipe.model.name == "ofa_proxyless_w1.3_eps1e-5"
    assert since.recipe.model.name == "ofa_proxyless_w1.3"
    with torch.device("meta"):
        eps = [create_supernet(run.recipe.model.name).model.bn1.eps for run in (before, since)]
    assert eps == [1e-5, 1e-3]
